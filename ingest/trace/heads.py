"""Attention, opened: through which heads an edge's effect travelled, and how much went straight through the stream.

An edge is a sum over all ways through the frozen linear maps. Each way is counted at the **last** head it takes before it
reaches the target: the one that brought it to the target's position (that head's layer and number, from the position it read to
the target's). Ways without a head are straight; ways whose last step is a transcoder's skip connection are listed by its layer.
The parts of an edge sum to its weight.

Cost: one forward pass of each source through the linear maps, for all its edges together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from atlas.circuit import KIND, Circuit
from atlas.edges import REST, SKIP, STRAIGHT, edge_part, edge_row
from atlas.errors import NotFound
from atlas.records import EdgePart
from ingest.models.base import Model
from ingest.trace.attribute import Prepared, prepare
from ingest.trace.targets import TargetSpec
from ingest.transcoders.set import TranscoderSet

SOURCES_AT_ONCE = 32
EDGES_AT_ONCE = 256
NEGLIGIBLE = 1e-3  # of the sum of absolute parts: smaller ones of an edge are put together


@dataclass
class EdgeParts:
    """Rows of parts: `edge` is the place in the list of edges asked for. `head`: query head, or STRAIGHT, SKIP or REST."""

    edge: np.ndarray  # (R,) int32
    layer: np.ndarray  # (R,) int16; -1 for STRAIGHT and REST
    head: np.ndarray  # (R,) int16
    source_position: np.ndarray  # (R,) int32; -1 for REST
    weight: np.ndarray  # (R,) float32

    def tensors(self, edges: np.ndarray) -> dict[str, np.ndarray]:
        """As a circuit stores them (docs/circuit-file.md); `edges` (E,): the circuit's edge row of each edge asked for."""
        return {
            "heads.edge": edges[self.edge].astype(np.uint32),
            "heads.layer": self.layer,
            "heads.head": self.head,
            "heads.source_position": self.source_position,
            "heads.weight": self.weight,
        }


@dataclass
class _Reading:
    """A target: its gradient at the stream, its position, and how many layers' attention and MLPs lie below it."""

    vector: torch.Tensor
    position: int
    attentions: int
    mlps: int


