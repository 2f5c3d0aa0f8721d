"""What a trace would take, without doing it: one forward pass, the active features, and a few rows timed."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from atlas.records import TraceEstimate
from ingest.models.base import Model
from ingest.trace.attribute import batch_rows, prepare
from ingest.trace.targets import TargetSpec
from ingest.transcoders.set import TranscoderSet

SAMPLES = 3  # batches that are timed
OVERHEAD_BYTES = 256 * 2**20  # interpreter, libraries, gradients of a batch


@torch.inference_mode()
def estimate_trace(
    model: Model,
    transcoders: TranscoderSet,
    token_ids: Sequence[int],
    *,
    targets: Sequence[TargetSpec] | None = None,
    max_logits: int = 10,
    logit_mass: float = 0.95,
    max_features: int | None = None,
) -> TraceEstimate:
    """Counts are exact; seconds and bytes are estimates (bytes: above what model and set take, edges counted as all
    non-zero). Raises as `attribute` does."""
    began = time.monotonic()
    ready = prepare(model, transcoders, token_ids, targets, None, max_logits, logit_mass)
    setup = time.monotonic() - began
    order = ready.order
    layer, position = ready.places()
    rows = np.concatenate([np.arange(order.n_features), np.arange(order.n_sources, order.size)])
    # a row costs a matrix product per layer below it and position up to its own
    cost = (layer[rows] + 1.0) * (position[rows] + 1.0)
    kept = 1.0 if max_features is None else min(1.0, max_features / max(order.n_features, 1))
    size = batch_rows(ready.engine)
    by_position = [rows[position[rows] == p] for p in np.unique(position[rows])]
    picks: list[int] = np.unique(np.linspace(0, max(len(by_position) - 1, 0), SAMPLES).astype(int)).tolist()
    spent = done = 0.0
    for pick in picks:
        there = by_position[pick][:size]
        there = there[np.argsort(-ready.engine.heights(layer[there], there), kind="stable")]
        start = time.monotonic()
        ready.engine.rows(layer[there], there, int(position[there[0]]))
        spent += time.monotonic() - start
        done += float(((layer[there] + 1.0) * (position[there] + 1.0)).sum())
    seconds = setup + (spent / done * cost.sum() * kept if done else 0.0)
    # every row may have an edge from each source below and before it; half of them is usual
    sources = order.n_sources / 2
    edges = int(len(rows) * kept * sources / 2)
    return TraceEstimate(
        tokens=order.n_positions,
        active_features=order.n_features,
        targets=order.n_logits + len(ready.explained),
        nodes=order.size,
        edges_at_most=edges * 2,
        seconds=round(seconds, 3),
        memory_bytes=int(8 * edges * 2 + 8 * order.n_sources * size + OVERHEAD_BYTES),
        explained_variance=round(ready.explained_variance(), 4),
        largest_layers=np.bincount(ready.sources.features[:, 0].numpy(), minlength=order.n_layers).tolist(),
    )
