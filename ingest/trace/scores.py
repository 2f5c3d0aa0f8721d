"""Replacement and completeness: how much of the answer the transcoders explain.

Ameisen et al. 2025, *Circuit Tracing*, "Evaluating Attribution Graphs".
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from ingest.trace.graph import FullGraph
from ingest.trace.influence import input_shares, node_influence, row_numbers


def scores(graph: FullGraph, kept_features: np.ndarray | None = None) -> tuple[float, float]:
    """(replacement, completeness) of the full graph, or of it with only `kept_features` (F,) bool explained.

    Replacement: influence of tokens / (tokens + errors). Completeness: mean over nodes of (1 - share of their input from
    errors), weighted by influence + target weight. A feature that is not kept counts as unexplained: the share of input
    it had is added to the error node of its layer and position. Shares are absolute, so that nothing cancels; both scores
    can therefore only fall when features are dropped.
    """
    order, matrix = graph.order, graph.matrix
    columns = matrix.indices
    if kept_features is not None:
        becomes = np.arange(order.size, dtype=columns.dtype)
        layer, position = graph.features[:, 0], graph.features[:, 1]
        becomes[order.features] = np.where(
            kept_features, becomes[order.features], order.error_row(layer.astype(np.int64), position)
        )
        columns = becomes[columns]
    data = input_shares(row_numbers(matrix), matrix.data, order.size)
    shares = sparse.csr_array((data, columns, matrix.indptr), shape=matrix.shape)
    influence = node_influence(shares, graph.target_weights, graph.blocks)
    tokens, errors = influence[order.tokens].sum(), influence[order.errors].sum()
    is_error = np.zeros(order.size)
    is_error[order.errors] = 1
    mass = influence + graph.target_weights
    replacement = tokens / (tokens + errors) if tokens + errors > 0 else 0.0
    return float(replacement), float(1 - (shares @ is_error) @ mass / mass.sum())
