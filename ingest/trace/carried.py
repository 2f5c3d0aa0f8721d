"""Meeting in the middle: sources of the lowest layers are carried up to a layer, once, and gradients come down to it only.

Carried down to the embeddings, every target pays for the attention of all layers below it, and a source carried up pays as
much for those above it. So targets from a layer m on stop where it begins, and one product with what the sources below have
become by then gives their effects; features below m are read from the sources as these pass by. With as many sources as
targets and m at half of the layers, half of the work is left. The products at the meeting grow with the cube of the prompt's
length, and what is carried and read with its square, so that for a long prompt the best m is low.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ingest.models.base import Frozen
from ingest.trace.graph import NodeOrder
from ingest.trace.sources import Sources
from ingest.transcoders.set import TranscoderSet


@dataclass
class Carried:
    """What sources below layer `layer` have become at its beginning. None is anywhere before its own position."""

    layer: int
    rows: list[torch.Tensor]  # by position: (n,) node rows of the sources there
    vectors: list[torch.Tensor]  # by position j: (P - j, d, n)
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

    def collect(self, grad: torch.Tensor, effects: torch.Tensor, constants: torch.Tensor) -> None:
        """Adds to effects (B, n_sources) and constants (B,) what targets with gradients (B, p, d) at the layer's beginning get."""
        p = grad.shape[1]
        for position in range(p):
            become = self.vectors[position][: p - position].flatten(0, 1)
            effects.index_add_(1, self.rows[position], (grad[:, position:].flatten(1) @ become).float())
        constants += (grad.flatten(1) @ self.constant[:p].flatten()).float()


class Upward:
    """Carries sources up through the frozen linear maps, all of a position together."""

    def __init__(self, frozen: Frozen, transcoders: TranscoderSet, sources: Sources, order: NodeOrder) -> None:
        self.frozen, self.transcoders, self.sources, self.order = frozen, transcoders, sources, order

    def to(self, layer: int) -> Carried:
        starts, n_positions, device = self.sources.starts, self.order.n_positions, self.frozen.final.device
        n_read = starts[layer - 1][-1]  # features of the layers below
        counts = [1 + layer + sum(own[j + 1] - own[j] for own in starts[:layer]) for j in range(n_positions)]
        passed, constants = (torch.zeros(n_read, n, device=device) for n in (sum(counts), 1))
        parts = enumerate(passed.split(counts, dim=1))
        rows, vectors = zip(*(self._from(position, layer, part) for position, part in parts), strict=True)
        constant = self._constant(layer, constants)
        return Carried(layer, list(rows), list(vectors), constant, passed, constants[:, 0])

    def _from(self, position: int, top: int, passed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n,) rows of a position's sources, its token's first, and (P - position, d, n) what they are where `top` begins.

        passed (f, n): gets their effects on features below.
        """
        starts, order, final = self.sources.starts, self.order, self.frozen.final
        born = [[order.tokens.start + position]]
        for layer in range(top):
            own = range(starts[layer][position], starts[layer][position + 1])
            born.append([*own, order.error_row(layer, position)])
        rows = torch.tensor([row for layer in born for row in layer], device=final.device)
        ends = np.cumsum([len(layer) for layer in born]).tolist()
        stream = final.new_zeros(len(rows), order.n_positions - position, final.shape[1])
        stream[0, 0] = self.frozen.token_vectors[position]
        for layer in range(top):
            self._through(layer, stream[: ends[layer]], position, passed[:, : ends[layer]])
            writes = self.sources.writes[layer][position]
            written = self.frozen.output_back(layer, writes.vectors, position)
            error = ends[layer + 1] - 1
            at: slice | torch.Tensor = slice(ends[layer], error)
            if not isinstance(writes.columns, slice):  # a cross-layer feature writes again above its own layer
                at = _places(rows, writes.columns)
            stream[at, 0] += written[:-2]
            stream[error, 0] += written[-2]
        return rows, stream[: len(rows)].permute(1, 2, 0).contiguous()

    def _constant(self, top: int, passed: torch.Tensor) -> torch.Tensor:
        """(P, d) what constants and biases are where `top` begins. passed (f, 1): gets their effects on features below."""
        frozen = self.frozen
        stream = torch.zeros_like(frozen.final) if frozen.position_vectors is None else frozen.position_vectors.clone()
        everywhere = slice(0, len(stream))
        for layer in range(top):
            self._through(layer, stream[None], 0, passed, biases=True)
            written = torch.stack([writes.vectors[-1] for writes in self.sources.writes[layer]])
            stream += frozen.output_back(layer, written, everywhere)
        return stream

    def _through(
        self, layer: int, stream: torch.Tensor, first: int, passed: torch.Tensor, biases: bool = False
    ) -> None:
        """In place (B, P - first, d), through a layer's attention and its transcoder's skip connection, and past its features;
        what these and errors write is added after it."""
        frozen, skip = self.frozen, self.transcoders.layers[layer].w_skip
        constant, read = frozen.attention_constants[layer], frozen.input_constant(layer)
        before = stream.clone() if frozen.parallel else stream
        added = frozen.attention_write(layer, frozen.attention_values(layer, stream), first)
        if biases and constant is not None:
            added = added + constant
        stream += added
        self._past(layer, before, first, passed, read if biases else None)
        if skip is None:
            return
        skipped = frozen.skip_forward(layer, before, skip, first)
        if biases and read is not None:
            through = (skip @ read).expand(stream.shape[1:])
            skipped = skipped + frozen.output_back(layer, through, slice(first, None))
        stream += skipped

    def _past(
        self, layer: int, stream: torch.Tensor, first: int, passed: torch.Tensor, constant: torch.Tensor | None
    ) -> None:
        """Effects on the layer's features of streams (B, P - first, d) before its MLP, and of a constant (d,) there, into passed (f, B)."""
        starts, sources = self.sources.starts[layer], self.sources
        encoders = sources.encoders[layer][starts[first] - starts[0] :]
        positions = sources.features[starts[first] : starts[-1], 1].to(stream.device)
        reads = self.frozen.input_back(layer, encoders, positions).split(np.diff(starts[first:]).tolist())
        for place, there in enumerate(reads):
            rows = slice(starts[first + place], starts[first + place + 1])
            passed[rows] = (there @ stream[:, place].T).float()
        if constant is not None:
            passed[starts[first] : starts[-1]] += (encoders @ constant).float()[:, None]


def _places(rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Where each of `wanted` stands in `rows`."""
    order = rows.argsort()
    return order[torch.searchsorted(rows[order], wanted)]


def best_layer(
    targets: np.ndarray, sources: np.ndarray, width: int, attention: float, calls: float, most_bytes: float
) -> int:
    """The layer at which to meet, by multiply-adds; 0: nowhere, gradients go all the way.

    targets: (L + 1, P) how many stand at each layer and position (L: above all); sources: (L + 1, P) tokens in row 0, then those of
    layer 0 and so on, an error and features; attention: multiply-adds of a layer's attention at one position; calls: as many as a walk through a layer costs anyway; most_bytes: that may be carried, in float32.
    """
    n_layers, p = targets.shape[0] - 1, targets.shape[1]
    layers, reached = np.arange(n_layers + 1)[:, None], np.arange(1, p + 1)
    beyond = np.maximum(reached[:, None] - np.arange(p), 0)  # (P of a target, P of a source) positions that both are at

    def cost(m: int) -> float:
        down = (targets * (layers + 1 - m) * reached)[m:].sum()
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
