"""What counts as evidence. Pure: marks from predicted and measured effects and from controls, the causal score of a circuit, and
which interventions make sense on it.

Marks come only from the real model with everything free. A run with attention and norms frozen equals the graph by construction:
it checks the engine and says nothing about the circuit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.stats import rankdata

from atlas.causal_records import InterventionRequest, Mark, VerifyResult
from atlas.causal_requests import check_intervention
from atlas.circuit import KINDS, Circuit
from atlas.errors import InputRejected, UsageError
from atlas.records import ImportedSupernode
from atlas.verdict import Evidence

CONTROLS_NEEDED = 8  # with fewer there is no mark but `inconclusive`
QUANTILE = 0.95  # of the controls' absolute effects
BAND = (1 / 3, 3.0)  # measured / predicted of what is confirmed
DRAWS = 1999  # of bootstraps and of controls
COMPONENTS = "components"  # the set name of circuits of heads and MLPs
CHANGEABLE = {False: ("feature", "error", "token"), True: ("head", "mlp", "neuron", "token")}  # by: of components?


def control_quantile(effects: Sequence[float]) -> float | None:
    """95% quantile of the absolute effects (linear between order statistics); None without controls."""
    return float(np.quantile(np.abs(np.asarray(effects, float)), QUANTILE)) if len(effects) else None


def mark(predicted: float | None, measured: float, controls: Sequence[float]) -> tuple[Mark, str]:
    """The mark of one tested effect and why, in one sentence. All numbers in the unit of what is measured.

    confirmed: sign as predicted, beyond the controls' 95% quantile, measured / predicted within [1/3, 3].
    refuted: predicted beyond that quantile, measured inside it or of the other sign. Else inconclusive, as with fewer than 8
    controls or without a prediction.
    """
    if predicted is None or not np.isfinite([predicted, measured, *controls]).all():
        return "inconclusive", "The graph predicts nothing here, or an effect is not a number."
    if len(controls) < CONTROLS_NEEDED:
        count = f"{len(controls)} control{'' if len(controls) == 1 else 's'}"
        return "inconclusive", f"There are {count}, and a mark needs at least {CONTROLS_NEEDED}."
    beyond = control_quantile(controls) or 0.0
    said = f"predicted {predicted:.3g}, measured {measured:.3g}, 95% of the controls within {beyond:.3g}"
    same_sign = predicted * measured > 0
    if same_sign and abs(measured) > beyond and BAND[0] <= measured / predicted <= BAND[1]:
        return "confirmed", f"As predicted and beyond the controls: {said}."
    if abs(predicted) > beyond and (abs(measured) <= beyond or not same_sign):
        how = "no more than the controls do" if abs(measured) <= beyond else "the other way"
        return "refuted", f"It moves the target {how}: {said}."
    if same_sign and abs(measured) > beyond:
        return "inconclusive", f"The sign is as predicted, the size is not within a factor of 3: {said}."
    return "inconclusive", f"The prediction is no larger than what controls do: {said}."


# -- the causal score


def rank_correlation(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float | None:
    """Spearman's; None for fewer than 3 pairs or where one side is constant."""
    found = _rank_correlations(np.asarray(a, float)[None], np.asarray(b, float)[None])[0] if len(a) >= 3 else np.nan
    return float(found) if np.isfinite(found) else None


