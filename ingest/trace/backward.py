"""The backward pass through the frozen linear maps, for a batch of targets at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ingest.models.base import Frozen
from ingest.models.products import product, products_by_position
from ingest.trace.carried import Carried
from ingest.trace.graph import NodeOrder
from ingest.trace.leading import Leading
from ingest.trace.sources import Sources
from ingest.trace.targets import Targets
from ingest.transcoders.set import TranscoderSet


@dataclass
class _Way:
    """A batch on its way down. The first `live` rows have begun; of these the first `spread` have met attention, which brings them
    to positions before their own."""

    layers: np.ndarray  # (B,) where each begins
    rows: np.ndarray  # (B,) node rows
    places: torch.Tensor  # (B,) their positions, behind the leading ones
    grad: torch.Tensor  # (B, p, d)
    effects: torch.Tensor  # (B, n_sources) float32, of sources passed by now
    constants: torch.Tensor  # (B,) float32
    live: int = 0
    spread: int = 0

    def begin(self, vectors: torch.Tensor) -> None:
        """(n, d) gradients of the next rows, each at its own position."""
        new = torch.arange(self.live, self.live + len(vectors), device=vectors.device)
        self.grad[new, self.places[new]] = vectors
        self.live += len(vectors)


class Backward:
    """Carries gradients of a batch of targets down and collects the effects of all sources."""

    def __init__(
        self,
        frozen: Frozen,
        transcoders: TranscoderSet,
        sources: Sources,
        order: NodeOrder,
        targets: Targets,
        leading: Leading,
        carried: Carried | None = None,
    ) -> None:
        self.frozen = frozen
        self.transcoders = transcoders
        self.sources = sources
        self.order = order
        self.targets = targets
        self.leading = leading
        self.carried = carried
        self.device, self.dtype, self.width = targets.vectors.device, targets.vectors.dtype, targets.vectors.shape[1]

    @property
    def meets_at(self) -> int:
        """The layer where targets from it on stop and meet the sources below it; 0: all go all the way."""
        return self.carried.layer if self.carried else 0

    @property
    def walk_work(self) -> float:
        """Multiply-adds in the time that the calls of a batch's way through one layer take by themselves, however few its rows:
        measured on a CPU, estimated for a GPU (some 50 launches)."""
        return 2.0**21 if self.device.type == "cpu" else 2.0**32

    def heights(self, layers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(B,) where a row's way down begins: in the middle of its layer for a feature; for a target above the sources at
        the stream after `layers` layers."""
        return layers + 0.5 * (rows < self.order.n_features)

    def rows(self, layers: np.ndarray, rows: np.ndarray, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Effects on targets behind the leading positions that share a side of the layer up to which sources were carried, sorted
        by `heights` from the top.

        layers, rows: (B,) as in `heights`; positions: (B,) of the targets, all of which are carried over those of the last. Returns
        (B, n_sources) effects and (B,) effects of constants, float32.
        """
        first, end = self.leading.count, int(positions.max()) + 1
        way = _Way(
            layers,
            rows,
            torch.from_numpy(positions - first).to(self.device),
            torch.zeros(len(rows), end - first, self.width, device=self.device, dtype=self.dtype),
            torch.zeros(len(rows), self.order.n_sources, device=self.device),
            torch.zeros(len(rows), device=self.device),
        )
        meeting = self.carried if min(layers, default=0) >= self.meets_at else None
        floor = meeting.layer if meeting else 0
        for layer in range(int(np.ceil(self.heights(layers, rows).max(initial=0))), floor - 1, -1):
            above = int(((layers == layer) & (rows >= self.order.n_sources)).sum())
            if above:
                picked = torch.from_numpy(rows[way.live : way.live + above] - self.order.n_sources).to(self.device)
                way.begin(self.targets.vectors[picked])
            if layer == floor:
                break
            self._down(layer - 1, way)
        grad, effects, constants = way.grad, way.effects, way.constants
        if meeting:
            meeting.collect(grad, first, effects, constants)
            return effects, constants
        here = slice(first, end)
        effects[:, self.order.tokens][:, here] = torch.einsum(
            "bpd,pd->bp", grad, self.frozen.token_vectors[here]
        ).float()
        if self.frozen.position_vectors is not None:
            constants += torch.einsum("bpd,pd->b", grad, self.frozen.position_vectors[here]).float()
        return effects, constants

    def rows_leading(
        self, layers: np.ndarray, rows: np.ndarray, positions: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `rows`, of targets above the sources at the leading positions."""
        layer, row, position = (torch.from_numpy(each).to(self.device) for each in (layers, rows, positions))
        found = self.leading.at(layer, position, self.targets.vectors[row - self.order.n_sources])
        effects = torch.zeros(len(rows), self.order.n_sources, device=self.device)
        effects[:, self.order.tokens][:, : self.leading.count] = found[:, 1:]
        return effects, found[:, 0]

    def _down(self, layer: int, way: _Way) -> None:
        """Through one layer, whose features' rows begin on the way."""
        live = way.live
        skipped = self._from_mlp(layer, way.grad[:live], way.effects[:live], way.constants[:live]) if live else None
        if self.frozen.parallel:  # attention does not lie between a layer's features and the stream
            self._through_attention(layer, way)
        if skipped is not None:
            way.grad[:live] += skipped
        born = int(((way.layers == layer) & (way.rows < self.order.n_features)).sum())
        if born:
            picked = torch.from_numpy(way.rows[live : live + born] - self.sources.starts[layer][0]).to(self.device)
            encoder = self.sources.encoders[layer][picked]
            place = way.places[live : live + born] + self.leading.count
            way.begin(self.frozen.input_back(layer, encoder, place))
            read = self.frozen.input_constant(layer)
            if read is not None:
                way.constants[live : way.live] += (encoder @ read).float()
        if not self.frozen.parallel:
            self._through_attention(layer, way)

    def _through_attention(self, layer: int, way: _Way) -> None:
        live = way.live
        if not live:
            return
        grad, alone = way.grad[:live], way.places[way.spread : live]
        self.leading.read(layer, grad, way.effects[:live, self.order.tokens], way.constants[:live])
        grad += self.frozen.attention_back(layer, grad, self.leading.count, alone)
        way.spread = live

    def _from_mlp(
        self, layer: int, grad: torch.Tensor, effects: torch.Tensor, constants: torch.Tensor
    ) -> torch.Tensor | None:
        """Collect what is written at the layer's output hook; returns the gradient through a skip connection, if any."""
        first = self.leading.count
        here = slice(first, first + grad.shape[1])
        at_output = self.frozen.output_back(layer, grad, here)
        writes = self.sources.writes[layer]
        begins = writes.starts[here.start : here.stop + 1]
        found = products_by_position(at_output, writes.vectors, begins).float()
        # a cross-layer feature adds up what it writes at each layer
        if isinstance(writes.columns, slice):
            rows = slice(writes.columns.start + begins[0], writes.columns.start + begins[-1])
            effects[:, rows] += found
        else:  # many times quicker than += with numbers of columns
            effects.index_add_(1, writes.columns[begins[0] : begins[-1]], found)
        fixed = torch.bmm(
            at_output.transpose(0, 1), self.sources.fixed[layer, here].transpose(1, 2)
        ).float()  # (p, B, 2)
        effects[:, self.order.error_row(layer, here.start) : self.order.error_row(layer, here.stop)] = fixed[..., 0].T
        constants += fixed[..., 1].sum(dim=0)
        skip = self.transcoders.layers[layer].w_skip
        if skip is None:
            return None
        at_input = product(at_output, skip)
        read = self.frozen.input_constant(layer)
        if read is not None:
            constants += (at_input.sum(dim=1) @ read).float()
        return self.frozen.input_back(layer, at_input, here)
