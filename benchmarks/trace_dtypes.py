"""How far a trace in bfloat16 or float16 is from float32, by family: active features, edges, influence. CPU.

Overlap: features active in both over features active in either. Rank correlations (Spearman): of the edges among nodes that both
have, by weight, and of the influence of those nodes. The models are the committed tiny ones with random weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.table import Table
from scipy.stats import spearmanr

from benchmarks.oracle.families import PROMPTS, SETS
from ingest.models import load_model
from ingest.trace import FullGraph, attribute, graph_influence
from ingest.trace.prompt import prompt_ids
from ingest.transcoders import load_transcoders

DATA = Path(__file__).parent.parent / "tests" / "ingest" / "data" / "oracle_families"
DTYPES = ("bfloat16", "float16")


def agreement(graph: FullGraph, exact: FullGraph) -> dict[str, float]:
    """Of a graph with that in float32, of the same prompt and with the same targets."""
    rows = [{tuple(row): i for i, row in enumerate(g.features.tolist())} for g in (graph, exact)]
    shared = sorted(set(rows[0]) & set(rows[1]))
    nodes = []
    for row, g in zip(rows, (graph, exact), strict=True):
        nodes.append(
            np.concatenate([[row[key] for key in shared], np.arange(g.order.n_features, g.order.size)]).astype(int)
        )
    ours, theirs = (g.matrix[n][:, n].toarray() for g, n in zip((graph, exact), nodes, strict=True))
    edge = (ours != 0) | (theirs != 0)
    influence = [graph_influence(g)[n] for g, n in zip((graph, exact), nodes, strict=True)]
    return {
        "overlap": len(shared) / len(set(rows[0]) | set(rows[1])),
        "edges": float(spearmanr(ours[edge], theirs[edge]).statistic),
        "influence": float(spearmanr(*influence).statistic),
    }


def measure(names: list[str] | None = None) -> dict[str, dict[str, dict[str, float]]]:
    """By set, dtype: each figure's least and mean over the prompts."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in names or list(SETS):
        folder = DATA / name.split("/")[0] / "model"
        graphs: dict[str, list[FullGraph]] = {}
        for dtype in ("float32", *DTYPES):
            model = load_model(folder, device="cpu", dtype=dtype)
            parts = load_transcoders(DATA / name, model)
            graphs[dtype] = []
            for i, prompt in enumerate(PROMPTS.values()):
                ids = prompt_ids(model, None, prompt if prompt[0] == 1 else [1, *prompt])
                # in another dtype other tokens may be the likeliest: the same ones are explained
                targets = None if dtype == "float32" else graphs["float32"][i].logit_token_ids.tolist()
                graphs[dtype].append(attribute(model, parts, ids, logit_token_ids=targets, warn=lambda text: None))
        found[name] = {}
        for dtype in DTYPES:
            rows = []
            for graph, exact in zip(graphs[dtype], graphs["float32"], strict=True):
                place = {token: i for i, token in enumerate(graph.logit_token_ids.tolist())}
                order = [place[token] for token in exact.logit_token_ids.tolist()]  # likeliest first, in its own dtype
                rows.append(agreement(_reorder(graph, order), exact))
            found[name][dtype] = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
            found[name][dtype] |= {f"{key}_least": min(row[key] for row in rows) for key in rows[0]}
    return found


def _reorder(graph: FullGraph, order: list[int]) -> FullGraph:
    """Logit rows in another order."""
    from dataclasses import replace

    rows = np.concatenate([np.arange(graph.order.n_sources), graph.order.n_sources + np.array(order)])
    return replace(
        graph,
        matrix=graph.matrix[rows][:, rows],
        logit_token_ids=graph.logit_token_ids[order],
        logit_probabilities=graph.logit_probabilities[order],
    )


def table(found: dict[str, dict[str, dict[str, float]]]) -> Table:
    made = Table(title="Half precision against float32, mean of two prompts (least)")
    for head in ("family/set", "dtype", "features' overlap", "edges' rank correlation", "influence's"):
        made.add_column(head, justify="left" if head in ("family/set", "dtype") else "right")
    for name, dtypes in found.items():
        for dtype, row in dtypes.items():
            cells = [f"{row[key]:.4f} ({row[f'{key}_least']:.4f})" for key in ("overlap", "edges", "influence")]
            made.add_row(name, dtype, *cells)
    return made
