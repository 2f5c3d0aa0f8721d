"""Replacement and completeness of the attribution graphs of the sample prompts.

Measured with the tracing engine, for the shipped transcoders and for the same
set with the decoder rows of every layer permuted (mean over several seeds).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from . import SAMPLE_PROMPTS

SEEDS = 3


def permuted_set(source: Path, target: Path, seed: int) -> None:
    """Write the set of `source` to `target` with the rows of each W_dec (f, d) in random order."""
    from .transcoder import load_set

    generator = torch.Generator().manual_seed(seed)
    (target / "config.yaml").write_text((source / "config.yaml").read_text())
    for i, transcoder in enumerate(load_set(source)):
        transcoder.w_dec = transcoder.w_dec[torch.randperm(len(transcoder.w_dec), generator=generator)]
        transcoder.save(target / f"layer_{i}.safetensors")


def _scores(model, transcoder_folder: Path) -> list[dict[str, float]]:
    """Replacement and completeness of every sample prompt's graph, with one transcoder set."""
    from ingest.trace import attribute, scores
    from ingest.transcoders import load_transcoders

    transcoders = load_transcoders(transcoder_folder, model)
    rows = []
    for sample in SAMPLE_PROMPTS:
        graph = attribute(model, transcoders, model.tokenizer(sample.prompt)["input_ids"])
        replacement, completeness = scores(graph)
        rows.append({"replacement": replacement, "completeness": completeness, "nodes": int(graph.order.size)})
    return rows


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def replacement_figures(folder: Path) -> dict:
    """Scores per sample prompt and their means, of the shipped and of the permuted sets."""
    from ingest.models import load_model

    model = load_model(folder / "model")
    real = _scores(model, folder / "transcoders")
    permuted = []
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as scratch:
            permuted_set(folder / "transcoders", Path(scratch), seed)
            permuted.append(_scores(model, Path(scratch)))
    prompts: list[dict] = [
        {"prompt": sample.prompt, "real": real[i], "permuted": _mean([rows[i] for rows in permuted])}
        for i, sample in enumerate(SAMPLE_PROMPTS)
    ]
    return {
        "seeds": SEEDS,
        "prompts": prompts,
        "mean": {kind: _mean([row[kind] for row in prompts]) for kind in ("real", "permuted")},
    }
