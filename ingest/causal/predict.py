"""What a stored graph says a change does: the linear total effect over all paths, (I - B)^-1."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from atlas.circuit import Circuit


class LinearGraph:
    """B[t, s] = weight / activation of s: what one unit of s adds to t's pre-activation (a logit: centred).

    A token's and an error's unit is its own vector. With attention patterns, norm denominators and the set of active features
    held, pre-activations move as d = B d + what was changed; a node whose value is set does not move otherwise.
    """

    def __init__(self, circuit: Circuit, activations: np.ndarray | None = None) -> None:
        """activations: (n,) of features whose own is unknown (imported graphs); NaN elsewhere."""
        nodes, edges = circuit.nodes, circuit.edges
        unit = nodes.activation.astype(np.float64)
        if activations is not None:
            unit = np.where(np.isfinite(unit), unit, activations)
        unit[nodes.is_kind("token", "error")] = 1.0
        self.known = np.isfinite(unit) & (unit != 0)
        per_unit = edges.weight / np.where(self.known, unit, 1.0)[edges.source]
        n = len(nodes)
        self.matrix = sparse.csr_array((per_unit, (edges.target, edges.source)), shape=(n, n))
        self.links = sparse.csr_array((np.ones(len(edges)), (edges.target, edges.source)), shape=(n, n))
        self.depth = int(nodes.layer.max(initial=0)) + 3  # an edge goes at least one layer up; a file's cycles end here

    def effects(self, changes: dict[int, float | None], added: bool = False) -> np.ndarray:
        """(n,) float64 change of every node; NaN where no path leads from a change, or where what it does is unknown.

        changes: by row, in the node's unit; None where the change is not along the node's own vector. added: the changes come
        on top of what reaches the node (steering) in place of setting it.
        """
        n = len(self.known)
        step, touched, unknown = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool)
        fixed = np.zeros(n, bool)
        for row, change in changes.items():
            fixed[row] = not added
            touched[row] = True
            if change is None:
                unknown[row] = True
            else:
                step[row] = change
        total = step.copy()
        reached, doubtful = touched.copy(), unknown | (touched & ~self.known)
        front, doubt = touched.copy(), doubtful.copy()
        for _ in range(self.depth):
            step = np.where(fixed, 0.0, self.matrix @ step)
            front = (self.links @ front > 0) & ~fixed
            doubt = (self.links @ doubt > 0) & ~fixed
            if not front.any():
                break
            total += step
            reached |= front
            doubtful |= doubt
            doubt = doubt | (front & ~self.known)  # what lies behind a node of unknown unit is unknown
        return np.where(reached & ~doubtful, total, np.nan)

    def direct(self, source: int, target: int) -> float:
        """Per unit of the source; 0 without an edge."""
        return float(self.matrix[target, source])
