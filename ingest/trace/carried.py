"""Meeting in the middle: sources of the lowest layers are carried up to a layer, once, and gradients come down to it only.

Carried down to the embeddings, every target pays for the attention of all layers below it, and a source carried up pays as
much for those above it. So targets from a layer m on stop where it begins, and one product with what the sources below have
become by then gives their effects; features below m are read from the sources as these pass by. With as many sources as
targets and m at half of the layers, half of the work is left. The products at the meeting grow with the cube of the prompt's
length, and what is carried and read with its square, so that for a long prompt the best m is low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ingest.memory import threads_that_fit
from ingest.models.base import Frozen
from ingest.models.devices import beside
from ingest.models.products import products_by_position
from ingest.trace.forwards import attention_added, constants_added, skip_added
from ingest.trace.graph import NodeOrder
from ingest.trace.sources import Sources
from ingest.transcoders.set import TranscoderSet

COPIES = 4  # of the streams of a walk, while they go through attention


@dataclass
class Carried:
    """What sources below layer `layer` have become at its beginning. None is anywhere before its own position."""

    layer: int
    firsts: list[int]  # by walk: the position where it begins
    rows: list[torch.Tensor]  # by walk: (n,) node rows of its sources
    vectors: list[torch.Tensor]  # by walk: (n, P - first, d)
    constant: torch.Tensor  # (P, d) what constants and biases have become
    passed: torch.Tensor  # (f, all n) float32 effects on the features of layers below, by node row; columns as `rows`
    passed_constants: torch.Tensor  # (f,) float32

    @property
    def nbytes(self) -> int:
        return self.passed.nbytes + sum(one.nbytes for one in self.vectors)

    def read(self, rows: np.ndarray, n_sources: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, n_sources) effects and (B,) effects of constants on features of layers below."""
        picked = torch.from_numpy(rows).to(self.passed.device)
        effects = torch.zeros(len(rows), n_sources, device=self.passed.device)
        effects[:, torch.cat(self.rows)] = self.passed[picked]
        return effects, self.passed_constants[picked]

    def let_go_passed(self) -> None:
        """After all of `read`: it may take as much memory as what is carried."""
        self.passed = self.passed[:0].clone()

    def collect(self, grad: torch.Tensor, begin: int, effects: torch.Tensor, constants: torch.Tensor) -> None:
        """Adds to effects (B, n_sources) and constants (B,) what targets get whose gradients (B, p, d) at the layer's beginning are
        those at positions from `begin` on."""
        end = begin + grad.shape[1]
        for first, rows, vectors in zip(self.firsts, self.rows, self.vectors, strict=True):
            since = max(first, begin)
            if since < end:
                become = vectors[:, since - first : end - first].flatten(1)
                effects.index_add_(1, rows, (grad[:, since - begin :].flatten(1) @ become.T).float())
        constants += (grad.flatten(1) @ self.constant[begin:end].flatten()).float()


