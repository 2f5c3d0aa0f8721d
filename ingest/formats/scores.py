"""Influence and scores of a graph as a file holds it, i.e. after its maker's pruning.

Definitions: Ameisen et al. 2025, "Circuit Tracing", as circuit-tracer implements them. Rows of |A| divided by their sums
give N; influence = w (N + N^2 + ...) with w = the probabilities on the logit nodes. Replacement = influence of tokens /
(tokens + errors). Completeness = mean over nodes of (1 - share of their input from errors), weighted by influence + w.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from atlas.circuit import Edges, Nodes

_FLOOR = 1e-10  # of a row's sum, as in the reference
_STEPS = 5000
_TOLERANCE = 1e-9


@dataclass
class FileScores:
    influence: np.ndarray  # (n,) float32; NaN everywhere when not converged or without logits
    replacement: float | None
    completeness: float | None
    converged: bool


def score_file(nodes: Nodes, edges: Edges) -> FileScores:
    """Influence (n,), replacement and completeness on the kept graph.

    Repeated pairs count by the sum of their absolute weights. A file may hold cycles: the sum is iterated until what is
    added falls under 1e-9 of the whole, at most 5000 steps; a cycle that nothing leaves never gets there (`converged`
    False, influence NaN, scores None). Logits without a probability share the weight evenly when none has one.
    """
    n = len(nodes)
    logit = nodes.is_kind("logit")
    weight = np.where(logit, np.nan_to_num(nodes.probability.astype(np.float64), nan=0.0), 0.0)
    if not weight.any():
        weight = logit / max(int(logit.sum()), 1)
    empty = FileScores(np.full(n, np.nan, np.float32), None, None, True)
    if not logit.any():
        return empty
    values = np.abs(edges.weight.astype(np.float64))
    matrix = sparse.csr_array((values, (edges.target, edges.source)), shape=(n, n))  # row = target; repeated pairs add
    totals = np.maximum(matrix.sum(axis=1), _FLOOR)
    shares = sparse.diags_array(1.0 / totals) @ matrix
    transposed = shares.T.tocsr()
    step, influence = weight, np.zeros(n)
    for _ in range(_STEPS):
        step = transposed @ step
        influence += step
        if step.sum() <= _TOLERANCE * max(influence.sum(), _FLOOR):
            break
    else:
        return FileScores(empty.influence, None, None, False)
    error = nodes.is_kind("error")
    tokens, errors = influence[nodes.is_kind("token")].sum(), influence[error].sum()
    mass = influence + weight
    kept = 1.0 - shares @ error.astype(np.float64)
    return FileScores(
        influence.astype(np.float32),
        float(tokens / (tokens + errors)) if tokens + errors > 0 else None,
        float((kept * mass).sum() / mass.sum()) if mass.sum() > 0 else None,
        True,
    )
