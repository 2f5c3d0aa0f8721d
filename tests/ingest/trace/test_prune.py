"""Influence, pruning and scores on graphs drawn by hand and on random ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from ingest.trace import FullGraph, NodeOrder, graph_influence, prune, scores
from ingest.trace.influence import cut_value, running_share


def drawn(
    weights: dict[tuple[int, int], float],
    features: list[tuple[int, int, int]],
    *,
    n_positions=1,
    n_layers=2,
    probabilities=(1.0,),
) -> FullGraph:
    """A graph from {(target row, source row): weight}; rows: features, errors, tokens, logits."""
    order = NodeOrder(len(features), n_layers, n_positions, len(probabilities))
    dense = np.zeros((order.size, order.size), np.float32)
    for (target, source), weight in weights.items():
        dense[target, source] = weight
    return FullGraph(
        order=order,
        token_ids=[5] * n_positions,
        features=np.array(features, np.int32).reshape(-1, 3),
        activations=np.ones(len(features), np.float32),
        logit_token_ids=np.arange(len(probabilities)),
        logit_probabilities=np.array(probabilities, np.float32),
        matrix=sparse.csr_array(dense),
        constants=np.zeros(order.size, np.float32),
        pre_activations=np.zeros(order.size, np.float32),
        arrays={},
    )


@pytest.fixture
def chain() -> FullGraph:
    """Rows 0: feature of layer 0; 1: feature of layer 1; 2, 3: errors of layers 0, 1; 4: token; 5: logit (p = 1).

    logit <- feature 1 (3/4), error 1 (1/4, negative); feature 1 <- feature 0 (1/2), error 0 (1/2); feature 0 <- token.
    """
    weights = {(5, 1): 3, (5, 3): -1, (1, 0): -2, (1, 2): 2, (0, 4): 7}
    return drawn(weights, [(0, 0, 11), (1, 0, 12)])


def test_influence_is_the_share_over_all_paths(chain):
    # feature 1: 3/4; error 1: 1/4; feature 0 and error 0: 3/4 * 1/2 = 3/8; token: 3/8; the logit itself: none
    np.testing.assert_allclose(graph_influence(chain), [3 / 8, 3 / 4, 3 / 8, 1 / 4, 3 / 8, 0])


def test_influence_scales_with_the_probabilities():
    # feature: 0.5 * 1/2; token (row 2): 0.5 * 1/2 directly, 0.25 through the feature, 0.25 * 1 to the second logit
    graph = drawn({(3, 0): 1, (3, 2): 1, (4, 2): 3, (0, 2): 1}, [(0, 0, 1)], n_layers=1, probabilities=(0.5, 0.25))
    np.testing.assert_allclose(graph_influence(graph), [0.25, 0, 0.75, 0, 0])


def test_scores_of_a_drawn_graph(chain):
    replacement, completeness = scores(chain)
    assert replacement == pytest.approx((3 / 8) / (3 / 8 + 3 / 8 + 1 / 4))
    # error share: logit 1/4, feature 1 1/2, others 0; weights: influence, and 1 on the logit
    total = 3 / 8 + 3 / 4 + 3 / 8 + 1 / 4 + 3 / 8 + 1
    assert completeness == pytest.approx(1 - (1 / 4 * 1 + 1 / 2 * 3 / 4) / total)


def test_a_dropped_feature_counts_as_error(chain):
    replacement, completeness = scores(chain, np.array([True, False]))
    assert replacement == 0  # all of the logit's input is now error of layer 1
    # nodes with weight: error 1 (1), logit (1, all of its input error)
    assert completeness == pytest.approx(1 - 1 / 2)


def test_opposite_signs_do_not_cancel_when_a_dropped_feature_becomes_error():
    graph = drawn({(3, 0): 1, (3, 1): -1, (3, 2): 2, (0, 2): 1}, [(0, 0, 1)], n_layers=1)
    assert scores(graph)[0] == pytest.approx(3 / 4)
    assert scores(graph, np.array([False]))[0] == pytest.approx(1 / 2)


def test_nodes_are_kept_until_the_threshold_is_reached(chain):
    # sorted 3/4, 3/8, 3/8, 3/8, 1/4 of 17/8; the first alone hold 0.35, the first four 0.88
    kept = prune(chain, 0.3, 1.0)
    assert kept.nodes.tolist() == [False, False, False, False, True, True]  # feature 1 has no input left
    kept = prune(chain, 0.8, 1.0)
    assert kept.nodes.tolist() == [True, True, True, False, True, True]
    assert kept.edges.sum() == 4


def test_thresholds_of_one_keep_every_node_and_every_edge():
    graph = drawn({(3, 2): 1, (0, 2): 1e-12}, [(0, 0, 1)], n_layers=1)  # a feature that leads nowhere
    kept = prune(graph, 1.0, 1.0)
    assert kept.nodes.all()
    assert kept.edges.all()
    assert kept.edges.size == 2


def test_nodes_left_without_edges_are_dropped_in_turn():
    # a chain of three features; the weak edge out of the last one goes first, then the rest
    graph = drawn(
        {(2, 1): 1, (1, 0): 1, (0, 6): 1, (7, 2): 1e-3, (7, 6): 1}, [(0, 0, 1), (1, 0, 1), (2, 0, 1)], n_layers=3
    )
    kept = prune(graph, 1.0, 0.9)
    assert kept.nodes.tolist() == [False] * 6 + [True, True]
    assert kept.edges.sum() == 1


def test_a_graph_can_be_cut_to_some_features(chain):
    cut = chain.keep_features(np.array([False, True]))
    assert cut.features.tolist() == [[1, 0, 12]]
    assert cut.matrix.toarray()[4].tolist() == [3, 0, -1, 0, 0]


def test_targets_of_probability_zero_weigh_alike():
    graph = drawn({(3, 2): 1, (4, 2): 1}, [(0, 0, 1)], n_layers=1, probabilities=(0.0, 0.0))
    assert graph_influence(graph)[2] == pytest.approx(1)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.floats(0, 1), st.integers(1, 300))
@settings(deadline=None)
def test_the_cut_value_is_that_of_a_full_sort(values, share, repeat):
    scores = np.tile(np.array(values), repeat) * np.linspace(1, 2, len(values) * repeat)
    cut = cut_value(scores, share)
    wanted = share * scores.sum()
    assert cut in scores
    tolerance = 1e-9 * scores.sum()
    assert scores[scores >= cut].sum() >= wanted - tolerance
    assert scores[scores > cut].sum() <= wanted + tolerance


def test_the_cut_value_of_many_scores_is_that_of_a_full_sort():
    scores = np.random.default_rng(0).exponential(size=50_000) ** 3
    descending = np.sort(scores)[::-1]
    for share in (0.01, 0.5, 0.8, 0.98, 0.9999):
        place = np.searchsorted(np.cumsum(descending), share * scores.sum())
        assert cut_value(scores, share) == descending[place]


def test_running_share_is_the_share_held_by_nodes_at_least_as_strong():
    np.testing.assert_allclose(running_share(np.array([1.0, 5.0, 4.0])), [1.0, 0.5, 0.9])


@st.composite
def random_graphs(draw) -> FullGraph:
    """Any acyclic graph: 2 layers of up to 4 features, 2 positions, weights of both signs, some zero."""
    n_layers, n_positions = 2, 2
    places = draw(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 2)), max_size=6, unique=True))
    features = sorted(places)
    probabilities = draw(st.lists(st.floats(0.01, 0.5), min_size=1, max_size=2))
    order = NodeOrder(len(features), n_layers, n_positions, len(probabilities))
    layer = [f[0] for f in features] + [0, 0, 1, 1] + [-1, -1] + [n_layers] * len(probabilities)
    weight = st.one_of(st.just(0.0), st.floats(-5, 5, width=32))
    targets = [*range(order.n_features), *range(order.n_sources, order.size)]
    weights = {(t, s): draw(weight) for t in targets for s in range(order.n_sources) if layer[s] < layer[t]}
    return drawn(weights, features, n_positions=n_positions, n_layers=n_layers, probabilities=tuple(probabilities))


@given(random_graphs(), st.data())
@settings(deadline=None, max_examples=150)
def test_dropping_features_never_raises_a_score(graph, data):
    keep = np.array(
        data.draw(st.lists(st.booleans(), min_size=graph.order.n_features, max_size=graph.order.n_features))
    )
    keep = keep.astype(bool)
    fewer = keep & np.array(data.draw(st.lists(st.booleans(), min_size=len(keep), max_size=len(keep)))).astype(bool)
    whole, some, less = scores(graph), scores(graph, keep), scores(graph, fewer)
    for before, after in ((whole, some), (some, less)):
        assert after[0] <= before[0] + 1e-12
        assert after[1] <= before[1] + 1e-12


@given(random_graphs(), st.floats(0.05, 1), st.floats(0.05, 1))
@settings(deadline=None, max_examples=100)
def test_what_pruning_keeps_hangs_together(graph, node_threshold, edge_threshold):
    kept, order = prune(graph, node_threshold, edge_threshold), graph.order
    coordinates = graph.matrix.tocoo()
    rows, columns = coordinates.row[kept.edges], coordinates.col[kept.edges]
    assert kept.nodes[rows].all()
    assert kept.nodes[columns].all()
    assert kept.nodes[order.tokens].all()
    assert kept.nodes[order.logits].all()
    if node_threshold < 1 or edge_threshold < 1:
        for row in np.flatnonzero(kept.nodes[: order.errors.stop]):
            assert (columns == row).any()
            assert row >= order.n_features or (rows == row).any()
