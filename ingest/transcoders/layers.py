"""Files that hold one layer each: which file is which layer, and what a file's tensors are called in it.

A file is recognised by its content:

.npz                    Gemma Scope: W_enc (d, f), W_dec (f, d), b_enc, b_dec, threshold
safetensors with w_enc  Gemma Scope 2: w_enc (d, f), w_dec (f, d) or, cross-layer, (f, L, d) of which the layers below are
                        not used, b_enc, b_dec, threshold [, affine_skip_connection (d, d): x @ it is added]
other safetensors       circuit-tracer: W_enc (f, d), W_dec (f, d), b_enc, b_dec [, W_skip] [, activation_function.threshold]
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from atlas.errors import ModelRejected
from ingest.models.base import Model
from ingest.transcoders.npz import is_npz, read_npz
from ingest.transcoders.parts import build, fits_in_memory, read_safetensors
from ingest.transcoders.set import Transcoder

CIRCUIT_TRACER = {
    "w_enc": "W_enc",
    "b_enc": "b_enc",
    "w_dec": "W_dec",
    "b_dec": "b_dec",
    "threshold": "activation_function.threshold",
    "w_skip": "W_skip",
}
_GEMMA_SCOPE = {**CIRCUIT_TRACER, "threshold": "threshold", "w_skip": "W_skip"}
_GEMMA_SCOPE_2 = {name: name for name in CIRCUIT_TRACER} | {"w_skip": "affine_skip_connection"}


def load_layers(
    files: Sequence[Path], model: Model, *, top_k: int | None = None, cross_layer: bool | None = None
) -> list[Transcoder]:
    """The layers of `files`, in order. cross_layer: what their config says; None: what the first file holds.

    Raises ModelRejected.
    """
    resident = fits_in_memory(files, model)
    layers = []
    for i, file in enumerate(files):
        parts, names = _read(file)
        decoder = parts.get("w_dec")
        if cross_layer is None:
            cross_layer = decoder is not None and decoder.ndim == 3
        if cross_layer and decoder is not None and decoder.ndim == 3:
            if decoder.shape[1] != model.n_layers:
                raise ModelRejected(
                    f"{names['w_dec']} in {file} writes to {decoder.shape[1]} layers, the model {model.name} has "
                    f"{model.n_layers}.",
                    "Pass the set that was trained on this model.",
                )
            parts["w_dec"] = decoder[:, i:]
        written = model.n_layers - i if cross_layer else None
        layers.append(build(file, parts, names, model, resident=resident, top_k=top_k, layers_written=written))
    return layers


def _read(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors by the names of `build`, and what the file calls them."""
    if is_npz(file):
        tensors, names = read_npz(file), _GEMMA_SCOPE
    else:
        tensors = read_safetensors(file)
        names = _GEMMA_SCOPE_2 if "w_enc" in tensors else CIRCUIT_TRACER
    parts = {name: tensors[key] for name, key in names.items() if key in tensors}
    if names is not CIRCUIT_TRACER:
        turn(parts, "w_enc")
        if "threshold" not in parts:  # without it the file would pass for a ReLU
            raise ModelRejected(f"{file} has no tensor {names['threshold']}.", "Fetch the set again.")
    if names is _GEMMA_SCOPE_2:
        turn(parts, "w_skip")
    return parts, names


def turn(parts: dict[str, torch.Tensor], name: str) -> None:
    """Transpose a matrix, as a view; what is no matrix is left for `build` to refuse."""
    if name in parts and parts[name].ndim == 2:
        parts[name] = parts[name].T


def below(folder: Path, name: str, deepest: int = 3) -> list[Path]:
    """Files of this name in the folder and so many levels below, as paths in it; a home folder given by mistake is not searched through."""
    found = (file for depth in range(deepest + 1) for file in folder.glob("*/" * depth + name))
    return sorted(file.relative_to(folder) for file in found)


def in_order(found: dict[int, Path], pattern: str, folder: Path, model: Model) -> list[Path]:
    """The files of all layers. pattern: what they are called, with {} for the layer. Raises ModelRejected: other layers."""
    if not found:
        raise ModelRejected(f"The transcoder set {folder} holds no {pattern.format(0)}.", "Fetch the set again.")
    count = max(found) + 1
    absent = sorted(set(range(max(count, model.n_layers))) - set(found))
    if count > model.n_layers or (absent and absent[0] >= count):
        raise ModelRejected(
            f"The transcoder set {folder} has {count} layers, the model {model.name} has {model.n_layers}.",
            "Pass the set that was trained on this model.",
        )
    if absent:
        raise ModelRejected(f"The transcoder set {folder} lacks {pattern.format(absent[0])}.", "Fetch the set again.")
    return [found[i] for i in range(count)]


def only_one(choices: dict[int, list[Path]]) -> dict[int, Path]:
    """The one file of each layer, of paths in a set's folder. Raises ModelRejected where there are several."""
    for layer, files in sorted(choices.items()):
        if len(files) > 1:
            named = " and ".join(file.parent.as_posix() for file in sorted(files)[:2])
            more = f" and {len(files) - 2} more" if len(files) > 2 else ""
            raise ModelRejected(
                f"The transcoder set has {len(files)} choices for layer {layer}: {named}{more}.",
                "Keep one per layer in a folder, or list one file per layer (hf:// or in the folder) under `transcoders` in a "
                "config.yaml.",
            )
    return {layer: files[0] for layer, files in choices.items()}


def read_json(file: Path) -> dict[str, Any]:
    """A table. Raises ModelRejected."""
    try:
        table = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ModelRejected(f"{file} cannot be read.", "Fetch the set again.") from error
    if not isinstance(table, dict):
        raise ModelRejected(f"{file} is not a table.", "Fetch the set again.")
    return table


def same_hooks(hooks: dict[int, tuple[str, str]], folder: Path) -> dict[str, Any]:
    """The config of a set whose layers all read and write at these hooks. Raises ModelRejected where they differ."""
    first = hooks[min(hooks)]
    other = next((layer for layer, pair in sorted(hooks.items()) if pair != first), None)
    if other is not None:
        raise ModelRejected(
            f"The transcoder set {folder} reads {first[0]} and writes {first[1]} in layer {min(hooks)}, but "
            f"{hooks[other][0]} and {hooks[other][1]} in layer {other}.",
            "Pass a set of one kind.",
        )
    return {"feature_input_hook": first[0], "feature_output_hook": first[1]}
