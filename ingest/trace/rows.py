"""Rows of the full graph: computed in batches that fit into memory, and kept, sparse, as they are finished."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
import torch
from scipy import sparse

from ingest.memory import if_it_fits, threads_that_fit
from ingest.models.devices import beside
from ingest.trace.backward import Backward
from ingest.trace.graph import FLOOR, NodeOrder, csr, row_blocks, slabs

Progress = Callable[[int, int, str], None]  # how many, of how many, of what
Effects = tuple[torch.Tensor, torch.Tensor]  # as `Backward.rows` gives them
Compute = Callable[[np.ndarray, np.ndarray, np.ndarray], Effects]  # of its arguments
Job = tuple[np.ndarray, Compute]  # (B,) node rows, and how their effects are computed
Batch = tuple[np.ndarray, torch.Tensor, torch.Tensor]  # (B,) node rows, (B, n_sources) effects, (B,) those of constants
CACHE_BYTES = 8 * 2**20  # about a core's share of the caches; more is hardly quicker
MAPPED_BYTES = 16 * 2**20  # well below the size from which glibc gives every tensor back to the system when it is freed


class Batches:
    """The rows of one prompt, a batch at a time. `layer`, `position`: (N,) as `Prepared.places`.

    total: rows that will be asked for, for the progress. once: they are all asked for in one call, so what serves a part of them is
    let go after it.
    """

    def __init__(
        self,
        engine: Backward,
        places: tuple[np.ndarray, np.ndarray],
        batch_size: int | None,
        progress: Progress | None,
        total: int,
        once: bool = False,
    ) -> None:
        self.engine, self.once = engine, once
        self.layer, self.position = places
        self.limit = batch_size
        self.threads = batches_beside(engine, batch_size)
        self.progress, self.done, self.total = progress, 0, total

    def of(self, rows: np.ndarray) -> Iterator[Batch]:
        """These node rows, in an order of their own. Raises ModelRejected when a single one does not fit into memory.

        When memory runs out, the batch is halved, from then on; what was given out already is not computed again.
        """
        engine, carried, order = self.engine, self.engine.carried, self.engine.order
        leading = (rows >= order.n_sources) & (self.position[rows] < engine.leading.count)
        yield from self._computed(self._batches(rows[leading], engine.rows_leading))
        rows = rows[~leading]
        met = self.layer[rows] >= engine.meets_at
        passed = ~met & (rows < order.n_features)
        if carried:
            yield from self._computed(
                self._batches(rows[passed], lambda _, batch, __: carried.read(batch, order.n_sources))
            )
            if self.once:
                carried.let_go_passed()
        walks = (there for side in (met, ~met & ~passed) for there in self._walks(rows[side]))
        yield from self._computed(job for there in walks for job in self._batches(there, engine.rows))

    def _walks(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """These rows by position, those of neighbouring positions together where that is less work than a walk for each: all of
        a batch are carried over the positions of the last."""
        position, walk, last = self.position[rows], np.zeros(0, np.int64), 0
        for here in np.unique(position).tolist():
            there = rows[position == here]
            filled = len(walk) * (here - last) * self.engine.frozen.attention_work(here + 1)
            if filled > self.engine.walk_work or len(walk) + len(there) > (
                self.limit or batch_rows(self.engine, here + 1)
            ):
                yield walk
                walk = there[:0]
            walk, last = np.concatenate([walk, there]), here
        yield walk

    def _batches(self, there: np.ndarray, compute: Compute) -> Iterator[Job]:
        there = there[np.argsort(-self.engine.heights(self.layer[there], there), kind="stable")]
        start = 0
        while start < len(there):
            left = there[start:]
            batch = left[: self._size(int(self.position[left].max()), len(left))]
            yield batch, compute
            start += len(batch)

    def _computed(self, jobs: Iterable[Job], threads: int | None = None) -> Iterator[Batch]:
        threads, again = threads or self.threads, []
        for job, effects in beside(jobs, partial(self._effects, alone=threads == 1), threads):
            batch, compute = job
            if effects is None:
                self.limit = max(1, min(self.limit or len(batch), len(batch) // 2))
                if threads == 1:
                    yield from self._computed(self._batches(batch, compute), 1)
                else:  # when nothing beside it takes memory any more
                    again.append(job)
                continue
            self.done += len(batch)
            yield batch, *effects
            if self.progress:
                self.progress(self.done, max(self.total, self.done), "targets")
        for batch, compute in again:
            yield from self._computed(self._batches(batch, compute), 1)

    def _effects(self, job: Job, alone: bool) -> Effects | None:
        """None: memory ran out. Raises ModelRejected where a single row alone does not fit."""
        batch, compute = job
        work = partial(compute, self.layer[batch], batch, self.position[batch])
        return if_it_fits(work, len(batch) if alone else max(2, len(batch)), "target")

    def _size(self, position: int, left: int) -> int:
        """Rows of the next batch. Every batch walks all layers and positions below it, so no small one is left for the end."""
        if self.limit:
            return self.limit
        return -(-left // max(1, round(left / batch_rows(self.engine, position + 1))))


def batch_rows(engine: Backward, positions: int | None = None) -> int:
    """Rows whose gradients, their copies and effects fit a quarter of the free GPU memory; on a CPU its caches, or, so that products
    stay large with long prompts, up to 16 rows.

    positions: the first ones, all of which but the leading ones are carried (None: all of the prompt).
    """
    gradient, per_row = _row_bytes(engine, positions)
    if engine.device.type == "cuda":
        return int(min(4096, max(8, torch.cuda.mem_get_info(engine.device)[0] // 4 // per_row)))
    return int(min(4096, max(1, CACHE_BYTES // per_row, min(16, MAPPED_BYTES // gradient))))


def batches_beside(engine: Backward, batch_size: int | None = None) -> int:
    """How many batches are computed at a time. batch_size: rows of one; None: `batch_rows`."""
    rows = (batch_size or batch_rows(engine)) * _row_bytes(engine)[1]
    return threads_that_fit(engine.device, rows + engine.frozen.pattern(0).nbytes)  # of which attention makes a copy


def _row_bytes(engine: Backward, positions: int | None = None) -> tuple[int, int]:
    """Of a row's gradient, and of all that a row takes while it is computed; positions as of `batch_rows`."""
    carried = max(1, (positions or engine.order.n_positions) - engine.leading.count)
    gradient = carried * engine.width * engine.targets.vectors.element_size()
    return gradient, 6 * gradient + 8 * engine.order.n_sources


