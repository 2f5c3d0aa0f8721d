"""circuit-tracer's layouts: `config.yaml` beside safetensors.

config.yaml: model_name, scan, model_kind, feature_input_hook, feature_output_hook [, top_k: an integer, for sets that keep the
k largest instead of a ReLU; a key of this project].

`transcoder_set`: layer_{i}.safetensors with W_enc (f, d), b_enc (f), W_dec (f, d), b_dec (d), optional W_skip (d, d; x @ W_skip.T
is added to the output) and activation_function.threshold (f; JumpReLU).
`cross_layer_transcoder`: W_enc_{i}.safetensors with W_enc_{i} (f, d), b_enc_{i} (f), b_dec_{i} (d), optional threshold_{i} (f) and
W_skip_{i} (d, d); W_dec_{i}.safetensors with W_dec_{i} (f, L - i, d), of which [:, k] writes at layer i + k.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from atlas.errors import ModelRejected
from ingest.models.base import INPUT_HOOKS, OUTPUT_HOOKS, Model
from ingest.transcoders.parts import build, fits_in_memory, read_safetensors
from ingest.transcoders.set import Transcoder

_NAMES = {
    "w_enc": "W_enc",
    "b_enc": "b_enc",
    "w_dec": "W_dec",
    "b_dec": "b_dec",
    "threshold": "activation_function.threshold",
    "w_skip": "W_skip",
}
_KINDS = ("transcoder_set", "cross_layer_transcoder")


def fits(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


def load(folder: Path, model: Model) -> tuple[dict[str, Any], list[Path], list[Transcoder]]:
    """(config, weight files, layers). Raises ModelRejected."""
    config = _read_config(folder)
    if config.get("model_kind", "transcoder_set") == "cross_layer_transcoder":
        files, layers = _load_cross_layer(folder, config, model)
    else:
        files, layers = _load_per_layer(folder, config, model)
    return config, files, layers


def _load_per_layer(folder: Path, config: dict[str, Any], model: Model) -> tuple[list[Path], list[Transcoder]]:
    files = _numbered(folder, "layer_{}.safetensors", model)
    resident = fits_in_memory(files, model)
    layers = []
    for file in files:
        tensors = read_safetensors(file)
        parts = {name: tensors[key] for name, key in _NAMES.items() if key in tensors}
        layers.append(build(file, parts, _NAMES, model, resident=resident, top_k=config.get("top_k")))
    return files, layers


def _load_cross_layer(folder: Path, config: dict[str, Any], model: Model) -> tuple[list[Path], list[Transcoder]]:
    encoders = _numbered(folder, "W_enc_{}.safetensors", model)
    decoders = _numbered(folder, "W_dec_{}.safetensors", model)
    resident = fits_in_memory(encoders + decoders, model)
    layers = []
    for i, (encoder, decoder) in enumerate(zip(encoders, decoders, strict=True)):
        names = {name: f"{key}_{i}" for name, key in _NAMES.items()} | {"threshold": f"threshold_{i}"}
        tensors = read_safetensors(encoder) | read_safetensors(decoder)
        parts = {name: tensors[key] for name, key in names.items() if key in tensors}
        layers.append(
            build(
                decoder if names["w_dec"] not in tensors else encoder,
                parts,
                names,
                model,
                resident=resident,
                top_k=config.get("top_k"),
                layers_written=model.n_layers - i,
            )
        )
    return encoders + decoders, layers


def _numbered(folder: Path, pattern: str, model: Model) -> list[Path]:
    """The files of all layers, in order."""
    expression = re.escape(pattern).replace(r"\{\}", r"(\d+)")
    there = {int(m[1]): f for f in folder.iterdir() if (m := re.fullmatch(expression, f.name))}
    if not there:
        raise ModelRejected(f"The transcoder set {folder} holds no {pattern.format(0)}.", "Fetch the set again.")
    count = max(there) + 1
    absent = sorted(set(range(max(count, model.n_layers))) - set(there))
    if count > model.n_layers or (absent and absent[0] >= count):
        raise ModelRejected(
            f"The transcoder set {folder} has {count} layers, the model {model.name} has {model.n_layers}.",
            "Pass the set that was trained on this model.",
        )
    if absent:
        raise ModelRejected(f"The transcoder set {folder} lacks {pattern.format(absent[0])}.", "Fetch the set again.")
    return [there[i] for i in range(count)]


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelRejected(
            f"config.yaml of the transcoder set {folder} cannot be read.", "Fetch the set again."
        ) from error
    if not isinstance(config, dict):
        raise ModelRejected(f"config.yaml of the transcoder set {folder} is not a table.", "Fetch the set again.")
    kind = config.get("model_kind", "transcoder_set")
    if kind not in _KINDS:
        raise ModelRejected(
            f"The transcoder set {folder} is of the kind {kind!r}, which is not known.", f"Known: {', '.join(_KINDS)}."
        )
    if "transcoders" in config:
        raise ModelRejected(
            f"config.yaml of the transcoder set {folder} lists files elsewhere, which cannot be followed yet.",
            "Put layer_0.safetensors and so on into its folder.",
        )
    for key, known in (("feature_input_hook", INPUT_HOOKS), ("feature_output_hook", OUTPUT_HOOKS)):
        if config.get(key) not in known:
            raise ModelRejected(
                f"config.yaml of the transcoder set {folder} has the {key} {config.get(key)!r}, which is not known.",
                f"Known: {', '.join(known)}.",
            )
    if not isinstance(config.get("top_k", 1), int):
        raise ModelRejected(
            f"config.yaml of the transcoder set {folder} has the top_k {config['top_k']!r}, not a whole number.",
            "Mend it.",
        )
    return config
