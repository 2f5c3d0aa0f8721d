"""The strongest paths between two sets of nodes of one circuit, on its arrays.

Share of a path: product over its edges of |w| / total absolute input of the edge's target (`Circuit.edge_shares`). Rank is by
share. Effect of a path, in units of its last node: an edge weight w(s -> t) is what s, at its full activation, adds to t's
pre-activation, and t's activation moves one to one with its pre-activation (the linear local model in which attention
patterns, normalisation scales and the set of active features are frozen). So a change of w(s -> t) at t is the fraction
w(s -> t) / activation(t) of t, and of the next weight that fraction arrives:

    effect = w_1 * prod_i (w_{i+1} / activation_i)          i over the nodes between the first and the last

Search: the k best paths into a node are among the k best paths into its predecessors, so one pass over the nodes in
topological order with a list of k per node finds them exactly (dynamic programming on a DAG). Graphs from files may have
cycles: nodes are ordered by the levels of the condensed graph and, inside a cycle, by layer, position and row; edges that run
against this order are left out and counted (`ignored_edges`). Self loops are on no simple path and are not counted.
Repeated pairs are edges of their own, so that two paths may run through the same nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from atlas.circuit import Circuit
from atlas.errors import UsageError


@dataclass(frozen=True)
class Path:
    nodes: tuple[int, ...]  # rows, from source to target
    edges: tuple[int, ...]  # edge rows, one fewer than nodes
    share: float
    effect: float | None  # None where an activation on the way is unknown or zero
    shares_known: bool  # False: a total before pruning is unknown and the share is over kept edges


@dataclass(frozen=True)
class FoundPaths:
    paths: list[Path]  # strongest first
    ignored_edges: int


@dataclass(frozen=True)
class Between:
    """The part of a circuit that lies between sources and targets, ordered for the search.

    Nodes are numbered 0..n-1 in topological order. Edges are sorted by target; those into node v are
    `first[v]:first[v + 1]`.
    """

    nodes: np.ndarray  # (n,) circuit rows
    edges: np.ndarray  # (m,) circuit edge rows
    source: np.ndarray  # (m,) node number where the edge starts
    first: np.ndarray  # (n + 1,)
    is_source: np.ndarray  # (n,) bool
    is_target: np.ndarray  # (n,) bool
    ignored_edges: int


def between(circuit: Circuit, source_rows: np.ndarray, target_rows: np.ndarray) -> Between:
    """Keep the edges that some walk from a source to a target uses, in topological order."""
    n = len(circuit.nodes)
    source = circuit.edges.source.astype(np.int64)
    target = circuit.edges.target.astype(np.int64)
    is_source, is_target = np.zeros(n, bool), np.zeros(n, bool)
    is_source[source_rows] = True
    is_target[target_rows] = True

    inside = _reached(n, source, target, is_source) & _reached(n, target, source, is_target)
    used = np.flatnonzero(inside[source] & inside[target] & (source != target))
    source, target = source[used], target[used]
    level = _levels(n, source, target)
    rows = np.flatnonzero(inside)
    columns = circuit.nodes
    rows = rows[np.lexsort((rows, columns.position[rows], columns.layer[rows], level[rows]))]
    number = np.full(n, -1, np.int64)
    number[rows] = np.arange(len(rows))
    source, target = number[source], number[target]

    forward = source < target
    ignored = len(used) - int(forward.sum())
    used, source, target = used[forward], source[forward], target[forward]
    by_target = np.argsort(target, kind="stable")
    first = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(np.bincount(target, minlength=len(rows)), out=first[1:])
    return Between(rows, used[by_target], source[by_target], first, is_source[rows], is_target[rows], ignored)


def _reached(n: int, source: np.ndarray, target: np.ndarray, start: np.ndarray) -> np.ndarray:
    """(n,) bool: nodes that some walk from `start` reaches, the start included."""
    roots = np.flatnonzero(start)
    # one more node, n, with an edge to every root: a single breadth-first search serves the whole set
    rows = np.concatenate([source, np.full(len(roots), n)])
    columns = np.concatenate([target, roots])
    graph = sparse.csr_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(n + 1, n + 1))
    reached = np.zeros(n + 1, bool)
    reached[csgraph.breadth_first_order(graph, n, return_predecessors=False)] = True
    return reached[:n]


def _levels(n: int, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n,) level of each node's component in the condensed graph; every edge between components goes up."""
    graph = sparse.csr_array((np.ones(len(source), np.int8), (source, target)), shape=(n, n))
    count, component = csgraph.connected_components(graph, directed=True, connection="strong")
    source, target = component[source], component[target]
    across = source != target
    out = sparse.csr_array((np.ones(across.sum(), np.int32), (source[across], target[across])), shape=(count, count))
    waiting = np.bincount(target[across], minlength=count)
    level = np.zeros(count, np.int64)
    ready = np.flatnonzero(waiting == 0)
    depth = 0
    while len(ready):  # Kahn's algorithm, a whole level at once
        level[ready] = depth
        reached = out[ready]
        waiting -= np.bincount(reached.indices, weights=reached.data, minlength=count).astype(waiting.dtype)
        touched = np.unique(reached.indices)
        ready = touched[waiting[touched] == 0]
        depth += 1
    return level[component]


