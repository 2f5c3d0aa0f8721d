"""Positions before the first that can have features hold tokens and constants only. No gradient is carried over them: the few
vectors that stand there are carried up instead, and what attention brings from them to later positions is read from a
gradient like what any other source writes. (Every target would have to pay for these positions, and nearly all prompts
have one.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ingest.models.base import Frozen
from ingest.trace.forwards import attention_added, constants_added, skip_added
from ingest.trace.sources import Sources
from ingest.transcoders.set import TranscoderSet


@dataclass
class Leading:
    """The first c positions. Rows are of the constants first, then of the tokens there."""

    count: int  # c
    streams: list[torch.Tensor]  # [L + 1]: (1 + c, c, d) where a layer begins, and above all
    writes: list[torch.Tensor]  # [L]: ((P - c) * d, 1 + c) to later positions through its attention, with its biases

    def read(self, layer: int, grad: torch.Tensor, effects: torch.Tensor, constants: torch.Tensor) -> None:
        """Adds to effects (B, >= c), of which the first are those of the tokens here, and constants (B,) what gradients (B, p, d)
        after the layer's attention get through it, at positions from c on."""
        reads = grad.flatten(1)
        found = (reads @ self.writes[layer][: reads.shape[1]]).float()
        constants += found[:, 0]
        effects[:, : self.count] += found[:, 1:]

    def at(self, layers: torch.Tensor, positions: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """(B, 1 + c) effects on targets (B, d) at these positions themselves, of the stream after so many layers."""
        streams = torch.stack(self.streams)[layers, :, positions]  # (B, 1 + c, d)
        return torch.einsum("bd,bsd->bs", vectors, streams).float()


def find_leading(frozen: Frozen, transcoders: TranscoderSet, sources: Sources, count: int) -> Leading:
    """count: how many positions at the beginning have neither features nor errors."""
    n_positions, width = frozen.final.shape
    count = min(count, n_positions)
    stream = frozen.final.new_zeros(1 + count, n_positions, width)  # 0 behind the first ones
    here = torch.arange(count, device=stream.device)
    stream[1 + here, here] = frozen.token_vectors[:count]
    if frozen.position_vectors is not None:
        stream[0, :count] = frozen.position_vectors[:count]
    streams, writes = [stream[:, :count].clone()], []
    for layer in range(len(transcoders.layers)):
        before = stream.clone() if frozen.parallel else stream
        added = attention_added(frozen, layer, stream, constants=True)
        writes.append(added[:, count:].flatten(1).T.contiguous())
        stream[:, :count] += added[:, :count]
        skipped = skip_added(frozen, transcoders, layer, before, constants=True)
        if skipped is not None:
            stream[:, :count] += skipped[:, :count]
        stream[0, :count] += constants_added(frozen, sources, layer)[:count]
        streams.append(stream[:, :count].clone())
    return Leading(count, streams, writes)