def bootstrap_interval(predicted: np.ndarray, measured: np.ndarray, seed: int = 0) -> tuple[float, float] | None:
    """95% percentile interval of the rank correlation over nodes. One row per prompt, one column per node, (n,) or (m, n).

    With several prompts these are resampled, and the correlation is that of the means over prompts; with one, nodes are.
    """
    predicted, measured = np.atleast_2d(predicted), np.atleast_2d(measured)
    prompts, nodes = measured.shape
    if nodes < 3:
        return None
    draw = np.random.default_rng(seed)
    if prompts > 1:
        rows = draw.integers(prompts, size=(DRAWS, prompts))
        found = _rank_correlations(predicted[rows].mean(axis=1), measured[rows].mean(axis=1))
    else:
        columns = draw.integers(nodes, size=(DRAWS, nodes))
        found = _rank_correlations(predicted[0][columns], measured[0][columns])
    found = found[np.isfinite(found)]
    if not len(found):
        return None
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def control_p_value(
    predicted: Sequence[float], measured: Sequence[float], controls: Sequence[Sequence[float]], seed: int = 0
) -> float | None:
    """How often the rank correlation is as high with one control, drawn at random, in the place of every tested node.

    Nodes without controls are left out of both. (1 + hits) / (1 + draws); None where fewer than 3 nodes have controls.
    """
    having = [i for i, effects in enumerate(controls) if len(effects)]
    if len(having) < 3:
        return None
    expected = np.asarray(predicted, float)[having]
    observed = _rank_correlations(expected[None], np.asarray(measured, float)[having][None])[0]
    if not np.isfinite(observed):
        return None
    draw = np.random.default_rng(seed)
    null = np.stack([draw.choice(np.asarray(controls[i], float), DRAWS) for i in having], axis=1)
    reached = _rank_correlations(np.broadcast_to(expected, null.shape), null) >= observed - 1e-12
    return float((1 + reached.sum()) / (1 + DRAWS))


def _rank_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(m, n), (m, n) -> (m,) Spearman's correlation of each row; NaN where a row is constant."""
    a, b = rankdata(a, axis=1), rankdata(b, axis=1)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), size, out=np.full(len(a), np.nan), where=size > 0)


def evidence_of(result: VerifyResult) -> Evidence:
    """What a verification says to the verdict: marks of nodes and of edges together."""
    return Evidence(
        confirmed=result.confirmed + result.edges_confirmed,
        refuted=result.refuted + result.edges_refuted,
        inconclusive=result.inconclusive + result.edges_inconclusive,
        spearman=result.spearman,
        p_value=result.p_value,
    )


# -- what makes sense


def of_components(circuit: Circuit) -> bool:
    return circuit.record.transcoders.name == COMPONENTS


def checked_rows(circuit: Circuit, supernodes: list[ImportedSupernode], request: InterventionRequest) -> list[int]:
    """Rows of the nodes that are changed, of a cut the path. Needs no model.

    Raises UsageError for a kind without its number, for nodes that cannot be changed and for a path that is not one; NotFound
    for a node or supernode that is not in the circuit.
    """
    rows = [circuit.row(key) for key in check_intervention(circuit, supernodes, request)]
    check_has_paths(circuit)
    for name in ("factor", "value"):
        number = getattr(request, name)
        if number is not None and not np.isfinite(number):
            raise UsageError(f"The {name} is {number}, not a finite number.", "Pass a number such as 0.5.")
    if of_components(circuit) and request.kind == "steer":
        raise UsageError(
            "A head or an MLP has no value that a number could be added to.", "Ablate or scale it, or patch it."
        )
    if request.kind == "cut":
        for source, target in pairwise(rows):
            if not ((circuit.edges.source == source) & (circuit.edges.target == target)).any():
                raise UsageError(
                    f"The nodes are no path: the circuit has no edge from {circuit.keys[source]} to {circuit.keys[target]}.",
                    "Name nodes in the order in which the influence flows; `atlas paths` lists paths.",
                )
    for row in rows[:-1] if request.kind == "cut" else rows:
        _check_changeable(circuit, row)
    return rows


def check_has_paths(circuit: Circuit) -> None:
    """Raises UsageError for the heat map of activation patching, which has no edges and predicts nothing."""
    if circuit.record.method.name == "activation patching":
        raise UsageError(
            f"The circuit {circuit.id} is a table of patching effects: each of its nodes was measured already.",
            "Intervene on a circuit of components or features.",
        )


def _check_changeable(circuit: Circuit, row: int) -> None:
    kind = KINDS[circuit.nodes.kind[row]]
    allowed = CHANGEABLE[of_components(circuit)]
    if kind not in allowed:
        raise UsageError(
            f"The node {circuit.keys[row]} cannot be changed: it is a {kind}.",
            f"Nodes of this circuit that can: {', '.join(allowed)}.",
        )


def check_length(tokens: int, expected: int, prompt: str) -> None:
    """Raises InputRejected for a prompt whose positions are not those of the circuit."""
    if tokens != expected:
        raise InputRejected(
            f"The prompt {prompt!r} has {tokens} tokens, the circuit's has {expected}, so that positions mean something else.",
            "Pass prompts of the same number of tokens.",
        )
