"""What a trace would take, without doing it: one forward pass, the active features, and a few rows timed."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from atlas.records import TraceEstimate
from ingest.models.base import Model
from ingest.models.devices import at_most_threads, few_threads
from ingest.trace.attribute import Prepared, prepare
from ingest.trace.memory import EDGE_BYTES, KEPT_EDGE_BYTES, ROW_EDGE_BYTES, must_stream, total_edges
from ingest.trace.rows import batch_rows, batches_beside
from ingest.trace.stream import KEPT_ROWS
from ingest.trace.targets import TargetSpec
from ingest.transcoders.set import TranscoderSet

SAMPLES = 3  # batches that are timed
OVERHEAD_BYTES = 256 * 2**20  # interpreter, libraries, gradients of a batch
KEPT_EDGES = 0.04  # of all, those among the nodes that stay: the most that was measured at the usual threshold


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
    node_threshold: float = 0.8,
    stream: bool | None = None,
    keep_full: bool = False,
) -> TraceEstimate:
    """Counts are exact; seconds and bytes are estimates (bytes: above what model and set take, edges counted as all
    non-zero). Raises as `attribute` does, and `ModelRejected` or `InputRejected` where the trace itself would not begin.
    """
    began = time.monotonic()
    ready = prepare(model, transcoders, token_ids, targets, None, max_logits, logit_mass)
    ready.meet(max_features)
    setup = time.monotonic() - began
    order = ready.order
    layer, position = ready.places
    rows = np.concatenate([np.arange(order.n_features), np.arange(order.n_sources, order.size)])
    cost = _cost(ready, layer[rows], position[rows])
    kept = 1.0 if max_features is None else min(1.0, max_features / max(order.n_features, 1))
    with few_threads(*ready.frozen.inputs.shape):
        seconds_each = _seconds_each(ready, layer, position, rows)
    streamed = must_stream(
        ready, max_features=max_features, node_threshold=node_threshold, stream=stream, keep_full=keep_full
    )
    twice = 1 + KEPT_ROWS if streamed and max_features is None else 1
    seconds = setup + seconds_each * cost.sum() * kept * twice
    edges = total_edges(ready, ready.inputs_at_most, max_features)
    return TraceEstimate(
        tokens=order.n_positions,
        active_features=order.n_features,
        targets=order.n_logits + len(ready.explained),
        nodes=order.size,
        edges_at_most=edges,
        seconds=round(seconds, 3),
        memory_bytes=_memory(ready, edges, streamed, capped=max_features is not None),
        explained_variance=round(ready.explained_variance, 4),
        largest_layers=np.bincount(ready.sources.features[:, 0].numpy(), minlength=order.n_layers).tolist(),
        streamed=streamed,
        warnings=ready.warnings(),
    )


def _seconds_each(ready: Prepared, layer: np.ndarray, position: np.ndarray, rows: np.ndarray) -> float:
    """Of one of `_cost`, as timed on a few batches; 0 where nothing is carried. layer, position: (N,)."""
    by_position = [rows[position[rows] == p] for p in np.unique(position[rows])]
    picks: list[int] = np.unique(np.linspace(0, max(len(by_position) - 1, 0), SAMPLES).astype(int)).tolist()
    spent, done, beside = 0.0, 0.0, batches_beside(ready.engine)
    for pick in picks:
        there = by_position[pick]
        met = (layer[there] >= ready.engine.meets_at) & (position[there] >= ready.engine.leading.count)
        if not met.any():  # read already
            continue
        there = there[met]
        size = batch_rows(ready.engine, int(position[there[0]]) + 1)
        there = there[max(0, (len(there) - size) // 2) :][:size]  # of middling layers
        there = there[np.argsort(-ready.engine.heights(layer[there], there), kind="stable")]
        with at_most_threads(1 if beside > 1 else torch.get_num_threads()):
            start = time.monotonic()
            ready.engine.rows(layer[there], there, position[there])
            spent += (time.monotonic() - start) / beside
        done += float(_cost(ready, layer[there], position[there]).sum())
    return spent / done if done else 0.0


def _cost(ready: Prepared, layer: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Of rows: the products with a layer's attention, one for each layer on the way down and position up to its own."""
    met = ready.engine.meets_at
    cost: np.ndarray = np.maximum(layer + 1.0 - met, 0.0) * np.maximum(position + 1.0 - ready.engine.leading.count, 0.0)
    return cost


def _memory(ready: Prepared, edges: int, streamed: bool, capped: bool) -> int:
    held = EDGE_BYTES * edges
    if streamed:
        held = ROW_EDGE_BYTES * edges if capped else int(KEPT_EDGE_BYTES * KEPT_EDGES * edges)
    batch = 8 * ready.order.n_sources * batch_rows(ready.engine) * batches_beside(ready.engine)
    vectors = sum(one.nbytes for one in ready.sources.encoders)
    vectors += ready.sources.fixed.nbytes + sum(writes.vectors.nbytes for writes in ready.sources.writes)
    carried = ready.engine.carried.nbytes if ready.engine.carried else 0
    return held + batch + vectors + carried + OVERHEAD_BYTES
