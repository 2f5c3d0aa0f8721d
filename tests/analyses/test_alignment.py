"""Which positions and nodes of two circuits correspond."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from atlas.alignment import align_nodes, align_positions
from tests.analyses.graphs import draw

DALLAS = ["Fact", ":", "the", "capital", "of", "the", "state", "containing", "Dallas", "is"]
OAKLAND = ["Fact", ":", "the", "capital", "of", "the", "state", "containing", "Oakland", "is"]
words = st.lists(st.sampled_from("abcd"), max_size=12)


def test_a_replaced_word_aligns_with_its_replacement():
    assert align_positions(DALLAS, OAKLAND) == [(p, p) for p in range(10)]


def test_words_of_one_prompt_alone_align_with_nothing():
    # "San Francisco" for "Dallas": a gap of unequal length stays open
    longer = [*DALLAS[:8], "San", "Francisco", "is"]
    assert align_positions(DALLAS, longer) == [*((p, p) for p in range(8)), (9, 10)]


@given(words, words)
def test_alignment_rises_in_both_and_is_mirrored(a, b):
    pairs = align_positions(a, b)
    assert all(x < u and y < v for (x, y), (u, v) in pairwise(pairs))
    assert all(x < len(a) and y < len(b) for x, y in pairs)
    assert align_positions(b, a) == [(y, x) for x, y in pairs]


@given(words)
def test_a_sequence_aligns_with_itself_everywhere(a):
    assert align_positions(a, a) == [(p, p) for p in range(len(a))]


def rows(a, b) -> list[tuple[int, int]]:
    return list(zip(*(x.tolist() for x in align_nodes(a, b)), strict=True))


def test_nodes_correspond_by_what_they_stand_for():
    a = draw(
        [
            ("token", -1, 1, 11),
            ("feature", 0, 1, 4),
            ("feature", 0, 2, 4),
            ("error", 0, 2, -1),
            ("logit", 4, 2, 7),
            ("logit", 4, 2, 8),
        ],
        [],
        ("in", "Dallas", "is"),
    )
    b = draw(
        [
            ("logit", 5, 3, 8),  # another tool's count of layers
            ("error", 0, 3, -1),
            ("error", 1, 3, -1),
            ("feature", 0, 3, 4),
            ("feature", 0, 2, 4),
            ("feature", 0, 2, 5),
            ("token", -1, 2, 99),
            ("token", -1, 0, 11),  # Dallas' id, but at a place that A does not have
        ],
        [],
        ("now", "in", "Oakland", "is"),
    )
    assert rows(a, b) == [(0, 6), (1, 4), (2, 3), (3, 1), (5, 0)]


def test_a_feature_and_an_error_of_one_place_stay_apart():
    a = draw([("feature", 2, 0, -1), ("error", 2, 0, -1)], [], ("x",))
    assert rows(a, a) == [(0, 0), (1, 1)]


def test_logits_of_one_word_at_several_places_pair_in_order():
    a = draw([("logit", 2, 5, 7), ("logit", 2, 1, 7)], [], tuple("abcdef"))
    b = draw([("logit", 2, 0, 7), ("logit", 2, 3, 7), ("logit", 2, 2, 8)], [], tuple("uvwx"))
    assert rows(a, b) == [(0, 1), (1, 0)]
    assert rows(a, draw([("logit", 2, 3, 7)], [], tuple("uvwx"))) == [(1, 0)]


def test_positions_past_the_token_list_and_pooled_ones_correspond_to_themselves():
    a = draw([("feature", 0, -1, 1), ("feature", 0, 63, 1), ("feature", 0, 1, 1)], [], ("x",))
    b = draw([("feature", 0, 63, 1), ("feature", 0, -1, 1), ("feature", 0, 1, 1)], [], ("y", "x"))
    assert rows(a, b) == [(0, 1), (1, 0)]  # position 1 is past A's tokens and within B's
    assert rows(b, a) == [(0, 1), (1, 0)]
    assert rows(a, a) == [(0, 0), (1, 1), (2, 2)]
    assert np.array_equal(*align_nodes(b, b))
