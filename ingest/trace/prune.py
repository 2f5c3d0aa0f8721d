"""Pruning: the nodes, then the edges, that hold a given share of the influence on the targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ingest.trace.graph import FLOOR, FullGraph, NodeOrder
from ingest.trace.influence import cut_value, graph_influence, node_influence, running_share, walk


@dataclass
class Pruned:
    """What of a graph stays. n nodes, nnz stored entries of its matrix."""

    nodes: np.ndarray  # (n,) bool
    edges: np.ndarray  # (nnz,) bool, in the order of `graph.matrix.data`
    influence: np.ndarray  # (n,) float64, before pruning
    influence_cumulative: np.ndarray  # (n,) float64, before pruning


def prune(
    graph: FullGraph, node_threshold: float = 0.8, edge_threshold: float = 0.98, influence: np.ndarray | None = None
) -> Pruned:
    """Keep the strongest nodes that hold `node_threshold` of the influence, and all tokens and logits; then, with rows
    normalised again among them, the strongest edges that hold `edge_threshold` of the edge influence (share of the row
    times the target's influence + weight); then drop features and errors without a kept edge out and features without
    one in, until nothing changes. A threshold of 1 keeps every node or every non-zero edge; both 1 keep all.

    influence: (n,) where it is known already, as of a graph whose matrix holds only the edges among the strongest nodes.

    Ameisen et al. 2025, *Circuit Tracing*, "Graph Pruning".
    """
    order, matrix, weights = graph.order, graph.matrix, graph.target_weights
    influence = graph_influence(graph) if influence is None else influence
    cumulative = running_share(influence)
    if node_threshold >= 1 and edge_threshold >= 1:
        return Pruned(np.ones(order.size, bool), np.ones(matrix.nnz, bool), influence, cumulative)
    nodes = strongest_nodes(order, influence, node_threshold, graph.explained_features)
    edges = np.empty(matrix.nnz, bool)
    totals = np.zeros(order.size)  # among the nodes that stay
    for slab in walk(matrix):
        rows = slab.row_of_entry
        edges[slab.entries] = inside = nodes[rows] & nodes[matrix.indices[slab.entries]]
        totals += np.bincount(rows[inside], weights=slab.sizes[inside], minlength=order.size)
    if edge_threshold < 1:
        mass = node_influence(matrix, totals, weights, graph.blocks, only=edges) + weights
        strength, filled = np.empty(int(edges.sum())), 0
        for slab in walk(matrix):
            inside = edges[slab.entries]
            rows = slab.row_of_entry[inside]
            strength[filled : filled + len(rows)] = slab.sizes[inside] / np.maximum(totals, FLOOR)[rows] * mass[rows]
            filled += len(rows)
        edges[edges.copy()] = strength >= cut_value(strength, edge_threshold)
    _drop_dead_ends(order, matrix, nodes, edges, graph.explained_features)
    return Pruned(nodes, edges, influence, cumulative)


def strongest_nodes(order: NodeOrder, influence: np.ndarray, threshold: float, explained: np.ndarray) -> np.ndarray:
    """(n,) bool: the strongest nodes that hold `threshold` of the influence, all tokens, and what is explained."""
    nodes: np.ndarray = influence >= (cut_value(influence, threshold) if threshold < 1 else 0)
    nodes[order.tokens] = nodes[order.logits] = True
    nodes[explained] = True
    return nodes


def _drop_dead_ends(
    order: NodeOrder, matrix: sparse.csr_array, nodes: np.ndarray, edges: np.ndarray, explained: np.ndarray
) -> None:
    """Remove, in place, features and errors without an edge out and features without an edge in, until none is left.
    Features that are explained stay."""
    before = -1
    while int(nodes.sum()) != before:
        before = int(nodes.sum())
        with_out, with_in = np.zeros(order.size, bool), np.zeros(order.size, bool)
        for slab in walk(matrix):
            rows, columns = slab.row_of_entry, matrix.indices[slab.entries]
            edges[slab.entries] &= nodes[rows] & nodes[columns]
            with_out[columns[edges[slab.entries]]] = True
            with_in[rows[edges[slab.entries]]] = True
        with_out[explained] = with_in[explained] = True
        nodes[order.features] &= with_in[order.features] & with_out[order.features]
        nodes[order.errors] &= with_out[order.errors]
