"""Gemma Scope transcoders: layer_{i}/width_*/average_l0_*/params.npz, one choice per layer.

params.npz: W_enc (d, f), W_dec (f, d), b_enc (f), b_dec (d), threshold (f; JumpReLU). They read the MLP's input before the
norm's weight and write what is added to the stream, after the post-norm (Lieberum et al. 2024, *Gemma Scope*, "Language
model technical details", and the model card of the transcoders).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from atlas.errors import ModelRejected
from ingest.models.base import Model
from ingest.transcoders.layers import below, in_order, load_layers, only_one
from ingest.transcoders.set import Transcoder

HOOKS = {"feature_input_hook": "ln2.hook_normalized", "feature_output_hook": "hook_mlp_out"}
# the SAEs of the same release have the same files with the same tensors; only the name of the repository tells
_SAES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
_SAE_NAME = re.compile(r"gemma-scope-\w+-\w+-(res|mlp|att)(?![a-z])")


def fits(folder: Path) -> bool:
    return bool(_choices(folder))


def load(folder: Path, model: Model) -> tuple[dict[str, Any], list[Path], list[Transcoder]]:
    """(config, weight files, layers). Raises ModelRejected."""
    if sae := _SAE_NAME.search(str(folder)):
        raise ModelRejected(
            f"{folder} holds SAEs of {_SAES[sae[1]]}, not transcoders.", "Pass a set that replaces the MLPs."
        )
    found = {layer: folder / file for layer, file in only_one(_choices(folder)).items()}
    files = in_order(found, "layer_{}/width_*/average_l0_*/params.npz", folder, model)
    return dict(HOOKS), files, load_layers(files, model, cross_layer=False)


def by_layer(files: list[Path]) -> dict[int, list[Path]]:
    """The params.npz of each layer, of paths in a set's folder."""
    choices: dict[int, list[Path]] = {}
    for file in files:
        if file.name == "params.npz" and (number := re.match(r"layer_(\d+)/", file.as_posix())):
            choices.setdefault(int(number[1]), []).append(file)
    return choices


def _choices(folder: Path) -> dict[int, list[Path]]:
    return by_layer(below(folder, "params.npz"))