class EdgeSplitter:
    """One prompt, frozen once, for any number of edges. Node rows are those of `order`, as `attribute` gives them."""

    def __init__(self, ready: Prepared) -> None:
        self.frozen, self.sources, self.targets, self.order = ready.frozen, ready.sources, ready.above, ready.order
        self.transcoders = ready.transcoders

    @classmethod
    def of_prompt(
        cls, model: Model, transcoders: TranscoderSet, token_ids: Sequence[int], targets: Sequence[TargetSpec]
    ) -> EdgeSplitter:
        """targets: `FullGraph.targets`. Raises as `attribute` does."""
        return cls(prepare(model, transcoders, token_ids, targets, None, 0, 0.0))

    @torch.inference_mode()
    def split(self, source: np.ndarray, target: np.ndarray) -> EdgeParts:
        """source, target (E,): node rows; sources are features, errors or tokens, targets features or the order's end."""
        found = []
        for start in range(0, len(sources := np.unique(source)), SOURCES_AT_ONCE):
            group = sources[start : start + SOURCES_AT_ONCE]
            edges = np.flatnonzero(np.isin(source, group))
            found.append(self._split_group(group, edges, source[edges], target[edges]))
        if not found:
            none = np.zeros(0)
            found = [EdgeParts(*(none.astype(t) for t in (np.int32, np.int16, np.int16, np.int32, np.float32)))]
        return EdgeParts(
            *(np.concatenate([getattr(part, name) for part in found]) for name in EdgeParts.__dataclass_fields__)
        )

    def _split_group(self, group: np.ndarray, edges: np.ndarray, source: np.ndarray, target: np.ndarray) -> EdgeParts:
        readings = {row: self._reading(int(row)) for row in np.unique(target)}
        place = {int(row): i for i, row in enumerate(group)}
        of_source = torch.tensor([place[int(row)] for row in source], device=self.frozen.final.device)
        chosen = [readings[row] for row in target]
        vectors = torch.stack([reading.vector for reading in chosen])
        at = torch.tensor([reading.position for reading in chosen], device=vectors.device)
        attentions = np.array([reading.attentions for reading in chosen])
        mlps = np.array([reading.mlps for reading in chosen])
        written = [self._written(int(row)) for row in group]  # by source: {layer: (position, vector)}
        stream = vectors.new_zeros(len(group), *self.frozen.final.shape)
        straight = vectors.new_zeros(len(edges)).float()
        rows: list[tuple[np.ndarray, int, np.ndarray, np.ndarray, np.ndarray]] = []
        for layer in range(-1, max(int(attentions.max(initial=0)), int(mlps.max(initial=0)))):
            if layer >= 0:
                values = self.frozen.attention_values(layer, stream)
                live = np.flatnonzero(attentions > layer)
                for begin in range(0, len(live), EDGES_AT_ONCE):
                    part = live[begin : begin + EDGES_AT_ONCE]
                    rows.append(self._through_heads(layer, part, values[of_source[part]], vectors[part], at[part]))
                before = stream
                stream = stream + self.frozen.attention_write(layer, values)
                skip = self.transcoders.layers[layer].w_skip
                if skip is not None:
                    added = self.frozen.skip_forward(layer, before if self.frozen.parallel else stream, skip)
                    live = np.flatnonzero(mlps > layer)
                    flow = (added[of_source[live], at[live]] * vectors[live]).sum(-1).float().cpu().numpy()
                    rows.append((live, layer, np.full(len(live), SKIP), at[live].cpu().numpy(), flow))
                    stream = stream + added
            stream = stream.clone() if layer >= 0 else stream
            injected = torch.zeros_like(stream)
            for i, places in enumerate(written):
                if layer in places:
                    position, vector = places[layer]
                    injected[i, position] += vector
            stream = stream + injected
            live = np.flatnonzero(mlps > layer)
            straight[live] += (injected[of_source[live], at[live]] * vectors[live]).sum(-1).float()
        return self._collect(edges, rows, straight.cpu().numpy(), at.cpu().numpy())

    def _through_heads(
        self, layer: int, part: np.ndarray, values: torch.Tensor, vectors: torch.Tensor, at: torch.Tensor
    ) -> tuple[np.ndarray, int, np.ndarray, np.ndarray, np.ndarray]:
        """values (e, P, n, h) of each edge's source, vectors (e, d), at (e,)."""
        grads = self.frozen.head_gradients(layer, vectors)
        flow = torch.einsum("epnh,engh->engp", values, grads)
        flow = flow * self.frozen.pattern(layer)[:, :, at].permute(2, 0, 1, 3)
        found: np.ndarray = flow.flatten(1, 2).float().cpu().numpy()  # (e, heads, P)
        edge, head, position = np.nonzero(found)
        return part[edge], layer, head, position, found[edge, head, position]

    def _collect(self, edges: np.ndarray, rows: list, straight: np.ndarray, at: np.ndarray) -> EdgeParts:
        count = len(edges)
        edge = np.concatenate([np.arange(count), *(r[0] for r in rows)])
        layer = np.concatenate([np.full(count, -1), *(np.full(len(r[0]), r[1]) for r in rows)])
        head = np.concatenate([np.full(count, STRAIGHT), *(r[2] for r in rows)])
        position = np.concatenate([at, *(r[3] for r in rows)])
        weight = np.concatenate([straight, *(r[4] for r in rows)]).astype(np.float64)
        total = np.bincount(edge, weights=np.abs(weight), minlength=count)
        keep = (np.abs(weight) > NEGLIGIBLE * total[edge]) & (weight != 0)
        rest = np.bincount(edge[~keep], weights=weight[~keep], minlength=count)
        left = np.flatnonzero(rest)
        edge = np.concatenate([edge[keep], left])
        order = np.lexsort((-np.abs(np.concatenate([weight[keep], rest[left]])), edge))
        none = np.full(len(left), -1)
        columns = (
            (edges[edge], np.int32),
            (np.concatenate([layer[keep], none]), np.int16),
            (np.concatenate([head[keep], np.full(len(left), REST)]), np.int16),
            (np.concatenate([position[keep], none]), np.int32),
            (np.concatenate([weight[keep], rest[left]]), np.float32),
        )
        return EdgeParts(*(values[order].astype(dtype) for values, dtype in columns))

    def _reading(self, row: int) -> _Reading:
        order = self.order
        if row >= order.n_sources:
            i = row - order.n_sources
            layer = int(self.targets.layers[i])
            return _Reading(self.targets.vectors[i], int(self.targets.positions[i]), layer, layer)
        layer, position, _ = (int(value) for value in self.sources.features[row])
        encoder = self.sources.encoders[layer][row - self.sources.starts[layer][0]]
        vector = self.frozen.input_back(layer, encoder[None], position)[0]
        return _Reading(vector, position, layer if self.frozen.parallel else layer + 1, layer)

    def _written(self, row: int) -> dict[int, tuple[int, torch.Tensor]]:
        """By layer (-1: the embedding): position and vector at the stream that a source writes."""
        order = self.order
        if row >= order.tokens.start:
            position = row - order.tokens.start
            return {-1: (position, self.frozen.token_vectors[position])}
        if row >= order.n_features:
            layer, position = divmod(row - order.n_features, order.n_positions)
            return {layer: (position, self.frozen.output_back(layer, self.sources.errors[layer, position], position))}
        layer, position, feature = (int(value) for value in self.sources.features[row])
        decoder = self.transcoders.layers[layer].decoder_rows(torch.tensor([feature]))[0]
        scaled = decoder * self.sources.activations[row].to(decoder.dtype)
        return {
            layer + above: (position, self.frozen.output_back(layer + above, vector, position))
            for above, vector in enumerate(scaled)
        }

    def row(self, circuit: Circuit, node: int) -> int:
        """The row here of a circuit's node. Raises NotFound for a node that this prompt does not have."""
        n = circuit.nodes
        layer, position, index = int(n.layer[node]), int(n.position[node]), int(n.index[node])
        if n.kind[node] == KIND["feature"]:
            found = (self.sources.features == torch.tensor([layer, position, index])).all(dim=1).nonzero()
            if not len(found):
                raise NotFound(
                    f"{circuit.keys[node]} does not fire in this model.", "Pass the model it was traced with."
                )
            return int(found[0, 0])
        if n.kind[node] == KIND["error"]:
            return self.order.error_row(layer, position)
        if n.kind[node] == KIND["token"]:
            return self.order.tokens.start + position
        same = (self.targets.ids == index) & (self.targets.positions == position)
        return self.order.n_sources + int(np.flatnonzero(same)[0])


def open_edge(
    model: Model, transcoders: TranscoderSet, circuit: Circuit, source: str, target: str, targets: Sequence[TargetSpec]
) -> list[EdgePart]:
    """The parts of any edge of a traced circuit, computed. `targets`: what it explains. Raises NotFound."""
    row = edge_row(circuit, source, target)
    splitter = EdgeSplitter.of_prompt(model, transcoders, circuit.record.examples[0].token_ids or [], targets)
    ends = (
        splitter.row(circuit, int(circuit.edges.source[row])),
        splitter.row(circuit, int(circuit.edges.target[row])),
    )
    found = splitter.split(np.array(ends[:1]), np.array(ends[1:]))
    position = int(circuit.nodes.position[circuit.edges.target[row]])
    columns = zip(found.layer, found.head, found.source_position, found.weight, strict=True)
    return [edge_part(int(a), int(b), int(c), position, float(w)) for a, b, c, w in columns]
