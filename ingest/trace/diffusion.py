"""How diffuse a graph is: over how many paths the influence is spread, and how much of it pruning loses.

Walk from a target backwards, each time to a source with the probability of its share of the input, until a token or an error
(neither has inputs): that walk draws a path. Both numbers are about this distribution over paths.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from ingest.trace.graph import FullGraph
from ingest.trace.influence import input_shares, node_influence, row_numbers
from ingest.trace.prune import Pruned


def effective_paths(graph: FullGraph) -> float:
    """exp(entropy) of the paths into the targets: how many equally likely paths would be as spread out.

    The entropy of a path is the sum, along it, of the entropies of the choices: so it is the influence-weighted sum of each
    node's entropy over its inputs, plus that of the choice among the targets (chain rule; Cover and Thomas, eq. 2.48).
    """
    shares = input_shares(row_numbers(graph.matrix), graph.matrix.data, graph.order.size)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    of_node = -np.bincount(row_numbers(graph.matrix), weights=shares * logs, minlength=graph.order.size)
    weights = graph.target_weights
    total = weights.sum()
    if total <= 0:
        return 1.0
    matrix = sparse.csr_array((shares, graph.matrix.indices, graph.matrix.indptr), shape=graph.matrix.shape)
    visits = (node_influence(matrix, weights, graph.blocks) + weights) / total
    first = weights[weights > 0] / total
    return float(np.exp(visits @ of_node - first @ np.log(first)))


def influence_lost(graph: FullGraph, pruned: Pruned) -> float:
    """Share (0 to 1) of the walks that leave the kept edges before they reach a token or an error."""
    rows = row_numbers(graph.matrix)
    shares = input_shares(rows, graph.matrix.data, graph.order.size)  # of all inputs, kept or not
    kept = np.where(pruned.edges, shares, 0.0)
    matrix = sparse.csr_array((kept, graph.matrix.indices, graph.matrix.indptr), shape=graph.matrix.shape)
    weights = graph.target_weights
    reached = node_influence(matrix, weights, graph.blocks)
    ends = np.zeros(graph.order.size, bool)
    ends[graph.order.errors] = ends[graph.order.tokens] = True
    total = weights.sum()
    return float(1 - reached[ends].sum() / total) if total > 0 else 0.0
