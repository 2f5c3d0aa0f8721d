"""circuit-tracer's layout: `config.yaml` and one `layer_{i}.safetensors` per layer.

config.yaml: model_name, scan, model_kind (`transcoder_set`), feature_input_hook, feature_output_hook.
layer_{i}.safetensors: W_enc (f, d), b_enc (f), W_dec (f, d), b_dec (d), optional W_skip (d, d; x @ W_skip.T is added to the
output) and activation_function.threshold (f; JumpReLU). Cross-layer sets (`cross_layer_transcoder`) are refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from atlas.errors import ModelRejected
from ingest.models.base import INPUT_HOOKS, OUTPUT_HOOKS, Model
from ingest.transcoders.set import Transcoder

_KEYS = {
    "w_enc": "W_enc",
    "b_enc": "b_enc",
    "w_dec": "W_dec",
    "b_dec": "b_dec",
    "threshold": "activation_function.threshold",
    "w_skip": "W_skip",
}
_OPTIONAL = {"threshold", "w_skip"}


def fits(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


def load(folder: Path, model: Model) -> tuple[dict[str, Any], list[Path], list[Transcoder]]:
    """(config, weight files, layers on the model's device in its dtype). Raises ModelRejected."""
    config = _read_config(folder)
    there = {int(m[1]): f for f in folder.iterdir() if (m := re.fullmatch(r"layer_(\d+)\.safetensors", f.name))}
    if not there:
        raise ModelRejected(f"The transcoder set {folder} holds no layer_0.safetensors.", "Fetch the set again.")
    count = max(there) + 1
    absent = sorted(set(range(max(count, model.n_layers))) - set(there))
    if count > model.n_layers or (absent and absent[0] >= count):
        raise ModelRejected(
            f"The transcoder set {folder} has {count} layers, the model {model.name} has {model.n_layers}.",
            "Pass the set that was trained on this model.",
        )
    if absent:
        raise ModelRejected(f"The transcoder set {folder} lacks layer_{absent[0]}.safetensors.", "Fetch the set again.")
    files = [there[i] for i in range(count)]
    return config, files, [_read_layer(file, model) for file in files]


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
    if kind == "cross_layer_transcoder":
        raise ModelRejected(
            f"The transcoder set {folder} is cross-layer, which cannot be traced yet.", "Use a per-layer set."
        )
    if kind != "transcoder_set":
        raise ModelRejected(
            f"The transcoder set {folder} is of the kind {kind!r}, which is not known.", "Known: transcoder_set."
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
    return config


def _read_layer(file: Path, model: Model) -> Transcoder:
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelRejected(f"{file} is not a readable safetensors file.", "Fetch the set again.") from error
    for name, key in _KEYS.items():
        if key not in tensors and name not in _OPTIONAL:
            raise ModelRejected(f"{file} has no tensor {key}.", "Fetch the set again.")
    if tensors["W_enc"].ndim != 2:
        raise ModelRejected(f"W_enc in {file} has {tensors['W_enc'].ndim} dimensions, not 2.", "Fetch the set again.")
    rows, width = tensors["W_enc"].shape
    if width != model.width:
        raise ModelRejected(
            f"The transcoders in {file} have width {width}, the model {model.name} has {model.width}.",
            "Pass the set that was trained on this model.",
        )
    shapes = {"w_enc": (rows, width), "b_enc": (rows,), "w_dec": (rows, width), "b_dec": (width,)}
    shapes |= {"threshold": (rows,), "w_skip": (width, width)}
    parts: dict[str, torch.Tensor] = {}
    for name, key in _KEYS.items():
        if key not in tensors:
            continue
        tensor = tensors[key]
        if tuple(tensor.shape) != shapes[name]:
            raise ModelRejected(
                f"{key} in {file} has the shape {tuple(tensor.shape)}, not {shapes[name]}.", "Fetch the set again."
            )
        if not tensor.is_floating_point():
            raise ModelRejected(f"{key} in {file} holds no floating-point numbers.", "Fetch the set again.")
        if not torch.isfinite(tensor).all():
            raise ModelRejected(f"{key} in {file} holds NaN or infinity.", "Fetch or train the set again.")
        parts[name] = tensor.to(model.device, model.dtype).contiguous()
    return Transcoder(**parts)
