"""SAELens transcoders: one folder per layer with cfg.json and sae_weights.safetensors.

cfg.json: architecture; hook_name and hook_name_out (there or under `metadata`), TransformerLens names such as
blocks.3.ln2.hook_normalized; k or activation_fn "topk" with activation_fn_kwargs.k. Weights: W_enc (d, f), W_dec (f, d), b_enc,
b_dec, threshold of a JumpReLU, W_skip (d, d; x @ W_skip.T is added) of a skip transcoder. SAELens applies a ReLU beside a
threshold and beside the choice of the k largest. Options that change what is computed are refused, not guessed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from atlas.errors import ModelRejected
from ingest.models.base import INPUT_HOOKS, OUTPUT_HOOKS, Model
from ingest.transcoders import gemma_scope_2
from ingest.transcoders.layers import CIRCUIT_TRACER, below, in_order, only_one, read_json, same_hooks, turn
from ingest.transcoders.parts import build, fits_in_memory, read_safetensors
from ingest.transcoders.set import Transcoder

WEIGHTS = "sae_weights.safetensors"
# architecture -> tensors that it has beside the four; the first four are SAELens' own, the others are also met with
# hook_name_out in files that were written before SAELens had a class for transcoders
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "transcoder": (),
    "skip_transcoder": ("w_skip",),
    "jumprelu_transcoder": ("threshold",),
    "jumprelu_skip_transcoder": ("threshold", "w_skip"),
    "topk_transcoder": (),
    "topk_skip_transcoder": ("w_skip",),
    "standard": (),
    "jumprelu": ("threshold",),
    "topk": (),
}
_NAMES = CIRCUIT_TRACER | {"threshold": "threshold"}
_NEUTRAL = {
    "normalize_activations": (None, "none"),
    "reshape_activations": (None, "none"),
    "apply_b_dec_to_input": (None, False),
    "rescale_acts_by_decoder_norm": (None, False),
    "finetuning_scaling_factor": (None, False),
    "hook_head_index": (None,),
    "hook_head_index_out": (None,),
}


def fits(folder: Path) -> bool:
    return bool(_weights(folder))


def load(folder: Path, model: Model) -> tuple[dict[str, Any], list[Path], list[Transcoder]]:
    """(config, weight files, layers). Raises ModelRejected."""
    choices: dict[int, list[Path]] = {}
    tables, hooks = {}, {}
    for file in _weights(folder):
        place = folder / file.parent
        table = read_json(place / "cfg.json")
        layer, pair = _hooks(place, table)
        tables[folder / file] = table
        hooks[layer] = pair
        choices.setdefault(layer, []).append(file)
    found = {layer: folder / file for layer, file in only_one(choices).items()}
    files = in_order(found, "folder of layer {}", folder, model)
    resident = fits_in_memory(files, model)
    layers = [_layer(file, tables[file], model, resident) for file in files]
    name = _entry(tables[files[0]], "model_name")
    return same_hooks(hooks, folder) | {"model_name": name}, files, layers


def _weights(folder: Path) -> list[Path]:
    return [file for file in below(folder, WEIGHTS) if (folder / file.parent / "cfg.json").is_file()]


def _entry(table: dict[str, Any], key: str) -> Any:
    metadata = table.get("metadata")
    beside = metadata.get(key) if isinstance(metadata, dict) else None
    return table.get(key) if table.get(key) is not None else beside


def _hooks(place: Path, table: dict[str, Any]) -> tuple[int, tuple[str, str]]:
    """(layer, (input hook, output hook)). Raises ModelRejected, also for an SAE."""
    architecture, read, written = table.get("architecture"), _entry(table, "hook_name"), _entry(table, "hook_name_out")
    if "transcoder" not in str(architecture) and written in (None, "", read):
        raise ModelRejected(f"{place} holds an SAE of {read}, not a transcoder.", "Pass a set that replaces the MLPs.")
    if architecture not in ARCHITECTURES:
        raise ModelRejected(
            f"cfg.json in {place} has the architecture {architecture!r}, which is not known.",
            f"Known: {', '.join(ARCHITECTURES)}.",
        )
    for key, neutral in _NEUTRAL.items():
        value = _entry(table, key)
        if value not in neutral:
            raise ModelRejected(
                f"cfg.json in {place} has the {key} {value!r}, which changes what its features are.",
                "Fold it into the weights with SAELens and save the set again.",
            )
    layer_in, hook_in = _hook(place, table, "hook_name", "hf_hook_name", INPUT_HOOKS, gemma_scope_2.INPUTS)
    layer_out, hook_out = _hook(place, table, "hook_name_out", "hf_hook_name_out", OUTPUT_HOOKS, gemma_scope_2.OUTPUTS)
    if layer_in != layer_out:
        raise ModelRejected(
            f"{place} reads layer {layer_in} and writes layer {layer_out}: it replaces no MLP.",
            "Pass transcoders that read and write the same layer.",
        )
    return layer_in, (hook_in, hook_out)


def _hook(
    place: Path, table: dict[str, Any], key: str, module_key: str, known: tuple[str, ...], modules: dict[str, str]
) -> tuple[int, str]:
    # a module's name is looked at first: hook_mlp_in lies before the norm in one of TransformerLens' classes, after it in another
    hook, layer = gemma_scope_2.module_hook(_entry(table, module_key), modules)
    if hook is None or not layer.isdigit():
        name = _entry(table, key)
        found = re.fullmatch(r"blocks\.(\d+)\.(.+)", name) if isinstance(name, str) else None
        if found is None or found[2] not in known:
            raise ModelRejected(
                f"cfg.json in {place} has the {key} {name!r}, which is not a hook of an MLP that is known.",
                f"Known: {', '.join('blocks.N.' + hook for hook in known)}.",
            )
        layer, hook = found[1], found[2]
    return int(layer), hook


def _layer(file: Path, table: dict[str, Any], model: Model, resident: bool) -> Transcoder:
    architecture = table["architecture"]
    tensors = read_safetensors(file)
    wanted = ("w_enc", "b_enc", "w_dec", "b_dec", *ARCHITECTURES[architecture])
    parts = {name: tensors[_NAMES[name]] for name in wanted if _NAMES[name] in tensors}
    for name in ARCHITECTURES[architecture]:
        if name not in parts:
            raise ModelRejected(f"{file} has no tensor {_NAMES[name]}.", "Fetch the set again.")
    top_k = _top_k(file.parent, table)
    if "threshold" in parts:
        parts["threshold"] = parts["threshold"].clamp(min=0)
    elif top_k is not None and "b_enc" in parts:
        parts["threshold"] = torch.zeros_like(parts["b_enc"])
    turn(parts, "w_enc")
    return build(file, parts, _NAMES, model, resident=resident, top_k=top_k)


def _top_k(place: Path, table: dict[str, Any]) -> int | None:
    activation = table.get("activation_fn", table.get("activation_fn_str"))
    if activation not in (None, "relu", "topk"):
        raise ModelRejected(
            f"cfg.json in {place} has the activation_fn {activation!r}, which is not known.", "Known: relu, topk."
        )
    if activation != "topk" and not table["architecture"].startswith("topk"):
        return None
    arguments = table.get("activation_fn_kwargs")
    k = table.get("k", arguments.get("k") if isinstance(arguments, dict) else None)
    if not isinstance(k, int) or isinstance(k, bool):
        raise ModelRejected(f"cfg.json in {place} keeps the k largest, but its k is {k!r}.", "Fetch the set again.")
    return k
