"""Equality with the field's reference implementation (tests/ingest/data/README.md)."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.trace import attribute, graph_influence, prune, scores
from ingest.trace.prompt import prompt_ids
from tests.ingest.trace.conftest import reference

GRAPHS = ["plt_relu/short", "plt_jumprelu/short", "plt_skip/short", "plt_relu/long"]


@pytest.fixture(scope="module")
def traced(oracle_model, oracle_set):
    graphs = {}

    def trace(name: str):
        if name not in graphs:
            ids = reference(name)["input_ids"].tolist()
            graphs[name] = attribute(oracle_model, oracle_set(name.split("/")[0]), ids)
        return graphs[name]

    return trace


def assert_same_matrix(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.linalg.norm(ours - theirs) <= 5e-6 * np.linalg.norm(theirs)
    largest = np.abs(theirs).max(axis=1)
    assert (np.abs(ours - theirs).max(axis=1) <= 1e-4 * largest).all()


def edge_mask(graph, edges: np.ndarray) -> np.ndarray:
    mask = np.zeros(graph.matrix.shape, bool)
    coordinates = graph.matrix.tocoo()
    mask[coordinates.row[edges], coordinates.col[edges]] = True
    return mask


@pytest.mark.parametrize("name", GRAPHS)
def test_the_same_features_are_active(traced, name):
    graph, theirs = traced(name), reference(name)
    assert np.array_equal(graph.features, theirs["active_features"])
    np.testing.assert_allclose(graph.activations, theirs["activation_values"], atol=1e-5)
    np.testing.assert_allclose(graph.arrays["error_vectors"], theirs["error_vectors"], atol=5e-5)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_edge_is_the_same(traced, name):
    assert_same_matrix(traced(name).matrix.toarray(), reference(name)["adjacency_matrix"])


@pytest.mark.parametrize("name", GRAPHS)
def test_the_same_logits_with_the_same_probabilities(traced, name, oracle_model):
    graph, theirs = traced(name), reference(name)
    assert graph.logit_token_ids.tolist() == theirs["logit_token_ids"].tolist()
    assert [oracle_model.token_text(int(i)) for i in graph.logit_token_ids] == theirs["logit_token_strs"].tolist()
    np.testing.assert_allclose(graph.logit_probabilities, theirs["logit_probabilities"], atol=1e-5)
    np.testing.assert_allclose(graph.arrays["final_logits"], theirs["final_logits"], atol=1e-4)


@pytest.mark.parametrize("name", GRAPHS)
def test_influence_and_pruning_are_the_same(traced, name):
    graph, theirs = traced(name), reference(name)
    pruned = prune(graph, 0.8, 0.98)
    np.testing.assert_allclose(pruned.influence, theirs["node_influence"], atol=1e-6)
    np.testing.assert_allclose(pruned.influence_cumulative, theirs["prune_cumulative_scores"], atol=1e-4)
    assert np.array_equal(pruned.nodes, theirs["prune_node_mask"])
    assert np.array_equal(edge_mask(graph, pruned.edges), theirs["prune_edge_mask"])


@pytest.mark.parametrize("name", GRAPHS)
def test_the_scores_are_the_same(traced, name):
    theirs = reference(name)
    expected = (float(theirs["replacement_score"]), float(theirs["completeness_score"]))
    assert scores(traced(name)) == pytest.approx(expected, abs=1e-6)


def test_a_prompt_without_a_special_token_gets_the_same_one_in_front(oracle_model):
    # (its tokenizer reads w251 as w2 + 51, because w2 is special; so this text has none that begin so)
    assert prompt_ids(oracle_model, "w88 w64 w7 w5", None) == [1, 88, 64, 7, 5]
    assert prompt_ids(oracle_model, "w2 w64", None) == [2, 64]
    theirs = reference("plt_relu/long")
    assert theirs["input_ids"].tolist() == [1, *theirs["prompt_ids"].tolist()]
    assert prompt_ids(oracle_model, None, [88, 251]) == [88, 251]


def test_a_feature_cap_is_the_full_graph_cut_to_the_chosen_features(traced):
    graph, theirs = traced("plt_relu/long"), reference("plt_relu/long_cap200")
    chosen = np.zeros(graph.order.n_features, bool)
    chosen[theirs["selected_features"]] = True
    cut = graph.keep_features(chosen)
    assert_same_matrix(cut.matrix.toarray(), theirs["adjacency_matrix"])
    pruned = prune(cut, 0.8, 0.98)
    assert np.array_equal(pruned.nodes, theirs["prune_node_mask"])
    assert np.array_equal(edge_mask(cut, pruned.edges), theirs["prune_edge_mask"])


def test_a_cap_while_tracing_chooses_the_features_of_most_influence(traced, oracle_model, oracle_set):
    full, theirs = traced("plt_relu/long"), reference("plt_relu/long_cap200")
    capped = attribute(oracle_model, oracle_set("plt_relu"), theirs["input_ids"].tolist(), max_features=200)
    assert capped.computed.sum() == 200
    known = np.r_[capped.computed, np.ones(full.order.size - full.order.n_features, bool)]
    assert_same_matrix(capped.matrix.toarray()[known], full.matrix.toarray()[known])
    assert capped.matrix[~known].nnz == 0
    best = np.argsort(-graph_influence(full)[full.order.features], kind="stable")[:200]
    # neither ranks by the whole graph, which it does not have
    assert capped.computed[best].sum() >= 190
    assert capped.computed[theirs["selected_features"]].sum() >= 190
    # what was not traced counts as unexplained, so a cap never raises a score
    assert all(low <= high for low, high in zip(scores(capped, capped.computed), scores(full), strict=True))
