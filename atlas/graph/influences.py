"""INFLUENCES: what a circuit says about pairs of features, and what all circuits say together.

Only counted circuits contribute (one per token sequence, model, set and method), so `circuits` and `prompts` of a pair are
both the number of distinct token sequences. Circuits of different methods or weight units are never pooled: a pair of
features has one INFLUENCES relationship per method and unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from atlas.circuit import Circuit

Pair = tuple[str, str]


def influence_rows(circuit: Circuit) -> list[list[Any]]:
    """[source feature, target feature, share, weight, positive] per ordered pair of features, sorted by the pair.

    A pair may meet at several positions and slots: share and weight are then means over its edges in this circuit, so
    that a circuit counts once. `positive` is 1.0 where that mean weight is above 0, else 0.0.
    """
    e, features = circuit.edges, circuit.nodes.is_kind("feature")
    kept = features[e.source] & features[e.target]
    keys = {row: str(circuit.feature_key(row)) for row in np.flatnonzero(features).tolist()}
    pairs = [(keys[s], keys[t]) for s, t in zip(e.source[kept].tolist(), e.target[kept].tolist(), strict=True)]
    return pooled(pairs, circuit.edge_shares[kept].tolist(), e.weight[kept].astype(np.float64).tolist())


def pooled(pairs: list[Pair], shares: list[float], weights: list[float]) -> list[list[Any]]:
    """Rows as `influence_rows` from one entry per edge. Sums are exact (fsum), so the order of the edges does not matter."""
    found: dict[Pair, tuple[list[float], list[float]]] = {}
    for pair, share, weight in zip(pairs, shares, weights, strict=True):
        each = found.setdefault(pair, ([], []))
        each[0].append(share)
        each[1].append(weight)
    rows = []
    for (source, target), (some_shares, some_weights) in sorted(found.items()):
        weight = math.fsum(some_weights) / len(some_weights)
        rows.append([source, target, math.fsum(some_shares) / len(some_shares), weight, float(weight > 0)])
    return rows


def recomputed(circuits: Iterable[Circuit]) -> dict[tuple[str, str, str, str], dict[str, float]]:
    """All INFLUENCES from scratch, keyed (source, target, method, unit): what the graph must hold for these counted circuits."""
    sums: dict[tuple[str, str, str, str], list[list[float]]] = {}
    for circuit in circuits:
        method = circuit.record.method
        for source, target, *values in influence_rows(circuit):
            sums.setdefault((source, target, method.name, method.weight_unit), []).append(values)
    return {
        key: {
            "circuits": len(rows),
            "prompts": len(rows),
            "mean_share": math.fsum(row[0] for row in rows) / len(rows),
            "mean_weight": math.fsum(row[1] for row in rows) / len(rows),
            "positive": math.fsum(row[2] for row in rows) / len(rows),
        }
        for key, rows in sums.items()
    }
