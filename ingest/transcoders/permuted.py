"""The null of a set of transcoders: its decoders in random order within their layers, and all else the same.

Encoders read the real model, so the same features fire as strongly; what they write means nothing any more.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch

from ingest.transcoders.set import Transcoder, TranscoderSet


@dataclass
class _Permuted(Transcoder):
    order: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long), repr=False)

    def decoder_rows(self, features: torch.Tensor) -> torch.Tensor:
        return super().decoder_rows(self.order.to(features.device)[features])


def permuted_set(transcoders: TranscoderSet, seed: int, share: float = 1.0) -> TranscoderSet:
    """The set with that share of each layer's decoders, drawn at random, in random order among themselves.

    Decoders stay where they are (they may be on disk); rows are looked up in another order.
    """
    generator = torch.Generator().manual_seed(seed)
    layers: list[Transcoder] = []
    for transcoder in transcoders.layers:
        moved = torch.randperm(transcoder.n_features, generator=generator)[: round(share * transcoder.n_features)]
        order = torch.arange(transcoder.n_features)
        order[moved.sort().values] = moved
        given = {one.name: getattr(transcoder, one.name) for one in fields(Transcoder)}
        layers.append(_Permuted(**given, order=order))
    return replace(transcoders, layers=layers)
