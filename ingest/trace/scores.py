"""Replacement and completeness: how much of the answer the transcoders explain.

Ameisen et al. 2025, *Circuit Tracing*, "Evaluating Attribution Graphs".
"""

from __future__ import annotations

import numpy as np

from ingest.trace.graph import FLOOR, FullGraph, row_sums
from ingest.trace.influence import node_influence


def scores(graph: FullGraph, kept_features: np.ndarray | None = None) -> tuple[float, float]:
    """(replacement, completeness) of the full graph, or of it with only `kept_features` (F,) bool explained.

    Replacement: influence of tokens / (tokens + errors). Completeness: mean over nodes of (1 - share of their input from
    errors), weighted by influence + target weight. A feature that is not kept counts as unexplained: the share of input
    it had is added to the error node of its layer and position, and so is what `graph.matrix` left out. Shares are
    absolute, so that nothing cancels; both scores can therefore only fall when features are dropped.
    """
    order, weights, totals = graph.order, graph.target_weights, graph.totals[1]
    dropped = np.zeros(order.size, bool)
    if kept_features is not None:
        dropped[order.features] = ~kept_features
    influence = node_influence(graph.matrix, totals, weights, graph.blocks, ends=dropped)
    became_error = influence[dropped].sum()
    influence[dropped] = 0
    if graph.input_totals is not None:
        left_out = np.maximum(totals - row_sums(graph.matrix)[1], 0) / np.maximum(totals, FLOOR)
        became_error += left_out @ np.where(dropped, weights, influence + weights)
    return from_influence(graph, influence, became_error)


def from_influence(graph: FullGraph, influence: np.ndarray, became_error: float = 0.0) -> tuple[float, float]:
    """(replacement, completeness) from the influence (N,) of a graph's nodes, and that of errors which are no node of it.

    What comes from errors is what completeness takes away: the influence of an error is the sum, over the nodes it
    writes to, of its share of their input times their own weight in the mean.
    """
    order = graph.order
    tokens, errors = influence[order.tokens].sum(), influence[order.errors].sum() + became_error
    mass = influence.sum() + became_error + graph.target_weights.sum()
    replacement = tokens / (tokens + errors) if tokens + errors > 0 else 0.0
    return float(replacement), float(1 - errors / mass)
