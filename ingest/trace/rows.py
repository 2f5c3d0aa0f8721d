"""Rows of the full graph: computed in batches that fit into memory, and kept, sparse, as they are finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from atlas.errors import ModelRejected
from ingest.trace.backward import Backward
from ingest.trace.graph import FLOOR, NodeOrder

Progress = Callable[[int, int, str], None]  # how many, of how many, of what
Batch = tuple[np.ndarray, torch.Tensor, torch.Tensor]  # (B,) node rows, (B, n_sources) effects, (B,) those of constants
CACHE_BYTES = 64 * 2**20


class Batches:
    """The rows of one prompt, a batch at a time. `layer`, `position`: (N,) as `Prepared.places`.

    total: rows that will be asked for, for the progress.
    """

    def __init__(
        self,
        engine: Backward,
        places: tuple[np.ndarray, np.ndarray],
        batch_size: int | None,
        progress: Progress | None,
        total: int,
    ) -> None:
        self.engine = engine
        self.layer, self.position = places
        self.limit = batch_size
        self.progress, self.done, self.total = progress, 0, total

    def of(self, rows: np.ndarray) -> Iterator[Batch]:
        """These node rows, in an order of their own. Raises ModelRejected when a single one does not fit into memory.

        When memory runs out, the batch is halved, from then on; what was given out already is not computed again.
        """
        for position in np.unique(self.position[rows]).tolist():
            there = rows[self.position[rows] == position]
            there = there[np.argsort(-self.engine.heights(self.layer[there], there), kind="stable")]
            start = 0
            while start < len(there):
                batch = there[start : start + (self.limit or batch_rows(self.engine, position + 1))]
                try:
                    computed = self.engine.rows(self.layer[batch], batch, position)
                except (MemoryError, RuntimeError) as error:  # torch's own are RuntimeErrors
                    if not _out_of_memory(error):
                        raise
                    if len(batch) == 1:
                        raise ModelRejected(
                            "There is not enough memory to trace a single target.",
                            "Use a shorter prompt or another device.",
                        ) from error
                    computed = None  # the exception holds the failed batch's tensors until this block ends
                if computed is None:
                    self.limit = len(batch) // 2
                    if self.engine.device.type == "cuda":
                        torch.cuda.empty_cache()
                    continue
                yield batch, *computed
                start += len(batch)
                self.done += len(batch)
                if self.progress:
                    self.progress(self.done, max(self.total, self.done), "targets")


def _out_of_memory(error: Exception) -> bool:
    # on the CPU torch has no class of its own for it
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def batch_rows(engine: Backward, positions: int | None = None) -> int:
    """Rows whose gradients, their copies and effects fit a quarter of the free GPU memory, or a cache-friendly 64 MiB.

    positions: how many of the first ones are carried (None: all).
    """
    carried, bytes_each = positions or engine.order.n_positions, engine.targets.vectors.element_size()
    per_row = 6 * carried * engine.width * bytes_each + 8 * engine.order.n_sources
    free = torch.cuda.mem_get_info(engine.device)[0] // 4 if engine.device.type == "cuda" else CACHE_BYTES
    return int(min(4096, max(8, free // per_row)))


@dataclass
class _Piece:
    """Some finished rows: `starts` (B + 1,) of their entries, in order of falling height."""

    rows: np.ndarray  # (B,)
    starts: np.ndarray
    columns: np.ndarray  # (e,) int32
    weights: np.ndarray  # (e,) float32


class Kept:
    """Finished rows of the matrix. columns: (N,) bool, entries elsewhere are let go (None: none are)."""

    def __init__(self, order: NodeOrder, columns: np.ndarray | None = None) -> None:
        self.order = order
        self.columns = None if columns is None else torch.from_numpy(np.flatnonzero(columns[: order.n_sources]))
        self.constants = np.zeros(order.size, np.float32)
        self.totals = np.zeros(order.size), np.zeros(order.size)  # sums and absolute sums over all columns
        self.pieces: list[_Piece] = []

    def add(self, batch: np.ndarray, effects: torch.Tensor, constants: torch.Tensor) -> None:
        self.constants[batch] = constants.cpu().numpy()
        self.totals[0][batch] = effects.sum(dim=1, dtype=torch.float64).cpu().numpy()
        self.totals[1][batch] = effects.abs().sum(dim=1, dtype=torch.float64).cpu().numpy()
        if self.columns is not None:
            self.columns = self.columns.to(effects.device)
            effects = effects[:, self.columns]
        row, column = effects.nonzero(as_tuple=True)
        counts = torch.bincount(row, minlength=len(batch)).cpu().numpy()
        weights = effects[row, column].cpu().numpy()
        if self.columns is not None:
            column = self.columns[column]
        starts = np.concatenate([[0], np.cumsum(counts)])
        self.pieces.append(_Piece(batch, starts, column.to(torch.int32).cpu().numpy(), weights))

    def influence(self, target_weights: np.ndarray, layers: np.ndarray) -> np.ndarray:
        """(N,) influence on the targets over the rows that are known by now; nothing flows through the others.

        layers: (N,) of the features. From the targets down, so that what reaches a row is known before it is passed on.
        """
        level = np.full(self.order.size, self.order.n_layers)
        level[self.order.features] = layers[self.order.features]
        runs = []  # rows of a piece on one level
        for piece in self.pieces:
            there = level[piece.rows]
            edges = np.flatnonzero(np.diff(there)) + 1
            bounds = zip([0, *edges], [*edges, len(there)], strict=True)
            runs += [(-int(there[first]), piece, first, last) for first, last in bounds]
        influence = np.zeros(self.order.size)
        for _, piece, first, last in sorted(runs, key=lambda run: run[0]):
            rows, starts = piece.rows[first:last], piece.starts[first : last + 1]
            entries = slice(starts[0], starts[-1])
            sizes = np.abs(piece.weights[entries]).astype(np.float64)
            per_weight = (influence[rows] + target_weights[rows]) / np.maximum(self.totals[1][rows], FLOOR)
            shape = (len(rows), self.order.size)
            influence += (
                sparse.csr_array((sizes, piece.columns[entries], starts - starts[0]), shape=shape).T @ per_weight
            )
        return influence

    def let_go(self, columns: np.ndarray) -> None:
        """Forget the entries outside of `columns` (N,) bool; totals stay."""
        for i, piece in enumerate(self.pieces):
            stays = columns[piece.columns]
            before = np.concatenate([[0], np.cumsum(stays)])
            self.pieces[i] = _Piece(piece.rows, before[piece.starts], piece.columns[stays], piece.weights[stays])

    def matrix(self) -> sparse.csr_array:
        """The (N, N) matrix of what is known, in node order, other rows empty. The pieces are used up by it."""
        counts = np.zeros(self.order.size + 1, np.int64)
        for piece in self.pieces:
            counts[piece.rows + 1] = np.diff(piece.starts)
        starts = np.cumsum(counts)
        columns, weights = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
        while self.pieces:
            piece = self.pieces.pop()
            for row, first, last in zip(piece.rows, piece.starts[:-1], piece.starts[1:], strict=True):
                columns[starts[row] : starts[row + 1]] = piece.columns[first:last]
                weights[starts[row] : starts[row + 1]] = piece.weights[first:last]
        return sparse.csr_array((weights, columns, starts), shape=(self.order.size, self.order.size))
