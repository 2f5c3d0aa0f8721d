"""Which component can write into which: the nodes and edges of a component circuit, before any score.

Sources are the token embeddings (row 0), then layer by layer the heads and the MLP: what each adds to the residual stream,
all positions together. Inputs are the q, k and v of every head, every MLP and the logits. The stream is the sum of all
sources, so an input sees the sources before it, which are always the first few.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from atlas.circuit import KIND, SLOT, Nodes
from ingest.models.decoder import DecoderModel

SLOTS_OF_HEAD = ("q", "k", "v")


@dataclass(frozen=True)
class Wiring:
    """Notation: S sources, T inputs, E edges, N = S + 1 nodes (the last is the logits)."""

    layers: int
    heads: int  # query heads per layer
    parallel: bool = False  # an MLP does not see its own layer's heads

    @classmethod
    def of(cls, model: DecoderModel) -> Wiring:
        block = model.blocks()[0]
        return cls(model.n_layers, block.query.weight.shape[0] // block.head_size, model.parallel)

    @property
    def n_sources(self) -> int:
        return 1 + self.layers * (self.heads + 1)

    @property
    def n_inputs(self) -> int:
        return self.layers * (3 * self.heads + 1) + 1

    def head(self, layer: int, head: int) -> int:
        """Its source row."""
        return 1 + layer * (self.heads + 1) + head

    def heads_of(self, layer: int) -> slice:
        return slice(self.head(layer, 0), self.mlp(layer))

    def mlp(self, layer: int) -> int:
        """Its source row."""
        return self.head(layer, self.heads)

    def head_inputs(self, layer: int) -> slice:
        """Input rows of a layer: q of all heads, k of all heads, v of all heads."""
        first = layer * (3 * self.heads + 1)
        return slice(first, first + 3 * self.heads)

    def mlp_input(self, layer: int) -> int:
        return self.head_inputs(layer).stop

    @property
    def logit_input(self) -> int:
        return self.n_inputs - 1

    def seen_by_heads(self, layer: int) -> int:
        """So many sources, the first ones, does a layer's attention read."""
        return self.head(layer, 0)

    def seen_by_mlp(self, layer: int) -> int:
        return self.head(layer, 0) if self.parallel else self.mlp(layer)

    @cached_property
    def seen(self) -> np.ndarray:
        """(T,) number of sources each input reads."""
        counts = []
        for layer in range(self.layers):
            counts += [self.seen_by_heads(layer)] * (3 * self.heads) + [self.seen_by_mlp(layer)]
        return np.array([*counts, self.n_sources])

    @cached_property
    def input_node(self) -> np.ndarray:
        """(T,) node row an input belongs to."""
        rows: list[int] = []
        for layer in range(self.layers):
            heads = self.heads_of(layer)
            rows += [*range(heads.start, heads.stop)] * 3 + [self.mlp(layer)]
        return np.array([*rows, self.n_sources])

    @cached_property
    def input_slot(self) -> np.ndarray:
        """(T,) slot codes."""
        of_layer = [SLOT[slot] for slot in SLOTS_OF_HEAD for _ in range(self.heads)] + [SLOT["direct"]]
        return np.array(of_layer * self.layers + [SLOT["direct"]], np.uint8)

    @cached_property
    def edge_source(self) -> np.ndarray:
        """(E,) source row; edges are ordered by input, then source."""
        return np.concatenate([np.arange(count) for count in self.seen])

    @cached_property
    def edge_input(self) -> np.ndarray:
        """(E,) input row."""
        return np.repeat(np.arange(self.n_inputs), self.seen)

    @property
    def n_edges(self) -> int:
        return int(self.seen.sum())

    @property
    def edge_target(self) -> np.ndarray:
        """(E,) node row."""
        return self.input_node[self.edge_input]

    @property
    def edge_slot(self) -> np.ndarray:
        """(E,) slot codes."""
        return self.input_slot[self.edge_input]

    def edge(self, source: int, target: int, slot: str = "direct") -> int:
        """The edge's row. Raises KeyError where there is none."""
        found = np.flatnonzero(
            (self.edge_source == source) & (self.edge_target == target) & (self.edge_slot == SLOT[slot])
        )
        if not len(found):
            raise KeyError((source, target, slot))
        return int(found[0])

    def alive(self, keep: np.ndarray) -> np.ndarray:
        """(E,) bool -> (E,) bool: kept edges on a path of kept edges from the embeddings to the logits.

        The others change nothing: a node that no embedding reaches writes what it writes in the corrupted run.
        """
        source, target = self.edge_source, self.edge_target
        reached = np.zeros(self.n_sources + 1, bool)
        reached[0] = True
        for row in np.flatnonzero(keep):  # by input, so a source is done before anything reads it
            reached[target[row]] |= reached[source[row]]
        wanted = np.zeros_like(reached)
        wanted[-1] = True
        for row in np.flatnonzero(keep)[::-1]:
            wanted[source[row]] |= wanted[target[row]]
        return keep & reached[source] & wanted[target]

    def nodes(self) -> Nodes:
        """Node columns by row, without numbers."""
        of_layer = [*["head"] * self.heads, "mlp"]
        kinds = ["token", *of_layer * self.layers, "logit"]
        layers = [-1, *np.repeat(np.arange(self.layers), self.heads + 1).tolist(), self.layers]
        index = [-1, *[*range(self.heads), -1] * self.layers, -1]
        return Nodes(kind=[KIND[kind] for kind in kinds], layer=layers, index=index)
