"""Reciprocal rank fusion worked by hand, and collecting filtered rankings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.search import DEPTH, MAX_FETCH, OVERFETCH, _collect, _filter, fuse


def test_fusion_by_hand():
    fused = fuse({"text": ["a", "b"], "meaning": ["b", "c"]})
    assert [(item, names) for item, _, names in fused] == [
        ("b", ["text", "meaning"]),
        ("a", ["text"]),
        ("c", ["meaning"]),
    ]
    assert [score for _, score, _ in fused] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])


def test_equal_scores_come_in_order_of_the_items():
    assert [item for item, _, _ in fuse({"text": ["z", "m"], "meaning": ["a", "m"]})] == ["m", "a", "z"]


def test_an_item_named_twice_in_a_ranking_counts_once():
    assert fuse({"text": ["a", "a", "b"]}) == [("a", 1 / 61, ["text"]), ("b", 1 / 62, ["text"])]


@given(st.lists(st.lists(st.text(max_size=2), unique=True, max_size=8), max_size=3))
def test_fusion_keeps_every_item_once_and_falls(rankings):
    fused = fuse({str(i): ranking for i, ranking in enumerate(rankings)})
    assert {item for item, _, _ in fused} == {item for ranking in rankings for item in ranking}
    assert len({item for item, _, _ in fused}) == len(fused)
    scores = [score for _, score, _ in fused]
    assert scores == sorted(scores, reverse=True)


KEYS = [f"m%2F{m}/set/{layer}/{i}" for m in (1, 2) for layer in range(4) for i in range(3)]


def test_filters_read_model_and_layer_from_the_feature_key():
    assert _filter(None, None) is None
    of_model = _filter("m/1", None)
    assert [key for key in KEYS if of_model(key)] == KEYS[:12]
    both = _filter("m/2", (1, 2))
    assert [key for key in KEYS if both(key)] == KEYS[15:21]
    assert not both("not a key")


def ranking_of(length: int):
    asked = []

    def ask(k: int):
        asked.append(k)
        return [(f"m/s/{i}/0", 1 - i / 10**6) for i in range(min(k, length))]

    return ask, asked


def test_without_a_filter_a_ranking_is_asked_for_once():
    ask, asked = ranking_of(1000)
    assert len(_collect(ask, None, DEPTH, 20)) == DEPTH
    assert asked == [DEPTH]


def test_a_narrow_filter_asks_for_more_until_the_answer_is_full():
    ask, asked = ranking_of(5000)
    found = _collect(ask, _filter(None, (3000, 3019)), DEPTH, 20)
    assert found == [f"m/s/{i}/0" for i in range(3000, 3020)]
    assert asked == [DEPTH * OVERFETCH, DEPTH * OVERFETCH * 8]


def test_asking_for_more_ends_when_the_ranking_ends():
    ask, asked = ranking_of(3)
    assert _collect(ask, _filter(None, (7, 8)), DEPTH, 20) == []
    assert asked == [DEPTH * OVERFETCH]
    ask, asked = ranking_of(10**6)
    assert _collect(ask, _filter("other", None), DEPTH, 20) == []
    assert asked[-1] == MAX_FETCH


def test_hits_of_equal_score_are_ordered_by_key():
    assert _collect(lambda k: [("b", 1.0), ("c", 2.0), ("a", 1.0)], None, DEPTH, 20) == ["c", "a", "b"]
