"""Influence on the targets. Pure functions of a full graph; N nodes, row = target, column = source.

Source of the definitions: Ameisen et al. 2025, *Circuit Tracing*, "Graph Pruning".

A matrix may have billions of entries, so that nothing here makes an array of its length: it is walked in slabs of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ingest.trace.graph import FLOOR, FullGraph, slabs


@dataclass
class Slab:
    """Some rows of a matrix."""

    rows: slice
    entries: slice  # of matrix.data
    sizes: np.ndarray  # (e,) float64: |weight|
    part: sparse.csr_array  # (rows, N) of the sizes

    @property
    def row_of_entry(self) -> np.ndarray:
        """(e,) row number in the whole matrix."""
        return row_numbers(self.part) + self.rows.start


def walk(matrix: sparse.csr_array, rows: slice | None = None, only: np.ndarray | None = None) -> Iterator[Slab]:
    """The rows of a matrix, a slab at a time. only: (nnz,) bool, other entries count as 0."""
    for first, last in slabs(matrix.indptr, rows):
        entries = slice(int(matrix.indptr[first]), int(matrix.indptr[last]))
        sizes = np.abs(matrix.data[entries]).astype(np.float64)
        if only is not None:
            sizes *= only[entries]
        starts = matrix.indptr[first : last + 1] - matrix.indptr[first]
        part = sparse.csr_array((sizes, matrix.indices[entries], starts), shape=(last - first, matrix.shape[1]))
        yield Slab(slice(first, last), entries, sizes, part)


def row_numbers(matrix: sparse.csr_array) -> np.ndarray:
    """(nnz,) target row of every stored entry."""
    return np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))


def node_influence(
    matrix: sparse.csr_array,
    totals: np.ndarray,
    target_weights: np.ndarray,
    blocks: Iterable[slice],
    *,
    only: np.ndarray | None = None,
    ends: np.ndarray | None = None,
) -> np.ndarray:
    """(N,) w (S + S^2 + ...): the share of the targets' input that reaches them from each node over paths of every length.

    S = |matrix| / totals by row: shares of the input. totals (N,): absolute sums of the rows, of the matrix or of more.
    target_weights: w. blocks: row ranges such that the sources of a block's rows have their own rows in later blocks
    only; so one pass over the entries is the whole sum. only: (nnz,) bool entries that count. ends: (N,) bool nodes
    at which a path ends.
    """
    influence = np.zeros(matrix.shape[0])
    for block in blocks:
        mass = influence[block] + target_weights[block]
        if ends is not None:
            mass = np.where(ends[block], target_weights[block], mass)
        per_weight = mass / np.maximum(totals[block], FLOOR)
        for slab in walk(matrix, block, only):
            here = slice(slab.rows.start - block.start, slab.rows.stop - block.start)
            influence += slab.part.T @ per_weight[here]
    return influence


def graph_influence(graph: FullGraph) -> np.ndarray:
    """(N,) influence of every node of an unpruned graph on its logits."""
    return node_influence(graph.matrix, graph.totals[1], graph.target_weights, graph.blocks)


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
