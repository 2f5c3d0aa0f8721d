"""The full attribution graph of one prompt, before any pruning. One object owns every row offset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy import sparse

from ingest.trace.targets import TargetSpec

FLOOR = 1e-10  # of a row's absolute sum
SLAB_ENTRIES = 2**20  # of a matrix, looked at together


@dataclass(frozen=True)
class NodeOrder:
    """Rows: features (by layer, position, index), then errors (by layer, position), tokens, logits."""

    n_features: int
    n_layers: int
    n_positions: int
    n_logits: int

    @property
    def n_sources(self) -> int:
        """Everything but the logits; these rows come first."""
        return self.n_features + self.n_layers * self.n_positions + self.n_positions

    @property
    def size(self) -> int:
        return self.n_sources + self.n_logits

    @property
    def features(self) -> slice:
        return slice(0, self.n_features)

    @property
    def errors(self) -> slice:
        return slice(self.n_features, self.n_features + self.n_layers * self.n_positions)

    @property
    def tokens(self) -> slice:
        return slice(self.errors.stop, self.n_sources)

    @property
    def logits(self) -> slice:
        return slice(self.n_sources, self.size)

    def error_row(self, layer, position):
        """Row of the error node; takes numbers or arrays."""
        return self.n_features + layer * self.n_positions + position


def target_weights(order: NodeOrder, probabilities: np.ndarray, explained_features: np.ndarray) -> np.ndarray:
    """(N,) float64: probabilities (K,) on the rows of logits (1 where there is none; equal ones if all are 0), 1 on the
    features that are explained, 0 elsewhere."""
    weights = np.zeros(order.size)
    own = np.nan_to_num(probabilities.astype(np.float64), nan=1.0)
    weights[order.logits] = own if own.any() else 1 / max(len(own), 1)
    weights[explained_features] = 1
    return weights


def row_blocks(order: NodeOrder, feature_layers: np.ndarray) -> list[slice]:
    """Row ranges with inputs, from the logits down; the sources of a block's rows are in later blocks. feature_layers: (F,)."""
    bounds = np.searchsorted(feature_layers, np.arange(order.n_layers + 1)).tolist()
    layers = [slice(a, b) for a, b in pairwise(bounds) if b > a]
    return [order.logits, *reversed(layers)]


def slabs(starts: np.ndarray, rows: slice | None = None) -> Iterator[tuple[int, int]]:
    """Ranges of rows that hold about SLAB_ENTRIES together; starts (n + 1,): where each row's entries begin."""
    first, stop = (0, len(starts) - 1) if rows is None else (rows.start, rows.stop)
    while first < stop:
        last = int(np.searchsorted(starts[first + 1 : stop + 1], starts[first] + SLAB_ENTRIES, side="right")) + first
        last = min(max(last, first + 1), stop)
        yield first, last
        first = last


