"""circuit-tracer's layouts: `config.yaml` beside safetensors.

config.yaml: model_name, scan, model_kind, feature_input_hook, feature_output_hook [, top_k: an integer, for sets that keep the
k largest instead of a ReLU; a key of this project] [, transcoders: one file per layer, in order, of any kind that `layers` knows,
paths in the folder or hf://OWNER/NAME/FILE?revision=...].

`transcoder_set`: layer_{i}.safetensors with W_enc (f, d), b_enc (f), W_dec (f, d), b_dec (d), optional W_skip (d, d; x @ W_skip.T
is added to the output) and activation_function.threshold (f; JumpReLU).
`cross_layer_transcoder`: W_enc_{i}.safetensors with W_enc_{i} (f, d), b_enc_{i} (f), b_dec_{i} (d), optional threshold_{i} (f) and
W_skip_{i} (d, d); W_dec_{i}.safetensors with W_dec_{i} (f, L - i, d), of which [:, k] writes at layer i + k.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import yaml

from atlas.errors import ModelRejected
from ingest.models.base import INPUT_HOOKS, OUTPUT_HOOKS, Model
from ingest.models.files import fetch_file
from ingest.transcoders.layers import CIRCUIT_TRACER, in_order, load_layers
from ingest.transcoders.parts import build, fits_in_memory, read_safetensors
from ingest.transcoders.set import Transcoder

_KINDS = ("transcoder_set", "cross_layer_transcoder")


def fits(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


def load(folder: Path, model: Model) -> tuple[dict[str, Any], list[Path], list[Transcoder]]:
    """(config, weight files, layers). Raises ModelRejected."""
    config = _read_config(folder)
    if "transcoders" in config:
        files, layers = _load_listed(folder, config, model)
    elif config.get("model_kind", "transcoder_set") == "cross_layer_transcoder":
        files, layers = _load_cross_layer(folder, config, model)
    else:
        files, layers = _load_per_layer(folder, config, model)
    return config, files, layers


def _load_per_layer(folder: Path, config: dict[str, Any], model: Model) -> tuple[list[Path], list[Transcoder]]:
    files = _numbered(folder, "layer_{}.safetensors", model)
    return files, load_layers(files, model, top_k=config.get("top_k"), cross_layer=False)


def _load_listed(folder: Path, config: dict[str, Any], model: Model) -> tuple[list[Path], list[Transcoder]]:
    entries = config["transcoders"]
    if len(entries) != model.n_layers:
        raise ModelRejected(
            f"config.yaml of the transcoder set {folder} lists {len(entries)} transcoders, the model {model.name} has "
            f"{model.n_layers} layers.",
            "Pass the set that was trained on this model.",
        )
    files = [_listed(folder, entry) for entry in entries]
    cross_layer = config.get("model_kind") == "cross_layer_transcoder"
    return files, load_layers(files, model, top_k=config.get("top_k"), cross_layer=cross_layer)


def _listed(folder: Path, entry: str) -> Path:
    """The file of an entry: a path in the set's folder, or hf://OWNER/NAME/FILE[?revision=...], which is fetched."""
    if entry.startswith("hf://"):
        url = urlparse(entry)
        name, _, file = url.path.strip("/").partition("/")
        if not (url.netloc and name and file):
            raise ModelRejected(
                f"config.yaml of the transcoder set {folder} lists {entry!r}, which is no file on the hub.",
                "Write hf://OWNER/NAME/FILE.",
            )
        revision = parse_qs(url.query).get("revision", [None])[0]
        return fetch_file(f"{url.netloc}/{name}", file, revision, "transcoder file")
    inside = posixpath.normpath(entry)
    if inside.startswith(("/", "..")) or "\\" in inside:
        raise ModelRejected(
            f"config.yaml of the transcoder set {folder} lists {entry!r}, which is not in its folder.",
            "Write paths from its folder, or hf://OWNER/NAME/FILE.",
        )
    if not (folder / inside).is_file():
        raise ModelRejected(f"The transcoder set {folder} lacks {entry}.", "Fetch the set again.")
    return folder / inside


def _load_cross_layer(folder: Path, config: dict[str, Any], model: Model) -> tuple[list[Path], list[Transcoder]]:
    encoders = _numbered(folder, "W_enc_{}.safetensors", model)
    decoders = _numbered(folder, "W_dec_{}.safetensors", model)
    resident = fits_in_memory(encoders + decoders, model)
    layers = []
    for i, (encoder, decoder) in enumerate(zip(encoders, decoders, strict=True)):
        names = {name: f"{key}_{i}" for name, key in CIRCUIT_TRACER.items()} | {"threshold": f"threshold_{i}"}
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
    found = {int(m[1]): f for f in folder.iterdir() if (m := re.fullmatch(expression, f.name))}
    return in_order(found, pattern, folder, model)


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
    listed = config.get("transcoders", [])
    if not isinstance(listed, list) or not all(isinstance(entry, str) and entry.strip() for entry in listed):
        raise ModelRejected(
            f"The transcoders in config.yaml of the transcoder set {folder} are not a list of files.",
            "List one file per layer.",
        )
    for key, known in (("feature_input_hook", INPUT_HOOKS), ("feature_output_hook", OUTPUT_HOOKS)):
        if config.get(key) not in known:
            raise ModelRejected(
                f"config.yaml of the transcoder set {folder} has the {key} {config.get(key)!r}, which is not known.",
                f"Known: {', '.join(known)}.",
            )
    activation = config.get("activation")
    if activation not in (None, "relu", "jump_relu", "jumprelu", "topk") or (
        activation == "topk" and "top_k" not in config
    ):
        raise ModelRejected(
            f"config.yaml of the transcoder set {folder} has the activation {activation!r}, which "
            + ("needs a top_k." if activation == "topk" else "is not known."),
            "Write how many features are kept, such as top_k: 128."
            if activation == "topk"
            else "Known: relu, jump_relu, topk.",
        )
    if not isinstance(config.get("top_k", 1), int):
        raise ModelRejected(
            f"config.yaml of the transcoder set {folder} has the top_k {config['top_k']!r}, not a whole number.",
            "Mend it.",
        )
    return config
