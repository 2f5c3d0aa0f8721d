"""Models and sets on which the reference is wrong, each a change of a committed pair. Works in both environments."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


@dataclass(frozen=True)
class Case:
    pair: str  # family/set of the committed data
    ids: tuple[int, ...]
    what: str


CASES = {
    "two_rotary_bases": Case(
        "gemma3/plt_jumprelu_skip",
        (1, 55, 12, 71, 34, 5, 48, 77, 20, 66),
        "Gemma 3 with the base 1e6 in full layers and 1e4 in sliding ones",
    ),
    "cross_layer_skip": Case(
        "gpt2/clt_jumprelu", (1, 42, 17, 63, 8, 29), "a cross-layer set whose files hold W_skip_0, W_skip_1, ..."
    ),
    "empty_last_position": Case(
        "llama/clt_relu",
        (1, 26, 59, 12, 73, 17, 69),
        "a cross-layer set without an active feature at the last position",
    ),
}


def write_case(name: str, data: Path, folder: Path) -> tuple[Path, Path]:
    """(model folder, set folder) of a case, made in `folder` from the committed data."""
    case = CASES[name]
    model, parts = folder / "model", folder / "set"
    shutil.copytree(data / case.pair.split("/")[0] / "model", model)
    shutil.copytree(data / case.pair, parts)
    if name == "two_rotary_bases":
        config = json.loads((model / "config.json").read_text())
        config |= {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0}
        (model / "config.json").write_text(json.dumps(config))
    if name == "cross_layer_skip":
        random = np.random.RandomState(0)
        for file in sorted(parts.glob("W_enc_*.safetensors")):
            tensors = load_file(file)
            layer = file.stem.rsplit("_", 1)[1]
            width = tensors[f"W_enc_{layer}"].shape[1]
            tensors[f"W_skip_{layer}"] = (0.1 * random.standard_normal((width, width))).astype(np.float16)
            save_file(tensors, file)
    return model, parts
