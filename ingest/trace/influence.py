"""Influence on the targets. Pure functions of a full graph; n nodes, row = target, column = source.

Source of the definitions: Ameisen et al. 2025, *Circuit Tracing*, "Graph Pruning".
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from ingest.trace.graph import FullGraph, NodeOrder

FLOOR = 1e-10  # of a row's absolute sum


def row_numbers(matrix: sparse.csr_array) -> np.ndarray:
    """(nnz,) target row of every stored entry."""
    return np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))


def input_shares(rows: np.ndarray, weights: np.ndarray, n: int) -> np.ndarray:
    """(nnz,) float64: |weight| over the sum of |weight| in its row (at least FLOOR)."""
    size = np.abs(weights.astype(np.float64))
    totals = np.maximum(np.bincount(rows, weights=size, minlength=n), FLOOR)
    return size / totals[rows]


def node_influence(shares: sparse.csr_array, target_weights: np.ndarray, blocks: list[slice]) -> np.ndarray:
    """(n,) w (N + N^2 + ...): the share of the targets' input that reaches them from each node over paths of every length.

    shares: N, non-negative, row sums 1 or 0. target_weights: w. blocks: row ranges such that the sources of a block's rows
    have their own rows in later blocks only; so one pass over the entries is the whole sum.
    """
    influence = np.zeros(shares.shape[0])
    for block in blocks:
        first, last = shares.indptr[block.start], shares.indptr[block.stop]
        part = sparse.csr_array(
            (shares.data[first:last], shares.indices[first:last], shares.indptr[block.start : block.stop + 1] - first),
            shape=(block.stop - block.start, shares.shape[1]),
        )
        influence += part.T @ (influence[block] + target_weights[block])
    return influence


def graph_influence(graph: FullGraph) -> np.ndarray:
    """(N,) influence of every node of an unpruned graph on its logits."""
    matrix = graph.matrix
    data = input_shares(row_numbers(matrix), matrix.data, graph.order.size)
    shares = sparse.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)
    return node_influence(shares, graph.target_weights, graph.blocks)


def estimated_influence(matrix: sparse.csr_array, target_weights: np.ndarray, order: NodeOrder) -> np.ndarray:
    """(N,) influence while only some rows of `matrix` are known: nothing flows through the others.

    Known rows are in no special order, so the sum over paths is done step by step; it ends because paths do.
    """
    data = input_shares(row_numbers(matrix), matrix.data, order.size)
    shares = sparse.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)
    step, total = target_weights, np.zeros(order.size)
    for _ in range(order.n_layers + 1):
        step = shares.T @ step
        total += step
        if not step.any():
            break
    return total


def running_share(influence: np.ndarray) -> np.ndarray:
    """(n,) the field's `influence`: share of the total that nodes of at least this influence hold. Lower is stronger."""
    order = np.argsort(-influence, kind="stable")
    cumulative = np.empty(len(influence))
    cumulative[order] = np.cumsum(influence[order]) / (influence.sum() or 1.0)
    return cumulative


def cut_value(scores: np.ndarray, share: float) -> float:
    """The largest v such that scores >= v hold at least `share` of the sum of the scores (n,), all >= 0.

    Halves the candidates by partial selection (O(n)) and sorts only the last few thousand.
    """
    wanted, above = share * scores.sum(), 0.0
    while len(scores) > 4096:
        middle = len(scores) // 2
        scores = np.partition(scores, middle)
        upper = scores[middle:].sum()
        if above + upper >= wanted:
            scores = scores[middle:]
        else:
            above += upper
            scores = scores[:middle]
    descending = np.sort(scores)[::-1]
    if not len(descending):
        return 0.0
    place = int(np.searchsorted(above + np.cumsum(descending), wanted))
    return float(descending[min(place, len(descending) - 1)])
