"""Faithfulness curves and their areas, from numbers alone.

Source: Mueller et al. 2025, *MIB: A Mechanistic Interpretability Benchmark*, section 3.1 (circuit localization track), and the grid and
the area rule of its evaluation code (repository MIB-circuit-track, `evaluation.py`): ten fractions of the edges, the
trapezoid rule between them on a linear axis, from the first fraction to 1. So a curve that is 1 everywhere has CPR 0.999.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atlas.errors import InputRejected

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def sizes(total: int, fractions: Sequence[float] = FRACTIONS) -> list[int]:
    """How many of `total` edges each fraction is, rounded down as MIB does."""
    return [int(fraction * total + 1e-9) for fraction in fractions]


def ranking(scores: np.ndarray, *, absolute: bool) -> np.ndarray:
    """(n,) rows by falling score, or by falling size with `absolute`. Equal ones keep their order; NaN comes last."""
    values = np.abs(scores) if absolute else scores
    return np.argsort(-np.nan_to_num(values.astype(np.float64), nan=-np.inf), kind="stable")


def kept(order: np.ndarray, size: int) -> np.ndarray:
    """(n,) bool: the first `size` rows of a ranking."""
    mask = np.zeros(len(order), bool)
    mask[order[:size]] = True
    return mask


def faithfulness(values: Sequence[float], full: float, empty: float) -> list[float]:
    """f = (m - m(empty)) / (m(full) - m(empty)) of each m.

    Raises InputRejected where the metric does not tell the whole model from the empty circuit.
    """
    span = _span(full, empty)
    return [(float(value) - empty) / span for value in values]


def damage(values: Sequence[float], full: float, empty: float) -> list[float]:
    """(m(full) - m) / (m(full) - m(empty)) of each m, where m is measured with the top of the ranking removed."""
    span = _span(full, empty)
    return [(full - float(value)) / span for value in values]


def _span(full: float, empty: float) -> float:
    span = full - empty
    if not np.isfinite(span) or abs(span) <= 1e-6 * max(abs(full), abs(empty), 1e-6):
        raise InputRejected(
            f"The metric is {full:.4g} on the whole model and {empty:.4g} with everything replaced, so shares of it mean nothing.",
            "Choose prompts on which the corruption changes the answer, or another metric.",
        )
    return span


def area(values: Sequence[float], fractions: Sequence[float] = FRACTIONS) -> float:
    """Trapezoid rule over the fractions, linear axis."""
    return float(np.trapezoid(np.asarray(values, np.float64), np.asarray(fractions, np.float64)))


def cpr(values: Sequence[float], fractions: Sequence[float] = FRACTIONS) -> float:
    """Integrated circuit performance ratio: area under f; edges ranked by signed score. Higher is better."""
    return area(values, fractions)


def cmd(values: Sequence[float], fractions: Sequence[float] = FRACTIONS) -> float:
    """Integrated circuit-model distance: area of |1 - f|; edges ranked by absolute score. 0 is best."""
    return area(np.abs(1 - np.asarray(values, np.float64)).tolist(), fractions)


def auroc(scores: np.ndarray, true: np.ndarray) -> float:
    """Area under the receiver operating characteristic: the chance that a true row has a higher score than another, ties half.

    scores (n,), true (n,) bool. NaN where all or none are true.
    """
    from scipy.stats import rankdata

    positive = int(true.sum())
    negative = len(true) - positive
    if not positive or not negative:
        return float("nan")
    ranks = rankdata(scores.astype(np.float64))
    return float((ranks[true].sum() - positive * (positive + 1) / 2) / (positive * negative))
