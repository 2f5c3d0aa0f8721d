"""Tracing without the full graph: its rows are computed twice and only what is kept of it is ever held.

The graph is layered. When rows are computed from the targets down, a node's influence is complete before its own row is
computed, because everything that it flows through lies above. So the first pass holds a batch of rows at a time, adds
what each passes on to its sources, and keeps a few numbers per row. Then it is known which nodes stay (`prune`); the second pass
computes the rows of those again and keeps the entries at columns that stay. All that a circuit holds follows from these:
the same as from the full graph, up to the order of additions in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ingest.models.devices import few_threads
from ingest.trace.attribute import Prepared, Warn, full_graph
from ingest.trace.graph import FLOOR, FullGraph, row_blocks
from ingest.trace.memory import check_second_pass
from ingest.trace.prune import strongest_nodes
from ingest.trace.rows import Batches, Kept, Progress

KEPT_ROWS = 0.2  # of all, for the progress until it is known; 0.15 to 0.19 were measured at the usual threshold
ENTRIES_AT_ONCE = 2**20  # in float64


@dataclass
class FirstPass:
    """What is kept of every row, (N,) float64 each; 0 for errors and tokens, which have no inputs."""

    influence: np.ndarray  # on the targets
    totals: tuple[np.ndarray, np.ndarray]  # sum and absolute sum
    entropies: np.ndarray  # nats, of the shares of the input


@torch.inference_mode()
def streamed(
    ready: Prepared,
    node_threshold: float,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
    warn: Warn | None = None,
) -> tuple[FullGraph, FirstPass]:
    """The graph with only the entries among the nodes that the threshold keeps, and what the first pass found.

    Raises ModelRejected when a row, or what is kept, does not fit into memory.
    """
    ready.check(None, warn)
    with few_threads(*ready.frozen.inputs.shape):
        return _streamed(ready, node_threshold, batch_size, progress)


def _streamed(
    ready: Prepared, node_threshold: float, batch_size: int | None, progress: Progress | None
) -> tuple[FullGraph, FirstPass]:
    ready.meet()
    order = ready.order
    rows = order.n_features + order.n_logits
    batches = Batches(ready.engine, ready.places, batch_size, progress, rows + int(KEPT_ROWS * rows))
    first = first_pass(ready, batches)
    nodes = strongest_nodes(order, first.influence, node_threshold, ready.explained)
    again = np.concatenate([np.flatnonzero(nodes[order.features]), np.arange(order.n_sources, order.size)])
    check_second_pass(ready, nodes)
    batches.total = rows + len(again)
    kept = Kept(order, ready.inputs_among(nodes), nodes)
    kept.compute(batches, again)
    chosen = np.ones(order.n_features, bool)
    return full_graph(ready, kept.matrix(), chosen, kept.constants, first.totals), first


def first_pass(ready: Prepared, batches: Batches) -> FirstPass:
    order = ready.order
    at_once = max(1, ENTRIES_AT_ONCE // order.n_sources)
    influence = torch.zeros(order.size, dtype=torch.float64, device=ready.engine.device)
    signed, absolute, entropies = (torch.zeros_like(influence) for _ in range(3))
    weights = torch.from_numpy(ready.target_weights).to(influence.device)
    for block in row_blocks(order, ready.sources.features[:, 0].numpy()):
        mass = influence + weights  # of the block's own rows it is complete: none of them is a source of another
        for batch, effects, _ in batches.of(np.arange(block.start, block.stop)):
            rows = torch.from_numpy(batch).to(influence.device)
            for row, part in zip(rows.split(at_once), effects.split(at_once), strict=True):
                values = part.double()
                signed[row] = values.sum(dim=1)
                sizes = values.abs_()
                absolute[row] = sizes.sum(dim=1)
                totals = absolute[row].clamp_min(FLOOR)
                influence[: order.n_sources] += (mass[row] / totals) @ sizes
                entropies[row] = torch.special.entr(sizes.div_(totals[:, None])).sum(dim=1)
    return FirstPass(influence.cpu().numpy(), (signed.cpu().numpy(), absolute.cpu().numpy()), entropies.cpu().numpy())