class Upward:
    """Carries sources up through the frozen linear maps: those of a position together, and of neighbouring ones where the calls
    of a walk for each would cost more than products with zeros."""

    def __init__(
        self, frozen: Frozen, transcoders: TranscoderSet, sources: Sources, order: NodeOrder, walk_work: float
    ) -> None:
        self.frozen, self.transcoders, self.sources, self.order = frozen, transcoders, sources, order
        self.walk_work = walk_work  # see `Backward`

    def to(self, layer: int) -> Carried:
        starts, n_positions, final = self.sources.starts, self.order.n_positions, self.frozen.final
        counts = [1 + layer + sum(own[j + 1] - own[j] for own in starts[:layer]) for j in range(n_positions)]
        walks = neighbours(counts[::-1], self.walk_work / self.frozen.attention_work(n_positions))
        walks = [range(n_positions - walk.stop, n_positions - walk.start) for walk in walks[::-1]]
        n_read = starts[layer - 1][-1]  # features of the layers below
        passed = torch.zeros(n_read, 1 + sum(counts), device=final.device)  # of the constants first
        ends = np.cumsum([1, *counts])

        def walked(walk: range) -> tuple[torch.Tensor, torch.Tensor]:
            columns = slice(int(ends[walk.start]) if walk.start else 0, int(ends[walk.stop]))
            return self._from(walk, layer, passed[:, columns])

        rows, vectors = [], []
        most = max(sum(counts[walk.start : walk.stop]) for walk in walks) * final.nbytes
        threads = threads_that_fit(final.device, COPIES * most + self.frozen.pattern(0).nbytes)
        for walk, (found, stream) in beside(walks, walked, threads):
            if not walk.start:
                constant, found, stream = stream[0].clone(), found[1:], stream[1:]
            rows.append(found)
            vectors.append(stream)
        return Carried(
            layer, [walk.start for walk in walks], rows, vectors, constant, passed[:, 1:], passed[:, 0].clone()
        )

    def _from(self, walk: range, top: int, passed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n,) rows of the sources at some positions, their tokens' first, and (n, P - first, d) what they are where `top`
        begins; before all of them, in the walk from position 0, what constants and biases are (row `n_sources`).

        passed (f, n): gets their effects on features below.
        """
        order, final, device, first = self.order, self.frozen.final, self.frozen.final.device, walk.start
        starts, tokens = self.sources.starts, order.tokens.start
        constants = [] if first else [order.n_sources]
        born = [[*constants, *(tokens + j for j in walk)]]
        places = [*(0 for _ in constants), *range(len(walk))]
        for own in starts[:top]:
            layer = len(born) - 1
            born.append([*range(own[first], own[walk.stop]), *(order.error_row(layer, j) for j in walk)])
            places += np.repeat(range(len(walk)), np.diff(own[first : walk.stop + 1])).tolist()
            places += range(len(walk))
        rows = torch.tensor([row for layer in born for row in layer], device=device)
        where = torch.tensor(places, device=device)  # (n,) positions, from the first on
        ends = np.cumsum([len(layer) for layer in born]).tolist()
        stream = final.new_zeros(len(rows), order.n_positions - first, final.shape[1])
        begun = torch.arange(len(constants), ends[0], device=device)
        stream[begun, where[begun]] = self.frozen.token_vectors[first : walk.stop]
        if constants and self.frozen.position_vectors is not None:
            stream[0] = self.frozen.position_vectors
        for layer in range(top):
            self._through(layer, stream[: ends[layer]], first, passed[:, : ends[layer]])
            writes, last = self.sources.writes[layer], ends[layer + 1] - len(walk)
            here = slice(writes.starts[first], writes.starts[walk.stop])
            at = torch.arange(ends[layer], ends[layer + 1], device=device)
            if isinstance(writes.columns, torch.Tensor):  # a cross-layer feature writes again above its own layer
                at = torch.cat([_places(rows, writes.columns[here]), at[last - ends[layer] :]])
            written = torch.cat([writes.vectors[here], self.sources.errors[layer, first : walk.stop]])
            stream[at, where[at]] += self.frozen.output_back(layer, written, first + where[at])
            if constants:
                stream[0] += constants_added(self.frozen, self.sources, layer)
        return rows, stream

    def _through(self, layer: int, stream: torch.Tensor, first: int, passed: torch.Tensor) -> None:
        """In place (B, P - first, d), through a layer's attention and its transcoder's skip connection, and past its features;
        what these and errors write is added after it. In the walk from position 0 the first row is that of the constants."""
        frozen, constants = self.frozen, not first
        before = stream.clone() if frozen.parallel else stream
        stream += attention_added(frozen, layer, stream, first, constants)
        self._past(layer, before, first, passed)
        skipped = skip_added(frozen, self.transcoders, layer, before, first, constants)
        if skipped is not None:
            stream += skipped

    def _past(self, layer: int, stream: torch.Tensor, first: int, passed: torch.Tensor) -> None:
        """Effects on the layer's features of streams (B, P - first, d) before its MLP, into passed (f, B)."""
        starts, sources, read = self.sources.starts[layer], self.sources, self.frozen.input_constant(layer)
        encoders = sources.encoders[layer][starts[first] - starts[0] :]
        positions = sources.features[starts[first] : starts[-1], 1].to(stream.device)
        reads = self.frozen.input_back(layer, encoders, positions)
        begins = [start - starts[first] for start in starts[first:]]
        passed[starts[first] : starts[-1]] = products_by_position(stream, reads, begins).T.float()
        if not first and read is not None:
            passed[starts[0] : starts[-1], 0] += (encoders @ read).float()


def neighbours(counts: Sequence[int], most: float) -> list[range]:
    """Positions whose rows go in one walk, over all positions up to its last: so many rows times positions that are zeros there are
    no more than `most` at each step. counts: (P,) of the rows that end at each."""
    walks, begun, rows = [], 0, 0
    for here, count in enumerate(counts):
        if rows > most:
            walks.append(range(begun, here))
            begun, rows = here, 0
        rows += count
    return [*walks, range(begun, len(counts))]


def _places(rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Where each of `wanted` stands in `rows`."""
    order = rows.argsort()
    return order[torch.searchsorted(rows[order], wanted)]


def best_layer(
    targets: np.ndarray,
    sources: np.ndarray,
    width: int,
    attention: float,
    calls: float,
    most_bytes: float,
    leading: int = 0,
) -> int:
    """The layer at which to meet, by multiply-adds; 0: nowhere, gradients go all the way.

    targets: (L + 1, P) how many stand at each layer and position (L: above all); sources: (L + 1, P) tokens in row 0, then those of
    layer 0 and so on, an error and features; attention: multiply-adds of a layer's attention at one position; calls: as many as a walk through a layer costs anyway; most_bytes: that may be carried, in float32;
    leading: positions over which no gradient is carried.
    """
    n_layers, p = targets.shape[0] - 1, targets.shape[1]
    layers, reached = np.arange(n_layers + 1)[:, None], np.arange(1, p + 1)
    carried = np.maximum(reached - leading, 0)  # (P,) positions, of a target at each
    # (P of a target, P of a source) positions that both are at
    beyond = np.maximum(reached[:, None] - np.maximum(np.arange(p), leading), 0)

    def cost(m: int) -> float:
        down = (targets * (layers + 1 - m) * carried)[m:].sum()
        if m == 0:
            return float(down * attention)
        below = sources[: m + 1]
        places = (below * reached[::-1]).sum(axis=1)  # a source at j is at P - j positions
        passed = (below[1:] - 1).sum() * below.sum()
        if 4 * (width * places.sum() + passed) > most_bytes:
            return np.inf
        up = (places * (m - np.arange(m + 1))).sum()
        meeting = targets[m:].sum(axis=0) @ beyond @ below.sum(axis=0)
        return float((down + up) * attention + meeting * width + m * p * calls)

    return min(range(n_layers), key=cost)
