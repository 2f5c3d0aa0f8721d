"""What a graph before pruning says of ablations: of the set's own, or of one with its decoders permuted.

The same features fire (encoders read the real model), so the same ablations have a prediction by a permuted set's graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from ingest.causal.prompts import Feature
from ingest.models.base import Model
from ingest.trace.attribute import attribute
from ingest.trace.graph import FullGraph
from ingest.trace.targets import TargetSpec
from ingest.transcoders.set import TranscoderSet


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
