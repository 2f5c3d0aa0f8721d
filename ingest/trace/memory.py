"""How many edges a graph can have, whether they fit into memory, and so whether a trace is streamed (`ingest.trace.stream`)."""

from __future__ import annotations

import numpy as np

from atlas.errors import InputRejected, UsageError
from ingest.memory import available
from ingest.trace.attribute import Prepared

EDGE_BYTES = 12  # of a full graph: 8 held, the rest while it is pruned
KEPT_EDGE_BYTES = 40  # of the edges among the nodes that stay, most of which end in the circuit
ROW_EDGE_BYTES = 9  # of the rows of a feature cap, held until the features are chosen
SHARE = 0.5  # of the free memory, that the edges of a graph may take
GIB = 2**30


def must_stream(
    ready: Prepared,
    *,
    max_features: int | None = None,
    node_threshold: float = 0.8,
    stream: bool | None = None,
    keep_full: bool = False,
) -> bool:
    """Whether the trace must do without a full graph. stream: True or False where it is decided already.

    Raises UsageError or InputRejected, before any long work, when the graph is to be kept and does not fit, or
    when what was asked for does not fit either way.
    """
    if keep_full and stream:
        raise UsageError("A streamed trace holds no full graph that could be kept.", "Leave out one of the two.")
    counts, free = ready.inputs_at_most, available()
    edges = total_edges(ready, counts, max_features)
    if stream is None:
        stream = edges * EDGE_BYTES > SHARE * free
    if stream and keep_full:
        raise InputRejected(
            f"The full graph of this prompt has up to {edges:,} edges, which need {edges * EDGE_BYTES / GIB:.1f} GiB, and only "
            f"{free / GIB:.1f} GiB are free, so it cannot be kept.",
            f"Leave --keep-full out, or {_cap(counts, free, EDGE_BYTES)}.",
        )
    capped = max_features is not None and max_features < ready.order.n_features
    needed = 0.0
    if stream and capped:
        needed = max_features * counts[ready.order.features].mean() * ROW_EDGE_BYTES  # type: ignore[operator]
    elif stream and node_threshold >= 1:
        needed = edges * KEPT_EDGE_BYTES
    if needed > free:
        raise InputRejected(
            f"The edges that were asked for need about {needed / GIB:.1f} GiB, and only {free / GIB:.1f} GiB are free.",
            f"{'Lower the cap' if capped else 'Lower the node threshold'}, or {_cap(counts, free, ROW_EDGE_BYTES)}.",
        )
    return bool(stream)


def total_edges(ready: Prepared, counts: np.ndarray, max_features: int | None) -> int:
    """The most edges of a graph, from `Prepared.inputs_at_most`; with a cap those of its largest rows."""
    rows = np.sort(counts[ready.order.features])[::-1][:max_features]
    return int(rows.sum() + counts[ready.order.logits].sum())


def check_second_pass(ready: Prepared, nodes: np.ndarray) -> None:
    """Raises InputRejected when the edges among the nodes (N,) bool do not fit into memory."""
    edges, free = int(ready.inputs_among(nodes).sum()), available()
    if edges * KEPT_EDGE_BYTES > free:
        raise InputRejected(
            f"The {int(nodes.sum()):,} nodes within the threshold have {edges:,} edges among them, which need about "
            f"{edges * KEPT_EDGE_BYTES / GIB:.1f} GiB, and only {free / GIB:.1f} GiB are free.",
            f"Lower the node threshold, or {_cap(ready.inputs_at_most, free, ROW_EDGE_BYTES)}.",
        )


def _cap(counts: np.ndarray, free: int, bytes_each: int) -> str:
    """A --max-features whose rows fit, in words."""
    largest = max(int(counts.max(initial=1)), 1)
    number = int(SHARE * free / (largest * bytes_each))
    digits = max(len(str(number)) - 2, 0)
    return f"pass --max-features {max(number // 10**digits * 10**digits, 1)}"
