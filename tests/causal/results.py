"""Interventions as an engine would report them, for tests of what becomes of them."""

from __future__ import annotations

from typing import Any

from atlas.causal_records import Controls, InterventionRequest, InterventionResult, Mark, Moved, VerifyResult
from atlas.circuit import Circuit, Scores

TOKEN, FIRST, SECOND, LOGIT = "token/-1/0/5", "feature/0/1/6", "feature/1/1/7", "logit/2/1/3"  # of tests.make_circuit


def ablated(circuit: str, node: str = FIRST, mark: Mark = "confirmed", **more: Any) -> InterventionResult:
    """A feature of `make_circuit` ablated: the other feature moves, and the logit."""
    fields: dict[str, Any] = {
        "request": InterventionRequest(circuit=circuit, kind="ablate", nodes=[node]),
        "nodes": [node],
        "prompt": "a b",
        "targets": [Moved(node=LOGIT, text="x", before=3.0, measured=-1.5, predicted=-2.0)],
        "moved": [Moved(node=SECOND, before=1.0, measured=-0.5, predicted=-1.0)],
        "controls": Controls(count=1, same_position=1, features=["feature/0/1/9"], quantile=0.25, effects=[0.25]),
        "mark": mark,
        "reason": "As predicted, and more than the controls.",
        "spearman": 1.0,
        "provenance": {"device": "cpu", "seeds": {"controls": 0}},
    }
    return InterventionResult(**(fields | more))


def cut(circuit: str, *path: str, mark: Mark = "confirmed", **more: Any) -> InterventionResult:
    """The effect of each node of a path on the next taken away."""
    fields: dict[str, Any] = {
        "request": InterventionRequest(circuit=circuit, kind="cut", nodes=list(path)),
        "nodes": list(path),
        "targets": [Moved(node=path[-1], before=3.0, measured=1.0, predicted=0.5)],
        "moved": [],
        "spearman": None,
    }
    return ablated(circuit, mark=mark, **(fields | more))


def verification(circuit: str, spearman: float | None = 0.8, p_value: float | None = 0.01) -> VerifyResult:
    return VerifyResult(circuit=circuit, spearman=spearman, interval=(0.4, 0.9), p_value=p_value, tested=3, confirmed=3)


def scored(circuit: Circuit) -> Circuit:
    """The circuit with scores of which only interventions can make a crisp one."""
    scores = Scores(
        replacement=0.95, completeness=0.98, explained_variance=0.99, influence_lost=0.3, computed_on="full graph"
    )
    return circuit.with_record(scores=scores)
