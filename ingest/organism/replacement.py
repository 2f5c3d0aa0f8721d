"""Replacement and completeness of the attribution graphs of the sample prompts.

Measured with the tracing engine, for the shipped transcoders and for the same
set with the decoder rows of every layer permuted (mean over several seeds).
"""

from __future__ import annotations

from pathlib import Path

from . import SAMPLE_PROMPTS

SEEDS = 3


def _scores(model, transcoders) -> list[dict[str, float]]:
    """Replacement and completeness of every sample prompt's graph, with one transcoder set."""
    from ingest.trace import attribute, scores

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
    from ingest.transcoders import load_transcoders
    from ingest.transcoders.permuted import permuted_set

    model = load_model(folder / "model")
    transcoders = load_transcoders(folder / "transcoders", model)
    real = _scores(model, transcoders)
    permuted = [_scores(model, permuted_set(transcoders, seed)) for seed in range(SEEDS)]
    prompts: list[dict] = [
        {"prompt": sample.prompt, "real": real[i], "permuted": _mean([rows[i] for rows in permuted])}
        for i, sample in enumerate(SAMPLE_PROMPTS)
    ]
    return {
        "seeds": SEEDS,
        "prompts": prompts,
        "mean": {kind: _mean([row[kind] for row in prompts]) for kind in ("real", "permuted")},
    }
