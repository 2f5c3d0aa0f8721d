"""How diffuse a graph is: over how many paths the influence is spread, and how much of it pruning loses.

Walk from a target backwards, each time to a source with the probability of its share of the input, until a token or an error
(neither has inputs): that walk draws a path. Both numbers are about this distribution over paths.
"""

from __future__ import annotations

import numpy as np

from ingest.trace.graph import FLOOR, FullGraph
from ingest.trace.influence import graph_influence, node_influence, walk
from ingest.trace.prune import Pruned


def effective_paths(graph: FullGraph) -> float:
    """exp(entropy) of the paths into the targets: how many equally likely paths would be as spread out.

    The entropy of a path is the sum, along it, of the entropies of the choices: so it is the influence-weighted sum of each
    node's entropy over its inputs, plus that of the choice among the targets (chain rule; Cover and Thomas, eq. 2.48).
    """
    of_node = np.zeros(graph.order.size)
    totals = np.maximum(graph.totals[1], FLOOR)
    for slab in walk(graph.matrix):
        rows = slab.row_of_entry
        shares = slab.sizes / totals[rows]
        logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        of_node -= np.bincount(rows, weights=shares * logs, minlength=graph.order.size)
    return from_entropies(graph, graph_influence(graph), of_node)


def from_entropies(graph: FullGraph, influence: np.ndarray, of_node: np.ndarray) -> float:
    """As `effective_paths`, from the (N,) influence and the (N,) entropies of the nodes' choices among their inputs."""
    weights = graph.target_weights
    total = weights.sum()
    if total <= 0:
        return 1.0
    first = weights[weights > 0] / total
    return float(np.exp((influence + weights) / total @ of_node - first @ np.log(first)))


def influence_lost(graph: FullGraph, pruned: Pruned) -> float:
    """Share (0 to 1) of the walks that leave the kept edges before they reach a token or an error."""
    weights = graph.target_weights
    # shares are of all inputs, kept or not
    reached = node_influence(graph.matrix, graph.totals[1], weights, graph.blocks, only=pruned.edges)
    ends = np.zeros(graph.order.size, bool)
    ends[graph.order.errors] = ends[graph.order.tokens] = True
    total = weights.sum()
    return float(1 - reached[ends].sum() / total) if total > 0 else 0.0
