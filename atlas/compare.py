"""The difference between two circuits, edge by edge.

Edges are compared as signed shares, sign(w) * |w| / total absolute input of the target, because raw weights of two traces
differ in scale. Two edges correspond when their ends do (`atlas.alignment`) and they use the same slot; of repeated pairs
the n-th by signed share corresponds to the n-th, none are summed. An edge that is missing in one circuit counts as 0 there:

    delta = b - a
    similarity = sum min(a, b) / sum max(a, b)     positive and negative parts apart (weighted Jaccard index)

so that identical circuits have similarity 1, circuits without a common edge 0, and an edge of opposite sign is no agreement.
The noise floor is the largest difference of any edge between replicates, traces of the same question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from atlas.alignment import align_positions, node_codes, occurrence
from atlas.circuit import SLOTS, UNKNOWN, Circuit
from atlas.errors import UsageError
from atlas.records import ComparedEdge, Comparison

if TYPE_CHECKING:
    from atlas.api import Atlas


def compare(
    a: Circuit, b: Circuit, replicates_a: Sequence[Circuit] = (), replicates_b: Sequence[Circuit] = ()
) -> Comparison:
    """B minus A. Replicates are other traces of the same question (equal `trace_key`), for the noise floor.

    Edges come largest difference first. `source` and `target` are node keys of A, for an edge of B alone of B.
    Raises UsageError when the weights, models or transcoder sets of A and B cannot be compared.
    """
    refuse_incomparable(a, b)
    codes_a, codes_b = node_codes(a, b)
    shares_a, shares_b = signed_shares(a), signed_shares(b)
    row_a, row_b = _pair_edges([(a, codes_a, shares_a), (b, codes_b, shares_b)])
    in_a, in_b = row_a >= 0, row_b >= 0
    value_a, value_b = _take(shares_a, row_a), _take(shares_b, row_b)

    aligned = 0.0
    for circuit, codes, shares, others in ((a, codes_a, shares_a, codes_b), (b, codes_b, shares_b, codes_a)):
        shared_node = np.isin(codes, others)
        both_ends = shared_node[circuit.edges.source] & shared_node[circuit.edges.target]
        aligned += float(np.abs(shares[both_ends]).sum())
    total = float(np.abs(shares_a).sum() + np.abs(shares_b).sum())

    floors = [noise_floor([own, *others]) for own, others in ((a, replicates_a), (b, replicates_b)) if others]
    floor = max(floors) if floors else None
    return Comparison(
        shared=int((in_a & in_b).sum()),
        only_a=int((in_a & ~in_b).sum()),
        only_b=int((in_b & ~in_a).sum()),
        similarity=similarity(value_a, value_b),
        aligned_share=min(1.0, aligned / total) if total else 1.0,
        floor=floor,
        edges=_edge_records(a, b, row_a, row_b, value_b - value_a, floor),
        positions=align_positions(a.tokens, b.tokens),
    )


def compare_circuits(atlas: Atlas, a: str, b: str) -> Comparison:
    """`compare` of two circuits of an atlas, by id, id prefix or name, with every replicate the atlas holds."""
    one, other = atlas.resolve(a), atlas.resolve(b)

    def replicates(circuit: str) -> list[Circuit]:
        return [atlas.load(each) for each in atlas.show(circuit).replicates]

    return compare(atlas.load(one), atlas.load(other), replicates(one), replicates(other))


def refuse_incomparable(a: Circuit, b: Circuit) -> None:
    """UsageError unless weights mean the same in both circuits and a feature index names the same feature."""
    for what, one, other, hint in (
        (
            "weight units",
            a.record.method.weight_unit,
            b.record.method.weight_unit,
            "Compare circuits whose weights mean the same.",
        ),
        (
            "methods",
            a.record.method.name,
            b.record.method.name,
            "Trace both prompts with one method and compare those circuits.",
        ),
        ("models", a.record.model.name, b.record.model.name, "Compare two circuits of one model."),
        (
            "transcoder sets",
            _set_name(a, b),
            _set_name(b, a),
            "Their features are not the same features; trace both prompts with one set.",
        ),
    ):
        if one != other:
            raise UsageError(f"The circuits have different {what}, {one!r} and {other!r}.", hint)


def _set_name(circuit: Circuit, other: Circuit) -> str:
    """Name of the transcoder set, with its hash where both hashes are known and so decide."""
    mine, theirs = circuit.record.transcoders, other.record.transcoders
    known = UNKNOWN not in (mine.hash, theirs.hash)
    return f"{mine.name}@{mine.hash[:12]}" if known and mine.hash != theirs.hash else mine.name


def signed_shares(circuit: Circuit) -> np.ndarray:
    """(m,) float64 sign(weight) * edge share."""
    return np.sign(circuit.edges.weight) * circuit.edge_shares


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Weighted Jaccard index of two signed vectors (m,), positive and negative parts apart; 1 when both are zero."""
    parts_a = np.concatenate([np.maximum(a, 0), np.maximum(-a, 0)])
    parts_b = np.concatenate([np.maximum(b, 0), np.maximum(-b, 0)])
    union = float(np.maximum(parts_a, parts_b).sum())
    return float(np.minimum(parts_a, parts_b).sum()) / union if union else 1.0


