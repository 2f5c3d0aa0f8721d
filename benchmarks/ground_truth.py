"""Do patching and attribution find the circuits of models whose weights were written by hand?

    python -m benchmarks.ground_truth [--cases 32] [--seeds 3] [--steps 1,5,20]

Models: tests/handmade_models.py, each with saturated and with soft attention. Every edge is patched by itself (exact), and
scored by EAP (one step) and EAP-IG. Printed and stored (benchmarks/results/ground-truth.json): the AUROC of the absolute scores
against the edges that are known to matter, mean over seeds; and per known edge its score as a share of the exact effect. Gradients
do not pass a saturated softmax, so EAP cannot see edges that act through queries and keys there; steps of EAP-IG that happen to lie
where attention turns over can.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from atlas.circuit import SLOTS, Circuit, CircuitRecord, Edges
from ingest.components.curves import auroc
from ingest.components.eap import edge_scores
from ingest.components.path_patching import edge_effects
from ingest.components.wiring import Wiring
from tests.handmade_models import ATTENTION, NAMES, handmade

RESULTS = Path(__file__).parent / "results" / "ground-truth.json"


def measure(name: str, attention: str, steps: list[int], cases: int, seed: int) -> dict[str, Any]:
    made = handmade(name, attention, cases, seed)
    exact = edge_effects(made.model, made.cases, made.metric).mean(1).numpy()
    scores = {"exact": exact}
    for count in steps:
        scores[method(count)] = edge_scores(made.model, made.cases, made.metric, count).scores.numpy()
    wiring = Wiring.of(made.model)
    keys = Circuit(CircuitRecord(), wiring.nodes(), Edges(0)).keys
    known = np.flatnonzero(made.truth)
    return {
        "model": name,
        "attention": attention,
        "seed": seed,
        "cases": cases,
        "edges": wiring.n_edges,
        "known": len(known),
        "auroc": {method: auroc(np.abs(values), made.truth) for method, values in scores.items()},
        "edge": {
            f"{keys[wiring.edge_source[e]]} -> {keys[wiring.edge_target[e]]} {SLOTS[wiring.edge_slot[e]]}": {
                method: float(values[e]) for method, values in scores.items()
            }
            for e in known
        },
        "largest_other_effect": float(np.abs(exact[~made.truth]).max()),
    }


def method(steps: int) -> str:
    return "EAP" if steps == 1 else f"EAP-IG {steps}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", default="1,5,20")
    arguments = parser.parse_args()
    steps = [int(count) for count in arguments.steps.split(",")]
    rows = [
        measure(name, attention, steps, arguments.cases, seed)
        for name in NAMES
        for attention in ATTENTION
        for seed in range(arguments.seeds)
    ]
    console, methods = Console(), ["exact", *map(method, steps)]
    table = Table(
        "model", "attention", *methods, caption="AUROC, in brackets the weakest known edge as a share of exact"
    )
    for name in NAMES:
        for attention in ATTENTION:
            mine = [row for row in rows if (row["model"], row["attention"]) == (name, attention)]
            cells = []
            for m in methods:
                weakest = min(edge[m] / edge["exact"] for row in mine for edge in row["edge"].values())
                cells.append(f"{np.mean([row['auroc'][m] for row in mine]):.3f} ({weakest:.2f})")
            table.add_row(name, attention, *cells)
    console.print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"command": "python -m benchmarks.ground_truth", "runs": rows}, indent=1))


if __name__ == "__main__":
    main()
