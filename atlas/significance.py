"""How surprising a path's share is, given only the architecture.

Null model: the absolute weights are permuted among the existing edges of a block. A block holds the edges with the same
source kind, site and layer, the same target kind, site and layer, the same slot, and ends at the same or at different
positions. So every null graph has the circuit's nodes, its edges and, layer by layer, its weights; only which edge carries
which weight is left to chance. Shares are then normalised anew and the very same search is run.

Normalisation: part of a node's absolute input may have been pruned away. That part, as a share of the node's total, is a
fact about the node and stays: the kept edges of a target together keep the share they had, and divide it in proportion to
their permuted weights. Where the total before pruning is unknown the kept edges are everything.

The k-th strongest path is compared with the k-th strongest path of every null graph:

    p = (1 + number of null graphs whose k-th share is as large) / (1 + number of null graphs)

which cannot be 0 and is uniform, up to its grid, when weights are exchangeable within blocks (Phipson and Smyth 2010,
Permutation P-values Should Never Be Zero). The p-values of one table are not corrected for the number of its rows.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from atlas.circuit import Circuit
from atlas.path_search import Between, strongest

# Null graphs are searched in float32. A null share within this relative distance counts as equal, and so against the path.
TIE = 1e-4
_MAX_CELLS = 16_000_000  # numbers held at once; more null graphs are searched in several rounds


def blocks(circuit: Circuit) -> np.ndarray:
    """(m,) block number of every edge: weights are exchanged within blocks only."""
    nodes, edges = circuit.nodes, circuit.edges
    columns = [
        getattr(nodes, name)[ends] for ends in (edges.source, edges.target) for name in ("kind", "site", "layer")
    ]
    columns += [edges.slot, nodes.position[edges.source] == nodes.position[edges.target]]
    number = np.zeros(len(edges), np.int64)
    for column in columns:
        _, code = np.unique(column, return_inverse=True)
        _, number = np.unique(number * (int(code.max(initial=0)) + 1) + code, return_inverse=True)
    return number


def permuted_weights(weights: np.ndarray, block: np.ndarray, graphs: int, rng: np.random.Generator) -> np.ndarray:
    """(graphs, m) `weights` (m,), permuted within each block independently in every row."""
    order = np.argsort(block, kind="stable")
    shuffled = np.repeat(weights[order][None, :], graphs, axis=0)
    bounds = [0, *(np.flatnonzero(np.diff(block[order])) + 1).tolist(), len(order)]
    for start, stop in pairwise(bounds):
        if stop - start > 1:
            shuffled[:, start:stop] = rng.permuted(shuffled[:, start:stop], axis=1)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return shuffled[:, back]


def null_shares(circuit: Circuit, part: Between, graphs: int, rng: np.random.Generator) -> np.ndarray:
    """(graphs, m') float32 shares of the edges of `part` in null graphs."""
    target = circuit.edges.target
    weights = np.abs(circuit.edges.weight)
    block = blocks(circuit)
    # Needed: every edge into a node of the part, for the totals; so every edge that may give such an edge its weight.
    into_part = np.zeros(len(circuit.nodes), bool)
    into_part[target[part.edges]] = True
    exchanged = np.isin(block, np.unique(block[into_part[target]]))
    rows = np.flatnonzero(exchanged)
    permuted = permuted_weights(weights[rows], block[rows], graphs, rng)

    needed = np.flatnonzero(into_part[target[rows]])
    needed = needed[np.argsort(target[rows[needed]], kind="stable")]
    permuted = permuted[:, needed]
    targets, starts, group = np.unique(target[rows[needed]], return_index=True, return_inverse=True)
    sums = np.add.reduceat(permuted, starts, axis=1, dtype=np.float32)
    totals = circuit.input_abs_totals[0][targets]
    kept = np.bincount(group, weights=weights[rows[needed]], minlength=len(targets))
    kept_share = np.divide(kept, totals, out=np.zeros_like(totals), where=totals > 0).astype(np.float32)
    factor = np.divide(kept_share, sums, out=np.zeros_like(sums), where=sums > 0)

    column = np.empty(len(circuit.edges), np.int64)
    column[rows[needed]] = np.arange(len(needed))
    wanted = column[part.edges]
    return permuted[:, wanted] * factor[:, group[wanted]]


def null_paths(circuit: Circuit, part: Between, limit: int, graphs: int, seed: int = 0) -> np.ndarray:
    """(graphs, limit) log shares of the strongest paths of null graphs, best first, -inf where there are fewer.

    The same seed gives the same null graphs.
    """
    rng = np.random.default_rng(seed)
    cells = max(len(circuit.edges), len(part.nodes) * (limit + 1), 1)
    at_once = int(np.clip(_MAX_CELLS // cells, 1, max(graphs, 1)))
    found = [np.empty((0, limit), np.float32)]
    for start in range(0, graphs, at_once):
        with np.errstate(divide="ignore"):
            logs = np.log(null_shares(circuit, part, min(at_once, graphs - start), rng))
        found.append(strongest(part, logs, limit).values)
    return np.concatenate(found)


def p_values(shares: np.ndarray, null: np.ndarray) -> np.ndarray:
    """(k,) p-value of the path at each rank; shares (k,) best first, null (graphs, >= k) log shares."""
    with np.errstate(divide="ignore"):
        observed = np.log(np.asarray(shares, np.float64))
    as_large = (null[:, : len(observed)] >= observed[None, :] - TIE).sum(axis=0)
    return (1 + as_large) / (1 + len(null))
