"""Which token positions and which nodes of two circuits correspond.

Positions: where the token sequences agree (longest matching runs, `difflib`), and one to one inside a gap of equal length,
so that "... containing Dallas is" and "... containing Oakland is" align everywhere. Positions beyond the token list, and
-1 (pooled), correspond to themselves.

Nodes correspond when kind, site, layer, aligned position and index agree, with three exceptions that follow from what a
node stands for:
- token nodes: by aligned position alone. The node is the input at that place, and that it says "Oakland" where the other
  says "Dallas" is the difference under study, not a reason to lose the edges that leave it.
- error nodes: by site, layer and aligned position (they have no index).
- logit nodes: by vocabulary id; of several with the same id the n-th by position corresponds to the n-th. Their layer is
  one past the last and counted differently by different tools.
"""

from __future__ import annotations

from difflib import SequenceMatcher

import numpy as np

from atlas.circuit import KIND, Circuit


def align_positions(a: list[str], b: list[str]) -> list[tuple[int, int]]:
    """Aligned (position in a, position in b), rising in both. Swapping the sequences swaps the pairs."""
    if a == b:
        return [(position, position) for position in range(len(a))]
    if b < a:  # difflib breaks ties by argument order; a fixed order makes the result symmetric
        return [(left, right) for right, left in align_positions(b, a)]
    pairs: list[tuple[int, int]] = []
    for what, a0, a1, b0, b1 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if what == "equal" or (what == "replace" and a1 - a0 == b1 - b0):
            pairs += zip(range(a0, a1), range(b0, b1), strict=True)
    return pairs


def node_codes(first: Circuit, *others: Circuit) -> list[np.ndarray]:
    """For every circuit the codes (n,) of its nodes: two nodes correspond when their codes are equal.

    Positions of the others are aligned with the first circuit's; give more than one other only when all have the
    same tokens.
    """
    identities = [_identities(first, _beyond(first))]
    for other in others:
        # The other's positions in the first's count; those of its own get numbers that the first does not use.
        position = _beyond(other)
        inside = (position >= 0) & (position < len(other.tokens))
        to_first = np.arange(len(other.tokens), dtype=np.int64) + (1 << 33)
        for left, right in align_positions(first.tokens, other.tokens):
            to_first[right] = left
        position[inside] = to_first[position[inside]]
        identities.append(_identities(other, position))
    _, codes = np.unique(np.concatenate(identities), axis=0, return_inverse=True)
    return np.split(codes, np.cumsum([len(rows) for rows in identities])[:-1])


def _beyond(circuit: Circuit) -> np.ndarray:
    """(n,) positions, those past the token list moved away from all others."""
    position = circuit.nodes.position.astype(np.int64)
    position[position >= len(circuit.tokens)] += 1 << 32
    return position


def _identities(circuit: Circuit, position: np.ndarray) -> np.ndarray:
    """(n, 6) rows that are equal for corresponding nodes, `position` counted alike in both circuits.

    The last column tells apart nodes of one circuit that would otherwise be equal.
    """
    nodes = circuit.nodes
    kind, layer, index = (column.astype(np.int64) for column in (nodes.kind, nodes.layer, nodes.index))
    token, logit = kind == KIND["token"], kind == KIND["logit"]
    layer[token | logit] = 0
    index[token] = -1
    place = np.where(logit, 0, position)
    rows = np.stack([kind, nodes.site.astype(np.int64), layer, place, index], axis=1)
    return np.column_stack([rows, occurrence(rows, by=nodes.position)])


def occurrence(rows: np.ndarray, by: np.ndarray) -> np.ndarray:
    """(n,) 0 for the first of every group of equal rows (n, d), 1 for the second, ...; first and second in order of `by`."""
    order = np.lexsort((by, *rows.T[::-1]))
    ordered = rows[order]
    new = np.ones(len(rows), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    starts = np.flatnonzero(new)
    counted = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
    out = np.empty(len(rows), np.int64)
    out[order] = counted
    return out


def align_nodes(a: Circuit, b: Circuit) -> tuple[np.ndarray, np.ndarray]:
    """(k,) rows of A and (k,) rows of B of corresponding nodes, in the order of A's rows."""
    codes_a, codes_b = node_codes(a, b)
    _, rows_a, rows_b = np.intersect1d(codes_a, codes_b, return_indices=True)
    order = np.argsort(rows_a)
    return rows_a[order], rows_b[order]
