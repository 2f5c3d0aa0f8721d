"""Activation patching of every head at every position: CPU-seconds, alone or beside TransformerLens.

    python -m benchmarks.patching [--tokens 20] [--cases 1] [--reference PYTHON [--every 18]]

A random Llama of SmolLM2-135M's sizes (nothing is downloaded), one thread, float32. Two pairs of prompts: one whose prompts differ at
every position but the first, the most work there is, and one that differ in a single token two thirds in, as the templates' do.
`--reference PYTHON`: an interpreter with TransformerLens 3.2.1, which patches every n-th (layer, position, head) of the same model on the
first pair; each of its patches is one whole pass of one prompt, so that all of them take n times that. Their values are compared.
Ours also patches every head at all positions at once. Prints a table and stores benchmarks/results/patching.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from atlas.causal_records import PromptPair
from benchmarks.oracle.make_sets import write_tokenizer
from benchmarks.trace import keep, random_model
from ingest.components.metrics import metric
from ingest.components.pairs import Cases
from ingest.components.patching import Patched, patch_activations
from ingest.models.decoder import DecoderModel

REFERENCE = Path(__file__).parent / "oracle" / "patching_reference.py"


def random_cases(model: DecoderModel, tokens: int, count: int, differing: range) -> Cases:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(1, model.vocabulary, (count, tokens), generator=generator)
    other = torch.randint(1, model.vocabulary, (count, tokens), generator=generator)
    corrupted = clean.clone()
    corrupted[:, list(differing)] = other[:, list(differing)]
    answers = torch.randint(0, model.vocabulary, (2, count), generator=generator)
    pairs = tuple(PromptPair(clean="", answer="") for _ in range(count))
    return Cases(clean, corrupted, torch.full((count,), tokens), answers[0], answers[1], pairs)


def ours(model: DecoderModel, cases: Cases) -> tuple[dict[str, float], Patched]:
    cpu, wall = time.process_time(), time.perf_counter()
    patched = patch_activations(model, cases, ["head"], "denoise", "counterfactual", metric("logit-difference"))
    spent = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    return spent | {"patches": patched.values.size}, patched


def write_folder(model: DecoderModel, folder: Path) -> None:
    """As both engines load it."""
    from safetensors.torch import save_file

    config = model.network.config.to_dict()
    old_names = {"rope_theta": 10000.0, "torch_dtype": "float32", "architectures": [type(model.network).__name__]}
    config = {key: value for key, value in config.items() if key not in ("rope_parameters", "dtype")} | old_names
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    save_file(dict(model.network.named_parameters()), folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder, model.vocabulary)


def theirs(python: str, model: DecoderModel, cases: Cases, every: int, patched: Patched) -> dict[str, Any]:
    """Its CPU seconds on the first case, and the largest difference of a value as a share of the largest effect."""
    with tempfile.TemporaryDirectory() as place:
        write_folder(model, Path(place))
        ids = lambda row: ",".join(map(str, row.tolist()))  # noqa: E731
        assert cases.corrupted is not None
        assert cases.wrong is not None
        command = [python, str(REFERENCE), "--time", place, "--every", str(every)]
        command += ["--clean", ids(cases.clean[0]), "--corrupted", ids(cases.corrupted[0])]
        command += ["--answer", str(int(cases.answers[0])), "--wrong", str(int(cases.wrong[0]))]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr.strip()[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    row_of = {part: row for row, part in enumerate(patched.parts)}
    mine = [patched.values[row_of["head.out", *place], 0] for place in found.pop("rows")]
    values, base = np.array(found.pop("values")), float(patched.corrupted[0]) if patched.corrupted is not None else 0.0
    found["largest_difference"] = float(np.abs(values - mine).max() / np.abs(values - base).max())
    found["all_cpu_s"] = found["cache_cpu_s"] + (found["cpu_s"] - found["cache_cpu_s"]) * found["of"] / found["patches"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--cases", type=int, default=1)
    parser.add_argument("--reference", help="an interpreter with TransformerLens")
    parser.add_argument("--every", type=int, default=18)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = random_model()
    assert isinstance(model, DecoderModel)
    table = Table(title=f"every head of every layer at every position, {asked.tokens} tokens, one thread")
    for column in ("prompts", "engine", "cases", "patches", "CPU s", "CPU s per case"):
        table.add_column(column, justify="left" if column in ("prompts", "engine") else "right")
    found: dict[str, Any] = {}
    kinds = {
        "differ everywhere": range(1, asked.tokens),
        "differ in one token": range(asked.tokens * 2 // 3, asked.tokens * 2 // 3 + 1),
    }
    for kind, differing in kinds.items():
        cases = random_cases(model, asked.tokens, asked.cases, differing)
        spent, patched = ours(model, cases)
        row = [f"{spent['patches']:,.0f}", f"{spent['cpu_s']:.1f}", f"{spent['cpu_s'] / asked.cases:.1f}"]
        table.add_row(kind, "ours", str(asked.cases), *row)
        found[kind] = {"ours": spent}
        if asked.reference and kind == "differ everywhere":
            other = theirs(asked.reference, model, cases, asked.every, patched)
            found[kind]["reference"] = other
            row = [f"{other['patches']:,} of {other['of']:,}", f"{other['cpu_s']:.1f}", f"{other['all_cpu_s']:.1f}"]
            table.add_row(kind, "TransformerLens", "1", *row)
            found[kind]["times_less"] = other["all_cpu_s"] / (spent["cpu_s"] / asked.cases)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    everywhere = found["differ everywhere"]
    if "reference" in everywhere:
        console.print(
            f"{everywhere['times_less']:.1f} times less CPU per case; values differ by at most "
            f"{everywhere['reference']['largest_difference']:.1e} of the largest effect"
        )
    setting = {"threads": 1, "machine": platform.machine(), "torch": torch.__version__, **vars(asked)}
    setting.pop("reference")
    keep("patching", {"setting": setting, "found": found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