def row_sums(matrix: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """(N,) float64 sum and absolute sum of every row."""
    signed, absolute = np.zeros(matrix.shape[0]), np.zeros(matrix.shape[0])
    for first, last in slabs(matrix.indptr):
        values = matrix.data[matrix.indptr[first] : matrix.indptr[last]].astype(np.float64)
        rows = np.repeat(np.arange(last - first), np.diff(matrix.indptr[first : last + 1]))
        signed[first:last] = np.bincount(rows, weights=values, minlength=last - first)
        absolute[first:last] = np.bincount(rows, weights=np.abs(values), minlength=last - first)
    return signed, absolute


def csr(weights: np.ndarray, columns: np.ndarray, starts: np.ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    """Of int32 columns; scipy widens them where the row starts are wide, so these are narrowed where they can be."""
    return sparse.csr_array((weights, columns, starts.astype(np.int32) if starts[-1] < 2**31 else starts), shape=shape)


def cut_out(matrix: sparse.csr_array, keep: np.ndarray) -> sparse.csr_array:
    """matrix[keep][:, keep] of a mask (N,) bool, without a second copy of the whole on the way."""
    new_row = np.cumsum(keep, dtype=np.int32) - 1
    counts, columns, weights = [np.zeros(1, np.int64)], [], []
    for first, last in slabs(matrix.indptr):
        entries, here = slice(matrix.indptr[first], matrix.indptr[last]), keep[first:last]
        rows = np.repeat(np.arange(last - first), np.diff(matrix.indptr[first : last + 1]))
        stays = here[rows] & keep[matrix.indices[entries]]
        counts.append(np.bincount(rows[stays], minlength=last - first)[here])
        columns.append(new_row[matrix.indices[entries][stays]])
        weights.append(matrix.data[entries][stays])
    size = int(keep.sum())
    starts = np.cumsum(np.concatenate(counts))
    return csr(np.concatenate(weights), np.concatenate(columns), starts, (size, size))


@dataclass
class FullGraph:
    """Exact linear effects between all nodes. P positions, L layers, F features, K logits, N nodes in `order`.

    `matrix` row = target, column = source: what the source writes, read by the target (a feature's encoder at its input
    hook, or a logit less the mean logit), not multiplied by the target's own activation. Per feature and logit row
    `matrix.sum(axis=1) + constants == pre_activations`: constants are what biases and position 0's MLPs add.
    """

    order: NodeOrder
    token_ids: list[int]
    features: np.ndarray  # (F, 3) int32: layer, position, feature; sorted in that order
    activations: np.ndarray  # (F,) float32
    logit_token_ids: np.ndarray  # (K,) int64, most likely first
    logit_probabilities: np.ndarray  # (K,) float32, of the softmax over the whole vocabulary; NaN for other targets
    matrix: sparse.csr_array  # (N, N) float32, no stored zeros
    constants: np.ndarray  # (N,) float32, 0 for errors and tokens
    pre_activations: np.ndarray  # (N,) float32: features' and centred logits; 0 for errors and tokens
    arrays: dict[
        str, np.ndarray
    ]  # feature_inputs, feature_outputs, error_vectors (L, P, d), token_vectors (P, d), final_logits (V,)
    targets: list[TargetSpec] = field(default_factory=list)  # all that is explained, as it was asked
    logit_targets: list[TargetSpec] = field(default_factory=list)  # (K,) those above the sources
    logit_layers: np.ndarray | None = None  # (K,) layers below the stream they read; None: all
    logit_positions: np.ndarray | None = None  # (K,); None: the last
    explained_features: np.ndarray = field(
        default_factory=lambda: np.zeros(0, int)
    )  # rows of features that are targets
    explained_variance: float = float("nan")  # of the MLP outputs by the set, on this prompt
    computed: np.ndarray | None = None  # (F,) bool: features whose inputs are known; None: all
    input_totals: tuple[np.ndarray, np.ndarray] | None = (
        None  # (N,) as `totals`, where `matrix` holds only some entries of its rows; None: it holds all
    )

    @cached_property
    def totals(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) float64 sum and absolute sum of each node's inputs, of all of them, those that `matrix` leaves out too."""
        return row_sums(self.matrix) if self.input_totals is None else self.input_totals

    @property
    def target_weights(self) -> np.ndarray:
        """(N,), see `target_weights`."""
        return target_weights(self.order, self.logit_probabilities, self.explained_features)

    @property
    def blocks(self) -> list[slice]:
        """`row_blocks` of this graph."""
        return row_blocks(self.order, self.features[:, 0])

    def keep_features(self, keep: np.ndarray) -> FullGraph:
        """The graph cut to the features in `keep` (F,) bool; errors, tokens and logits stay. Totals are those of what is left."""
        rows = np.ones(self.order.size, bool)
        rows[self.order.features] = keep
        new_row = np.cumsum(keep) - 1
        return replace(
            self,
            order=replace(self.order, n_features=int(keep.sum())),
            features=self.features[keep],
            activations=self.activations[keep],
            matrix=cut_out(self.matrix, rows),
            constants=self.constants[rows],
            pre_activations=self.pre_activations[rows],
            explained_features=new_row[self.explained_features],
            computed=None if self.computed is None else self.computed[keep],
            input_totals=None,
        )