@dataclass(frozen=True)
class Ranked:
    """Best log shares by graph, and the way back: entry = node number * limit + rank in that node's list.

    `last` and `steps` have no rows (g = 0) when the way back was not asked for.
    """

    values: np.ndarray  # (g, limit) best first, -inf where there are fewer paths
    last: np.ndarray  # (g, limit, 2) edge number of the last step, entry before it
    steps: np.ndarray  # (g, n * limit, 2) the same for the entries of the lists; edge -1 = the path starts here


def strongest(part: Between, log_shares: np.ndarray, limit: int, *, trace: bool = False) -> Ranked:
    """The `limit` largest sums of log shares over paths, for several graphs at once that differ in their weights only.

    log_shares (g, m): of every edge of `part` in each of g graphs.
    """
    graphs, n = len(log_shares), len(part.nodes)
    targets = np.flatnonzero(part.is_target)
    lists = np.full((graphs, n, limit), -np.inf, log_shares.dtype)
    ended = np.full((graphs, len(targets), limit), -np.inf, log_shares.dtype)
    traced = graphs if trace else 0
    steps = np.full((traced, n, limit, 2), -1, np.int64)
    ended_steps = np.full((traced, len(targets), limit, 2), -1, np.int64)
    ended_row = {node: row for row, node in enumerate(targets.tolist())}
    # Entry j of the i-th best predecessor is preceded by the first entries of i better predecessors and by j entries of
    # its own list; with i + j >= limit it is not among the best.
    edge_of, rank_of = np.nonzero(np.add.outer(np.arange(limit), np.arange(limit)) < limit)
    offsets = (np.arange(graphs) * (n * limit))[:, None]
    for node in range(n):
        start, stop = part.first[node], part.first[node + 1]
        if start < stop:
            sources, weights = part.source[start:stop], log_shares[:, start:stop]
            chosen = _best_columns(lists[:, sources, 0] + weights, limit)
            edge, rank = edge_of[edge_of < chosen.shape[1]], rank_of[edge_of < chosen.shape[1]]
            at = (sources * limit)[chosen][:, edge] + rank
            sums = lists.take(at + offsets) + np.take_along_axis(weights, chosen, axis=1)[:, edge]
            if trace:
                order = _best_columns(sums, limit)
                kept = np.take_along_axis(sums, order, axis=1)
                step = np.stack([np.take_along_axis(x, order, axis=1) for x in (chosen[:, edge] + start, at)], axis=2)
                steps[:, node, : step.shape[1]] = step
            else:
                sums.sort(axis=1)
                kept = sums[:, ::-1][:, :limit]
            lists[:, node, : kept.shape[1]] = kept
        if part.is_target[node]:
            ended[:, ended_row[node]] = lists[:, node]
            ended_steps[:, ended_row[node]] = steps[:, node]
        if part.is_source[node]:  # only now, for the path without an edge is no path
            _insert_start(lists[:, node], steps[:, node])
    ended = ended.reshape(graphs, -1)
    order = _best_columns(ended, limit)
    values = np.full((graphs, limit), -np.inf, log_shares.dtype)
    values[:, : order.shape[1]] = np.take_along_axis(ended, order, axis=1)
    last = np.take_along_axis(ended_steps.reshape(traced, len(targets) * limit, 2), order[:traced, :, None], axis=1)
    return Ranked(values, last, steps.reshape(traced, n * limit, 2))


