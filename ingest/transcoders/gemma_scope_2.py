"""Gemma Scope 2: safetensors with w_enc, w_dec, b_enc, b_dec, threshold [, affine_skip_connection] and a config.json.

Per layer: [.../]layer_{i}_width_*_l0_*/params.safetensors with a config.json beside each. Cross-layer: params_layer_{i}.safetensors,
with one config.json beside them. config.json: type (transcoder, sae, ...), hf_hook_point_in and hf_hook_point_out, names of the
model's modules, whose layer number must be the folder's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from atlas.errors import ModelRejected
from ingest.models.base import Model
from ingest.transcoders.layers import below, in_order, load_layers, only_one, read_json, same_hooks
from ingest.transcoders.set import Transcoder

# modules of transformers' Gemma 3. The norm's output has its weight in; the post-norm's output is added to the stream
INPUTS = {"pre_feedforward_layernorm.output": "mlp.hook_in", "mlp.input": "mlp.hook_in"}
OUTPUTS = {"post_feedforward_layernorm.output": "hook_mlp_out", "mlp.output": "mlp.hook_out"}
_PER_LAYER, _CROSS_LAYER = "layer_{}_width_*_l0_*/params.safetensors", "params_layer_{}.safetensors"


def fits(folder: Path) -> bool:
    return bool(_cross_layer(folder) or _per_layer(folder))


def load(folder: Path, model: Model) -> tuple[dict[str, Any], list[Path], list[Transcoder]]:
    """(config, weight files, layers). Raises ModelRejected."""
    if shared := _cross_layer(folder):
        files = in_order(shared, _CROSS_LAYER, folder, model)
        table = _table(folder)
        _check_kind(folder, table)
        hooks = {layer: _hooks(folder, table, layer) for layer in shared}
        return _config(table, hooks, folder), files, load_layers(files, model, cross_layer=True)
    choices = _per_layer(folder)
    tables = {file: _table(folder / file.parent) for files in choices.values() for file in files}
    wanted = {layer: [file for file in files if _is_transcoder(tables[file])] for layer, files in choices.items()}
    wanted = {layer: files for layer, files in wanted.items() if files}
    if not wanted:
        first = min(tables)
        _check_kind(folder / first.parent, tables[first])
    chosen = only_one(wanted)
    files = in_order({layer: folder / file for layer, file in chosen.items()}, _PER_LAYER, folder, model)
    hooks = {layer: _hooks(folder / file.parent, tables[file], layer) for layer, file in chosen.items()}
    return _config(tables[chosen[0]], hooks, folder), files, load_layers(files, model, cross_layer=False)


def _cross_layer(folder: Path) -> dict[int, Path]:
    found = (
        (re.fullmatch(r"params_layer_(\d+)\.safetensors", file.name), file) for file in folder.glob("params_layer_*")
    )
    return {int(number[1]): file for number, file in found if number}


def by_layer(files: list[Path]) -> dict[int, list[Path]]:
    """The params.safetensors of each layer, of paths in a set's folder."""
    choices: dict[int, list[Path]] = {}
    for file in files:
        if file.name == "params.safetensors" and (number := re.match(r"layer_(\d+)(?![\d])", file.parent.name)):
            choices.setdefault(int(number[1]), []).append(file)
    return choices


def _per_layer(folder: Path) -> dict[int, list[Path]]:
    return by_layer(below(folder, "params.safetensors"))


def _table(place: Path) -> dict[str, Any]:
    if not (place / "config.json").is_file():
        raise ModelRejected(
            f"{place} has no config.json, so its hooks are not known.",
            "Fetch it too, or write a config.yaml that names the hooks and lists one file per layer under `transcoders`.",
        )
    return read_json(place / "config.json")


def _is_transcoder(table: dict[str, Any]) -> bool:
    return table.get("type", "transcoder") == "transcoder" and table.get("hf_hook_point_in") != table.get(
        "hf_hook_point_out"
    )


def _check_kind(place: Path, table: dict[str, Any]) -> None:
    """Raises ModelRejected for an SAE or a crosscoder."""
    kind = table.get("type", "transcoder")
    if kind == "crosscoder":
        raise ModelRejected(
            f"{place} holds a crosscoder, which reads several layers at once.", "Pass a set of transcoders."
        )
    if kind == "sae" or table.get("hf_hook_point_in") == table.get("hf_hook_point_out"):
        raise ModelRejected(
            f"{place} holds an SAE of {table.get('hf_hook_point_in')}, not a transcoder.",
            "Pass a set that replaces the MLPs.",
        )


def _config(table: dict[str, Any], hooks: dict[int, tuple[str, str]], folder: Path) -> dict[str, Any]:
    return same_hooks(hooks, folder) | {"model_name": table.get("model_name")}


def _hooks(place: Path, table: dict[str, Any], layer: int) -> tuple[str, str]:
    if table.get("architecture", "jump_relu") != "jump_relu":
        raise ModelRejected(
            f"config.json in {place} has the architecture {table['architecture']!r}, which is not known.",
            "Known: jump_relu.",
        )
    return _hook(place, table, "hf_hook_point_in", INPUTS, layer), _hook(
        place, table, "hf_hook_point_out", OUTPUTS, layer
    )


def _hook(place: Path, table: dict[str, Any], key: str, known: dict[str, str], layer: int) -> str:
    name = table.get(key)
    if isinstance(name, list):  # a cross-layer set names the modules of all layers
        name = name[layer] if layer < len(name) else None
    hook, number = module_hook(name, known)
    if hook is None:
        raise ModelRejected(
            f"config.json in {place} has the {key} {name!r}, which is not known.", f"Known modules: {', '.join(known)}."
        )
    if number.isdigit() and int(number) != layer and table.get("type") != "clt":
        raise ModelRejected(
            f"config.json in {place} has the {key} {name!r}, which is not of layer {layer}.", "Fetch the set again."
        )
    return hook


def module_hook(name: object, known: dict[str, str]) -> tuple[str | None, str]:
    """(hook, layer as it is written) of a module's name such as model.layers.5.mlp.output; (None, "") if it is not known."""
    found = re.fullmatch(r"(?:\w+\.)*layers\.([^.]+)\.(.+)", name) if isinstance(name, str) else None
    return (known.get(found[2]), found[1]) if found else (None, "")
