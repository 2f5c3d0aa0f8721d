"""The verdict on a circuit: crisp, partial or diffuse, with its reasons. Pure.

Replacement and completeness alone do not tell a transcoder set from a meaningless one on every model. What does is whether the set
reproduces the MLPs on this prompt: its explained variance, whose zero means the same everywhere ("no better than a constant").
So the verdict is about both at once (`coverage`), and says `crisp` only where interventions in the model bear the circuit
out. The cuts are measured (benchmarks/verdict.py) and lie beside this file, with where they come from.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from atlas.circuit import Scores

Verdict = Literal["crisp", "partial", "diffuse", "untested"]
UNTESTED: Verdict = "untested"
THRESHOLDS = Path(__file__).with_name("verdict.json")
#: statistic -> more of it is better. Measured side by side; the verdict uses `coverage` and, for crisp, `influence_lost`.
STATISTICS = {
    "replacement": True,
    "completeness": True,
    "explained_variance": True,
    "effective_paths": False,
    "influence_lost": False,
    "error_share": False,
    "coverage": True,
}
SIGNIFICANT = 0.05  # a convention, not measured


class Evidence(BaseModel):
    """What interventions in the model said: edges or nodes whose effect was as predicted, was not, or could not be told; the rank
    correlation of predicted with actual effects, and its p-value against controls."""

    confirmed: int = Field(0, ge=0)
    refuted: int = Field(0, ge=0)
    inconclusive: int = Field(0, ge=0)
    spearman: float | None = None
    p_value: float | None = None


class Thresholds(BaseModel):
    """Cuts of `coverage` (0 to 1) and of `influence_lost`; `provenance` says what they were measured on."""

    diffuse_below: float
    crisp_from: float
    crisp_influence_lost: float
    provenance: dict[str, str | int | float]


@cache
def thresholds() -> Thresholds:
    return Thresholds.model_validate(json.loads(THRESHOLDS.read_text("utf-8")))


def coverage(scores: Scores) -> float | None:
    """max(0, explained variance) x replacement, 0 to 1; None where one is unknown or the scores are not of a full graph."""
    if scores.computed_on != "full graph" or scores.replacement is None or scores.explained_variance is None:
        return None
    return max(0.0, scores.explained_variance) * scores.replacement


def verdict(scores: Scores, evidence: Evidence | None = None) -> tuple[Verdict, list[str]]:
    """The word and its reasons, one sentence each. `untested` where the scores say too little to judge."""
    found = coverage(scores)
    if found is None:
        tested = [] if evidence is None else [_sentence(evidence)]
        return UNTESTED, [_unknown(scores), *tested]
    cuts = thresholds()
    variance, replacement = scores.explained_variance or 0.0, scores.replacement or 0.0
    source = f"The cuts were measured on one small model ({cuts.provenance['model']}); on a larger one they erred towards diffuse."
    if variance < 0:
        said = f"On this prompt the transcoders reproduce the MLPs worse than a constant would (explained variance {variance:.2f})."
    else:
        said = (
            f"On this prompt the transcoders reproduce {variance:.0%} of the MLPs' variance, and {replacement:.0%} of the influence on the "
            f"answer comes from tokens and not from errors: together {found:.2f}."
        )
    if found < cuts.diffuse_below:
        return "diffuse", [
            said,
            f"Diffuse: below {cuts.diffuse_below:.2f}, where sets with half of their decoders scrambled lie.",
            source,
        ]
    against = _against_crisp(scores, found, evidence, cuts)
    if not against:
        return "crisp", [said, f"Crisp: {_spoken(evidence)}", source]
    return "partial", [said, *against, source]


def reasons(stored: str, scores: Scores, evidence: Evidence | None = None) -> list[str]:
    """Why a circuit says `stored`. The word is the one given when it was added or when its evidence changed last; where today's
    cuts say another, that is said first."""
    word, why = verdict(scores, evidence)
    if word == stored:
        return why
    return [f"Stored as {stored}; by its scores, its evidence and the cuts of this version it is {word}.", *why]


def _unknown(scores: Scores) -> str:
    if scores.replacement is None:
        return "Not judged: the circuit carries no scores."
    if scores.computed_on == "file":
        return "Not judged: its scores are of what is in the file, where what was cut away does not count as error."
    return (
        "Not judged: it is not known how well the transcoders reproduce the MLPs on this prompt (explained variance)."
    )


def _against_crisp(scores: Scores, found: float, evidence: Evidence | None, cuts: Thresholds) -> list[str]:
    reasons = []
    if evidence is None:
        reasons.append("At best partial: no intervention in the model has tested this circuit.")
    elif not _bears_out(evidence):
        reasons.append(f"At best partial: {_spoken(evidence)}")
    if found < cuts.crisp_from:
        reasons.append(f"Below {cuts.crisp_from:.2f}, which 95% of the traces with a good set reach.")
    if scores.influence_lost is None:
        reasons.append("How much influence pruning has cut away is not known.")
    elif scores.influence_lost > cuts.crisp_influence_lost:
        reasons.append(
            f"Pruning has cut away {scores.influence_lost:.0%} of the influence, more than {cuts.crisp_influence_lost:.0%}: what is shown is a part."
        )
    return reasons


def _bears_out(evidence: Evidence) -> bool:
    return (
        evidence.confirmed > evidence.refuted
        and (evidence.spearman or 0.0) > 0
        and evidence.p_value is not None
        and evidence.p_value < SIGNIFICANT
    )


def _spoken(evidence: Evidence | None) -> str:
    if evidence is None:
        return ""
    chance = "unknown" if evidence.p_value is None else f"{evidence.p_value:.2g}"
    return (
        f"interventions confirmed {evidence.confirmed}, refuted {evidence.refuted} and left open {evidence.inconclusive} "
        f"of what it predicts (p {chance})."
    )


def _sentence(evidence: Evidence) -> str:
    said = _spoken(evidence)
    return said[:1].upper() + said[1:]