def _best_columns(values: np.ndarray, limit: int) -> np.ndarray:
    """(g, min(limit, columns)) column numbers of the largest values of each row, largest first."""
    if values.shape[1] <= limit:
        return np.argsort(-values, axis=1, kind="stable")
    chosen = np.argpartition(values, -limit, axis=1)[:, -limit:]
    order = np.argsort(-np.take_along_axis(values, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1)


def _insert_start(values: np.ndarray, steps: np.ndarray) -> None:
    """Put the path that starts here, log share 0, into sorted lists (g, limit) and their steps, in place."""
    row = np.arange(len(values))[:, None]
    column = np.arange(values.shape[1])
    place = (values >= 0.0).sum(axis=1, keepdims=True)  # where it belongs; past the end when all are better
    shifted = np.where(column > place, column - 1, column)
    values[:] = np.where(column == place, 0.0, values[row, shifted])
    if len(steps):
        steps[:] = np.where((column == place)[:, :, None], -1, steps[row, shifted])


def find_paths(circuit: Circuit, source_rows: np.ndarray, target_rows: np.ndarray, limit: int = 10) -> FoundPaths:
    """The `limit` strongest paths of at least one edge from any source row to any target row, by share.

    Paths may run through other source or target rows. Edges of weight zero carry no path. Raises UsageError when
    `limit` is below 1.
    """
    part = between(circuit, np.asarray(source_rows, np.int64), np.asarray(target_rows, np.int64))
    return paths_between(circuit, part, limit)


def paths_between(circuit: Circuit, part: Between, limit: int) -> FoundPaths:
    """`find_paths` on a part that is already ordered."""
    if limit < 1:
        raise UsageError(f"The limit of paths is {limit}.", "Ask for at least one path.")
    shares = circuit.edge_shares[part.edges]
    with np.errstate(divide="ignore"):
        ranked = strongest(part, np.log(shares)[None, :], limit, trace=True)
    known = circuit.input_abs_totals[1]
    target = circuit.edges.target
    found = []
    for value, (edge, entry) in zip(ranked.values[0].tolist(), ranked.last[0].tolist(), strict=False):
        if not np.isfinite(value):
            break
        edges = []
        while edge >= 0:
            edges.append(int(part.edges[edge]))
            edge, entry = ranked.steps[0, entry].tolist()
        edges.reverse()
        nodes = (int(circuit.edges.source[edges[0]]), *(int(target[edge]) for edge in edges))
        share = float(np.prod(circuit.edge_shares[edges]))
        shares_known = bool(known[list(nodes[1:])].all())
        found.append(Path(nodes, tuple(edges), share, path_effect(circuit, edges), shares_known))
    return FoundPaths(found, part.ignored_edges)


def path_effect(circuit: Circuit, edges: list[int]) -> float | None:
    """Signed effect of a path, given by its edge rows, on its last node (module docstring); None when unknown."""
    weights = circuit.edges.weight[edges].astype(np.float64)
    activations = circuit.nodes.activation[circuit.edges.target[edges[:-1]]].astype(np.float64)
    if not np.isfinite(activations).all() or (activations == 0).any():
        return None
    effect = float(weights[0] * np.prod(weights[1:] / activations))
    return effect if np.isfinite(effect) else None