class _Region:
    """Rows that are computed together, in node order. Room for them is taken at once, each row's where the one before it
    must end at the latest: so that finished rows need no second copy (memory that is not written to costs nothing)."""

    def __init__(self, rows: np.ndarray, most: np.ndarray) -> None:
        self.rows = rows  # (R,) rising
        self.starts = np.concatenate([[0], np.cumsum(most)])  # (R + 1,)
        self.lengths = np.zeros(len(rows), np.int64)
        self.columns = np.empty(self.starts[-1], np.int32)
        self.weights = np.empty(self.starts[-1], np.float32)

    def close(self) -> None:
        """Move the rows together, in place."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        for to, start, length in zip(ends[:-1], self.starts[:-1], self.lengths, strict=True):
            if to != start:
                for values in (self.columns, self.weights):
                    values[to : to + length] = values[start : start + length]
        self.starts, self.columns, self.weights = ends, self.columns[: ends[-1]], self.weights[: ends[-1]]


class Kept:
    """Finished rows of the matrix. most: (N,) entries that a row can have (`Prepared.inputs_at_most`); columns: (N,) bool,
    entries elsewhere are let go (None: none are);
    sums: whether `totals` are wanted."""

    def __init__(
        self, order: NodeOrder, most: np.ndarray, columns: np.ndarray | None = None, sums: bool = False
    ) -> None:
        self.order, self.most, self.sums = order, most, sums
        self.columns = None if columns is None else torch.from_numpy(np.flatnonzero(columns[: order.n_sources]))
        self.constants = np.zeros(order.size, np.float32)
        self.totals = np.zeros(order.size), np.zeros(order.size)  # sums and absolute sums over all columns
        self.regions: list[_Region] = []

    def compute(self, batches: Batches, rows: np.ndarray) -> None:
        rows = np.sort(rows)
        region = _Region(rows, self.most[rows])
        for batch in batches.of(rows):
            self._add(region, *batch)
        region.close()
        self.regions.append(region)

    def _add(self, region: _Region, batch: np.ndarray, effects: torch.Tensor, constants: torch.Tensor) -> None:
        self.constants[batch] = constants.cpu().numpy()
        if self.sums:
            self.totals[0][batch] = effects.sum(dim=1, dtype=torch.float64).cpu().numpy()
            self.totals[1][batch] = effects.abs().sum(dim=1, dtype=torch.float64).cpu().numpy()
        if self.columns is not None:
            self.columns = self.columns.to(effects.device)
            effects = effects[:, self.columns]
        row, column = effects.nonzero(as_tuple=True)
        weights = effects[row, column].cpu().numpy()
        columns = (column if self.columns is None else self.columns[column]).to(torch.int32).cpu().numpy()
        counts = torch.bincount(row, minlength=len(batch)).cpu().numpy()
        ends = np.cumsum(counts)
        for place, count, end in zip(np.searchsorted(region.rows, batch), counts, ends, strict=True):
            to = slice(region.starts[place], region.starts[place] + count)
            region.columns[to], region.weights[to] = columns[end - count : end], weights[end - count : end]
            region.lengths[place] = count

    def influence(self, target_weights: np.ndarray, layers: np.ndarray) -> np.ndarray:
        """(N,) influence on the targets over the rows that are known by now; nothing flows through the others.

        layers: (N,) of the features. From the targets down, so that what reaches a row is known before it is passed on.
        """
        blocks = row_blocks(self.order, layers[self.order.features])
        influence = np.zeros(self.order.size)
        for block in blocks:
            for region in self.regions:
                bounds = np.searchsorted(region.rows, [block.start, block.stop])
                for first, last in slabs(region.starts, slice(*bounds)):
                    rows, starts = region.rows[first:last], region.starts[first : last + 1]
                    entries = slice(starts[0], starts[-1])
                    sizes = np.abs(region.weights[entries]).astype(np.float64)
                    per_weight = (influence[rows] + target_weights[rows]) / np.maximum(self.totals[1][rows], FLOOR)
                    part = csr(sizes, region.columns[entries], starts - starts[0], (len(rows), self.order.size))
                    influence += part.T @ per_weight
        return influence

    def let_go(self, columns: np.ndarray) -> None:
        """Forget the entries outside of `columns` (N,) bool; totals stay."""
        for region in self.regions:
            stays = columns[region.columns]
            region.starts = np.concatenate([[0], np.cumsum(stays)])[region.starts]
            region.columns, region.weights = region.columns[stays], region.weights[stays]

    def matrix(self) -> sparse.csr_array:
        """The (N, N) matrix of what is known, in node order, other rows empty. The regions are used up by it."""
        counts = np.zeros(self.order.size + 1, np.int64)
        for region in self.regions:
            counts[region.rows + 1] = np.diff(region.starts)
        starts = np.cumsum(counts)
        if len(self.regions) == 1:
            region = self.regions.pop()
            columns, weights = region.columns, region.weights
        else:
            columns, weights = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
        while self.regions:
            region = self.regions.pop()
            for row, first, last in zip(region.rows, region.starts[:-1], region.starts[1:], strict=True):
                columns[starts[row] : starts[row + 1]] = region.columns[first:last]
                weights[starts[row] : starts[row + 1]] = region.weights[first:last]
        return csr(weights, columns, starts, (self.order.size, self.order.size))
