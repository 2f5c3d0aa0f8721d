"""Other graphs of the same prompt to compare with: before pruning, and the one that meaningless transcoders would give, with
every layer's decoders in random order and all else the same.

The same features fire (encoders read the real model), so the same ablations have a prediction by such a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from scipy import sparse

from ingest.causal.prompts import Feature
from ingest.models.base import Model
from ingest.trace.attribute import attribute
from ingest.trace.graph import FullGraph
from ingest.trace.targets import TargetSpec
from ingest.transcoders.set import Transcoder, TranscoderSet


@dataclass
class _Permuted(Transcoder):
    order: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long), repr=False)

    def decoder_rows(self, features: torch.Tensor) -> torch.Tensor:
        return super().decoder_rows(self.order.to(features.device)[features])


def permuted_set(transcoders: TranscoderSet, seed: int) -> TranscoderSet:
    """Decoders stay where they are (they may be on disk); rows are looked up in another order."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[Transcoder] = []
    for transcoder in transcoders.layers:
        given = {one.name: getattr(transcoder, one.name) for one in fields(Transcoder)}
        layers.append(_Permuted(**given, order=torch.randperm(transcoder.n_features, generator=generator)))
    return replace(transcoders, layers=layers)


def full_predictions(
    model: Model,
    transcoders: TranscoderSet,
    ids: Sequence[int],
    target: TargetSpec,
    features: Sequence[Feature],
    max_features: int | None,
) -> np.ndarray:
    """(n,) what the unpruned graph says ablating each feature does to a target."""
    full = attribute(
        model,
        transcoders,
        ids,
        targets=[target],
        max_features=max_features,
        warn=lambda _: None,
    )
    row = {(l, p, i): number for number, (l, p, i) in enumerate(full.features.tolist())}
    effects = total_effects(full, _row(full, target))
    return np.array([-effects[row[f]] * full.activations[row[f]] if f in row else 0.0 for f in features])


def _row(full: FullGraph, spec: TargetSpec) -> int:
    return int(full.explained_features[0]) if spec.feature is not None else full.order.logits.start


def total_effects(full: FullGraph, target: int) -> np.ndarray:
    """(N,) what one unit of each node does to `target` over all paths: the target's row of (I - B)^-1."""
    unit = np.ones(full.order.size)
    unit[full.order.features] = full.activations
    per_unit = sparse.csr_array(full.matrix / unit)
    step = np.zeros(full.order.size)
    step[target] = 1.0
    total = np.zeros(full.order.size)
    for _ in range(full.order.n_layers + 2):
        step = step @ per_unit
        if not step.any():
            break
        total += step
    return total