def noise_floor(replicates: Sequence[Circuit]) -> float:
    """Largest difference of any edge's signed share between two of these circuits (>= 2, of one question)."""
    shares = [signed_shares(circuit) for circuit in replicates]
    paired = _pair_edges(list(zip(replicates, node_codes(*replicates), shares, strict=True)))
    values = np.stack([_take(own, rows) for own, rows in zip(shares, paired, strict=True)])
    return float(np.ptp(values, axis=0).max(initial=0.0)) if values.size else 0.0


def _take(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`values[rows]`, and 0 where the row is -1."""
    return np.append(values, 0.0)[rows]


def _pair_edges(circuits: list[tuple[Circuit, np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """From (circuit, node codes, signed shares): for each circuit (e,) the row of every edge of the union, -1 = not there."""
    count = max((int(codes.max(initial=-1)) for _, codes, _ in circuits), default=-1) + 1
    keys, numbers = [], []
    for circuit, codes, shares in circuits:
        edges = circuit.edges
        key = (codes[edges.source] * count + codes[edges.target]) * len(SLOTS) + edges.slot
        keys.append(key)
        numbers.append(occurrence(key[:, None], by=shares))
    repeats = max((int(number.max(initial=0)) for number in numbers), default=0) + 1
    joined = np.concatenate([key * repeats + number for key, number in zip(keys, numbers, strict=True)])
    union, place = np.unique(joined, return_inverse=True)
    out = []
    for part in np.split(place, np.cumsum([len(key) for key in keys])[:-1]):
        rows = np.full(len(union), -1, np.int64)
        rows[part] = np.arange(len(part))
        out.append(rows)
    return out


def _edge_records(
    a: Circuit, b: Circuit, row_a: np.ndarray, row_b: np.ndarray, delta: np.ndarray, floor: float | None
) -> list[ComparedEdge]:
    side_a, side_b = _columns(a), _columns(b)
    order = np.argsort(-np.abs(delta), kind="stable")
    records = []
    for in_a, in_b, difference in zip(row_a[order].tolist(), row_b[order].tolist(), delta[order].tolist(), strict=True):
        source, target, slot, _ = side_a[in_a] if in_a >= 0 else side_b[in_b]
        records.append(
            ComparedEdge(
                source=source,
                target=target,
                a=side_a[in_a][3] if in_a >= 0 else None,
                b=side_b[in_b][3] if in_b >= 0 else None,
                delta=difference,
                above_noise=None if floor is None else abs(difference) > floor,
                slot=slot,
            )
        )
    return records


def _columns(circuit: Circuit) -> list[tuple[str, str, str, float]]:
    """(source key, target key, slot, signed share) of every edge."""
    keys, edges = circuit.keys, circuit.edges
    return [
        (keys[source], keys[target], SLOTS[slot], share)
        for source, target, slot, share in zip(
            edges.source.tolist(),
            edges.target.tolist(),
            edges.slot.tolist(),
            signed_shares(circuit).tolist(),
            strict=True,
        )
    ]
