"""Comparing: by hand with fractions, and what must hold for any two circuits."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.circuit import Method, ModelRef, SetRef
from atlas.compare import compare, noise_floor
from atlas.errors import UsageError
from tests.analyses.graphs import draw

# 0 token -> 1 feature 1 -> 3 logit; 0 -> 2 feature 2 -> 3
NODES = [("token", -1, 0, 5), ("feature", 0, 1, 1), ("feature", 0, 1, 2), ("logit", 1, 1, 9)]
EDGES = [(0, 1, 2.0), (0, 2, 1.0), (1, 3, 3.0), (2, 3, -1.0)]


def test_signed_shares_of_two_graphs_drawn_by_hand():
    a = draw(NODES, EDGES, ("Dallas", "is"))
    other = [("token", -1, 0, 6), ("feature", 0, 1, 1), ("feature", 0, 1, 3), ("logit", 1, 1, 9)]
    b = draw(other, [(0, 1, 4.0), (0, 2, 1.0), (1, 3, 1.0), (2, 3, 3.0), (0, 3, -4.0)], ("Oakland", "is"))
    result = compare(a, b)
    # A: token-1: 1; token-2: 1; 1-logit: 3/4; 2-logit: -1/4
    # B: token-1: 1; token-3: 1; 1-logit: 1/8; 3-logit: 3/8; token-logit: -4/8
    assert (result.shared, result.only_a, result.only_b) == (2, 2, 3)
    # min: 1 + 1/8; max: 1 + 3/4 for shared edges and 1 + 1/4 of A, 1 + 3/8 + 1/2 of B
    assert result.similarity == pytest.approx((1 + 1 / 8) / (1 + 3 / 4 + 5 / 4 + 15 / 8))
    # on nodes of both: token-1 and 1-logit of A, token-1, 1-logit and token-logit of B; all: 3 and 3
    assert result.aligned_share == pytest.approx((1 + 3 / 4 + 1 + 1 / 8 + 1 / 2) / 6)
    assert result.positions == [(0, 0), (1, 1)]
    assert result.floor is None
    found = {(e.source, e.target): (e.a, e.b, e.delta, e.above_noise) for e in result.edges}
    assert found == {
        ("token/-1/0/5", "feature/0/1/1"): (1.0, 1.0, 0.0, None),
        ("token/-1/0/5", "feature/0/1/2"): (1.0, None, -1.0, None),
        ("token/-1/0/6", "feature/0/1/3"): (None, 1.0, 1.0, None),
        ("feature/0/1/1", "logit/1/1/9"): (0.75, 0.125, -0.625, None),
        ("feature/0/1/2", "logit/1/1/9"): (-0.25, None, 0.25, None),
        ("feature/0/1/3", "logit/1/1/9"): (None, 0.375, 0.375, None),
        ("token/-1/0/6", "logit/1/1/9"): (None, -0.5, -0.5, None),
    }
    assert [abs(e.delta) for e in result.edges] == sorted((abs(e.delta) for e in result.edges), reverse=True)


def test_an_edge_of_opposite_sign_is_no_agreement():
    one, other = draw(NODES[:2], [(0, 1, 1.0)]), draw(NODES[:2], [(0, 1, -1.0)])
    result = compare(one, other)
    assert (result.shared, result.similarity, result.edges[0].delta) == (1, 0.0, -2.0)


def test_slots_and_repeated_pairs_are_edges_of_their_own():
    one = draw(NODES[:2], [(0, 1, 1.0), (0, 1, 3.0), (0, 1, 4.0, "q")])
    other = draw(NODES[:2], [(0, 1, 3.0), (0, 1, 4.0, "k"), (0, 1, 1.0)])
    result = compare(one, other)
    assert (result.shared, result.only_a, result.only_b) == (2, 1, 1)
    assert sorted((e.slot, e.a, e.b) for e in result.edges if e.slot == "direct") == [
        ("direct", 0.125, 0.125),
        ("direct", 0.375, 0.375),
    ]


def test_the_floor_is_the_largest_difference_between_replicates():
    def trace(weight: float, extra: bool = False):
        return draw(NODES, [(0, 1, 2.0), (0, 2, 1.0), (1, 3, weight), *([(2, 3, -1.0)] if extra else [])])

    # share of 1-logit: 3/4, 1 (no other edge: 2-logit 0 instead of -1/4), 4/5 (2-logit -1/5)
    replicates = [trace(3.0, True), trace(3.0), trace(4.0, True)]
    assert noise_floor(replicates) == pytest.approx(1 / 4)
    assert noise_floor([replicates[0], replicates[2]]) == pytest.approx(1 / 20)
    result = compare(replicates[0], trace(1.0, True), [replicates[2]])
    assert result.floor == pytest.approx(1 / 20)
    # 1-logit: 3/4 -> 1/2, 2-logit: -1/4 -> -1/2; the rest is equal
    assert {e.target: e.above_noise for e in result.edges[:2]} == {"logit/1/1/9": True}
    assert [e.above_noise for e in result.edges] == [True, True, False, False]
    # a difference as large as the floor is not above it
    assert not any(e.above_noise for e in compare(replicates[0], replicates[2], [replicates[2]]).edges)
    assert compare(trace(1.0), replicates[0], [], [replicates[2]]).floor == pytest.approx(1 / 20)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"method": Method(weight_unit="logit difference")}, "weight units"),
        ({"method": Method(name="patching")}, "methods"),
        ({"model": ModelRef(name="other")}, "models"),
        ({"transcoders": SetRef(name="other")}, "transcoder sets"),
        ({"transcoders": SetRef(name="toy-set", hash="b" * 64)}, "transcoder sets"),
    ],
)
def test_circuits_whose_weights_or_features_mean_different_things_are_refused(change, what):
    one = draw(NODES, EDGES, transcoders=SetRef(name="toy-set", hash="a" * 64))
    changed = one.with_record(**change)
    for pair in ((one, changed), (changed, one)):
        with pytest.raises(UsageError, match=f"different {what}") as raised:
            compare(*pair)
        assert raised.value.hint


def test_an_unknown_hash_does_not_tell_sets_apart():
    one = draw(NODES, EDGES)
    assert compare(one, one.with_record(transcoders=SetRef(name="toy-set", hash="b" * 64))).similarity == 1


@st.composite
def circuits(draw_from):
    tokens = draw_from(st.lists(st.sampled_from("ab"), min_size=1, max_size=4))
    place = st.integers(0, len(tokens) - 1)
    node = st.one_of(
        st.tuples(st.just("feature"), st.integers(0, 1), place, st.integers(0, 2)),
        st.tuples(st.just("error"), st.integers(0, 1), place, st.just(-1)),
        st.tuples(st.just("token"), st.just(-1), place, st.just(3)),
        st.tuples(st.just("logit"), st.just(2), place, st.integers(0, 2)),
    )
    nodes = draw_from(st.lists(node, min_size=1, max_size=8, unique_by=lambda n: n[:3] if n[0] == "token" else n))
    row = st.integers(0, len(nodes) - 1)
    edge = st.tuples(row, row, st.integers(-5, 5), st.sampled_from(["direct", "q"]))
    return draw(nodes, draw_from(st.lists(edge, max_size=12)), tuple(tokens))


@settings(max_examples=80, deadline=None)
@given(circuits())
def test_a_circuit_equals_itself(circuit):
    result = compare(circuit, circuit, [circuit])
    assert (result.similarity, result.aligned_share, result.floor) == (1.0, 1.0, 0.0)
    assert (result.shared, result.only_a, result.only_b) == (len(circuit.edges), 0, 0)
    assert all(e.delta == 0 and e.above_noise is False and e.a == e.b for e in result.edges)


@settings(max_examples=100, deadline=None)
@given(circuits(), circuits())
def test_swapping_the_circuits_mirrors_the_comparison(a, b):
    one, other = compare(a, b), compare(b, a)
    assert (one.shared, one.only_a, one.only_b) == (other.shared, other.only_b, other.only_a)
    assert one.similarity == pytest.approx(other.similarity)
    assert one.aligned_share == pytest.approx(other.aligned_share)
    assert one.positions == [(y, x) for x, y in other.positions]
    assert Counter((e.a, e.b, e.delta) for e in one.edges) == Counter((e.b, e.a, -e.delta) for e in other.edges)


@settings(max_examples=100, deadline=None)
@given(circuits(), circuits())
def test_counts_and_shares_stay_in_their_bounds(a, b):
    result = compare(a, b)
    assert result.shared + result.only_a == len(a.edges)
    assert result.shared + result.only_b == len(b.edges)
    assert 0 <= result.similarity <= 1
    assert 0 <= result.aligned_share <= 1
    for edge in result.edges:
        assert edge.delta == pytest.approx((edge.b or 0) - (edge.a or 0))
        assert {edge.source, edge.target} <= set((a if edge.a is not None else b).keys)


def test_a_circuit_without_edges_differs_from_one_with_edges():
    empty, full = draw(NODES, []), draw(NODES, EDGES)
    assert compare(empty, full).similarity == 0
    assert compare(empty, empty).similarity == 1
