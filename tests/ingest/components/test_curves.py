"""Grid, area rule and rankings of faithfulness curves, on curves whose areas are known."""

from __future__ import annotations

import numpy as np
import pytest

from atlas.errors import InputRejected
from ingest.components import curves
from ingest.components.curves import FRACTIONS


def test_a_circuit_that_is_the_model_at_every_size_has_the_whole_area_and_no_distance():
    assert curves.cpr([1.0] * 10) == pytest.approx(0.999)
    assert curves.cmd([1.0] * 10) == 0


def test_the_area_of_a_straight_line_is_exact_on_a_linear_axis():
    line = list(FRACTIONS)
    assert curves.cpr(line) == pytest.approx((1 - 0.001**2) / 2)
    assert curves.cmd(line) == pytest.approx(0.999 - (1 - 0.001**2) / 2)


def test_a_step_counts_by_the_trapezoid_between_its_ends():
    step = [0.0] * 8 + [1.0, 1.0]  # 0 up to 0.2, 1 from 0.5 on
    assert curves.cpr(step) == pytest.approx(0.3 / 2 + 0.5)
    assert curves.cmd(step) == pytest.approx(0.199 + 0.3 / 2)


def test_going_beyond_the_model_raises_the_area_but_also_the_distance():
    assert curves.cpr([1.5] * 10) == pytest.approx(1.5 * 0.999)
    assert curves.cmd([1.5] * 10) == pytest.approx(0.5 * 0.999)


def test_sizes_are_rounded_down_and_not_lost_to_binary_fractions():
    assert curves.sizes(1000) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    assert curves.sizes(99) == [0, 0, 0, 0, 1, 4, 9, 19, 49, 99]


def test_signed_and_absolute_rankings_differ_only_by_the_sign():
    scores = np.array([0.1, -3.0, 2.0, 0.0, np.nan])
    assert curves.ranking(scores, absolute=False).tolist() == [2, 0, 3, 1, 4]
    assert curves.ranking(scores, absolute=True).tolist() == [1, 2, 0, 3, 4]
    assert curves.kept(curves.ranking(scores, absolute=True), 2).tolist() == [False, True, True, False, False]


def test_faithfulness_is_0_for_the_empty_and_1_for_the_whole_whatever_the_sign_of_the_metric():
    assert curves.faithfulness([-4.0, -1.0, 2.0], full=2.0, empty=-4.0) == [0.0, 0.5, 1.0]
    assert curves.faithfulness([1.0], full=-1.0, empty=3.0) == [0.5]
    assert curves.damage([2.0, -1.0, -4.0], full=2.0, empty=-4.0) == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("full", [1.0, float("nan")])
def test_a_metric_that_corruption_does_not_move_is_refused(full):
    with pytest.raises(InputRejected, match="shares of it mean nothing"):
        curves.faithfulness([1.0], full=full, empty=1.0)


def test_auroc_is_the_chance_that_a_true_one_is_above_a_false_one():
    true = np.array([True, False, True, False])
    assert curves.auroc(np.array([4.0, 3.0, 2.0, 1.0]), true) == 0.75
    assert curves.auroc(np.zeros(4), true) == 0.5
    assert np.isnan(curves.auroc(np.zeros(2), np.array([True, True])))
