"""Pruning: the nodes, then the edges, that hold a given share of the influence on the targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ingest.trace.graph import FullGraph
from ingest.trace.influence import cut_value, graph_influence, input_shares, node_influence, row_numbers, running_share


@dataclass
class Pruned:
    """What of a graph stays. n nodes, nnz stored entries of its matrix."""

    nodes: np.ndarray  # (n,) bool
    edges: np.ndarray  # (nnz,) bool, in the order of `graph.matrix.data`
    influence: np.ndarray  # (n,) float64, before pruning
    influence_cumulative: np.ndarray  # (n,) float64, before pruning


def prune(graph: FullGraph, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> Pruned:
    """Keep the strongest nodes that hold `node_threshold` of the influence, and all tokens and logits; then, with rows
    normalised again among them, the strongest edges that hold `edge_threshold` of the edge influence (share of the row
    times the target's influence + weight); then drop features and errors without a kept edge out and features without
    one in, until nothing changes. A threshold of 1 keeps every node or every non-zero edge; both 1 keep all.

    Ameisen et al. 2025, *Circuit Tracing*, "Graph Pruning".
    """
    order, matrix = graph.order, graph.matrix
    rows, columns = row_numbers(matrix), matrix.indices
    weights = graph.target_weights
    influence = graph_influence(graph)
    cumulative = running_share(influence)
    if node_threshold >= 1 and edge_threshold >= 1:
        return Pruned(np.ones(order.size, bool), np.ones(matrix.nnz, bool), influence, cumulative)
    nodes = influence >= (cut_value(influence, node_threshold) if node_threshold < 1 else 0)
    nodes[order.tokens] = nodes[order.logits] = True
    nodes[graph.explained_features] = True
    inside = np.flatnonzero(nodes[rows] & nodes[columns])
    rows, columns = rows[inside], columns[inside]
    kept = np.ones(len(inside), bool)
    if edge_threshold < 1:
        edge_shares = input_shares(rows, matrix.data[inside], order.size)
        starts = np.searchsorted(rows, np.arange(order.size + 1))
        among = sparse.csr_array((edge_shares, columns, starts), shape=matrix.shape)
        edge_influence = edge_shares * (node_influence(among, weights, graph.blocks) + weights)[rows]
        kept = edge_influence >= cut_value(edge_influence, edge_threshold)
    _drop_dead_ends(order, nodes, rows, columns, kept, graph.explained_features)
    edges = np.zeros(matrix.nnz, bool)
    edges[inside[kept]] = True
    return Pruned(nodes, edges, influence, cumulative)


def _drop_dead_ends(
    order, nodes: np.ndarray, rows: np.ndarray, columns: np.ndarray, kept: np.ndarray, explained: np.ndarray
) -> None:
    """Remove, in place, features and errors without an edge out and features without an edge in, until none is left.
    Features that are explained stay."""
    while True:
        before = int(nodes.sum())
        with_out = np.bincount(columns[kept], minlength=order.size) > 0
        with_in = np.bincount(rows[kept], minlength=order.size) > 0
        with_out[explained] = with_in[explained] = True
        nodes[order.features] &= with_in[order.features] & with_out[order.features]
        nodes[order.errors] &= with_out[order.errors]
        kept &= nodes[rows] & nodes[columns]
        if int(nodes.sum()) == before:
            return
