"""Activation patching by TransformerLens, to compare ours with. Runs in the reference's own environment, not in this project's.

    PYTHON benchmarks/oracle/patching_reference.py FOLDER [FAMILY ...]
    PYTHON benchmarks/oracle/patching_reference.py --time MODEL_FOLDER --clean 1,2,3 --corrupted 1,5,3 --answer 7 --wrong 9 --every 18

The first writes FOLDER/<family>/patching.npz for every model of tests/ingest/data/oracle_families. The second prints as JSON the CPU
seconds of patching every n-th (layer, position, head) of one model by its output, and the values.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformer_lens import HookedTransformer, patching
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
from run_reference import CONVERTERS, lens_config

CLEAN = [[1, 17, 42, 5, 63, 29], [1, 9, 55, 55, 31, 20]]
CORRUPTED = [[1, 17, 8, 5, 71, 29], [1, 48, 55, 13, 31, 66]]
ANSWERS, WRONG = [12, 40], [33, 7]
MAPS = {
    "resid": patching.get_act_patch_resid_pre,  # (L, P)
    "attn": patching.get_act_patch_attn_out,  # (L, P)
    "mlp": patching.get_act_patch_mlp_out,  # (L, P)
    "head": patching.get_act_patch_attn_head_out_by_pos,  # (L, P, H)
    "head_everywhere": patching.get_act_patch_attn_head_out_all_pos,  # (L, H)
}


def load_lens(folder: Path) -> Any:
    """The library's model with a folder's weights, norms not folded and nothing centred."""
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    config = lens_config(network.config)
    model = HookedTransformer(config, move_to_device=False)
    state = CONVERTERS[network.config.model_type](network, config)
    state = {name: tensor.detach().clone().float() for name, tensor in state.items()}
    model.load_and_process_state_dict(state, fold_ln=False, center_writing_weights=False, center_unembed=False)
    return model.eval()


def difference(answer: int, wrong: int):
    return lambda logits: logits[0, -1, answer] - logits[0, -1, wrong]


@torch.no_grad()
def maps(model: Any) -> dict[str, np.ndarray]:
    """Heat maps of both directions, (cases, ...) each, and the metric of the unpatched runs (cases,)."""
    found: dict[str, list[np.ndarray]] = {}
    for clean, corrupted, answer, wrong in zip(CLEAN, CORRUPTED, ANSWERS, WRONG, strict=True):
        ids = {"clean": torch.tensor([clean]), "corrupted": torch.tensor([corrupted])}
        metric = difference(answer, wrong)
        for direction, base, source in (("denoise", "corrupted", "clean"), ("noise", "clean", "corrupted")):
            _, cache = model.run_with_cache(ids[source])
            for name, function in MAPS.items():
                found.setdefault(f"{direction}.{name}", []).append(function(model, ids[base], cache, metric).numpy())
        for name, tokens in ids.items():
            found.setdefault(name, []).append(metric(model(tokens)).numpy())
    asked = {"clean_ids": CLEAN, "corrupted_ids": CORRUPTED, "answers": ANSWERS, "wrong": WRONG}
    return {name: np.stack(values) for name, values in found.items()} | {k: np.array(v) for k, v in asked.items()}


@torch.no_grad()
def timed(model: Any, clean: list[int], corrupted: list[int], answer: int, wrong: int, every: int) -> dict[str, Any]:
    """CPU seconds of patching every n-th head and position, denoising, and the values."""
    import pandas as pd

    config = model.cfg
    rows = [(l, p, h) for l in range(config.n_layers) for p in range(len(clean)) for h in range(config.n_heads)]
    chosen = rows[::every]
    table = pd.DataFrame(chosen, columns=["layer", "pos", "head_index"])
    metric, base = difference(answer, wrong), torch.tensor([corrupted])
    began, wall = time.process_time(), time.perf_counter()
    _, cache = model.run_with_cache(torch.tensor([clean]))
    cached = time.process_time() - began
    values = patching.generic_activation_patch(
        model, base, cache, metric, patching.layer_pos_head_vector_patch_setter, "z", index_df=table
    )
    return {
        "cpu_s": time.process_time() - began,
        "cache_cpu_s": cached,
        "wall_s": time.perf_counter() - wall,
        "patches": len(chosen),
        "of": len(rows),
        "rows": chosen,
        "values": values.tolist(),
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("places", nargs="*")
    parser.add_argument("--time", type=Path)
    for name in ("--clean", "--corrupted"):
        parser.add_argument(name, type=lambda text: [int(i) for i in text.split(",")])
    for name in ("--answer", "--wrong", "--every", "--threads"):
        parser.add_argument(name, type=int, default=1)
    asked = parser.parse_args()
    if asked.time:
        torch.set_num_threads(asked.threads)
        model = load_lens(asked.time)
        print(json.dumps(timed(model, asked.clean, asked.corrupted, asked.answer, asked.wrong, asked.every)))
        return 0
    root = Path(asked.places[0])
    for family in asked.places[1:] or [folder.parent.name for folder in sorted(root.glob("*/model"))]:
        found = maps(load_lens(root / family / "model"))
        np.savez_compressed(root / family / "patching.npz", **found)
        print(f"{family}: clean {found['clean'].round(3).tolist()}, corrupted {found['corrupted'].round(3).tolist()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
