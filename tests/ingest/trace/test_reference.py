"""Equality with the field's reference implementation (tests/ingest/data/README.md)."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.oracle.cases import CASES, write_case
from benchmarks.oracle.families import FAMILIES, PROMPTS, SETS
from ingest.models import load_model
from ingest.models.load import FAMILIES as ARCHITECTURES
from ingest.trace import attribute, graph_influence, prune, scores
from ingest.trace.prompt import prompt_ids
from ingest.transcoders import load_transcoders
from tests.ingest.trace.conftest import ORACLE
from tests.ingest.trace.conftest import reference as llama_reference

FAMILY_DATA = ORACLE.parent / "oracle_families"
LLAMA = ["plt_relu/short", "plt_jumprelu/short", "plt_skip/short", "plt_relu/long"]
GRAPHS = LLAMA + [f"{name}/{prompt}" for name in SETS for prompt in PROMPTS]


def reference(name: str) -> dict[str, np.ndarray]:
    """Arrays of `<set>/<prompt>` of the larger Llama, or of `<family>/<set>/<prompt>`."""
    if name.count("/") == 1:
        return llama_reference(name)
    arrays = dict(np.load(FAMILY_DATA / f"{name}.npz"))
    size = len(arrays["adjacency_matrix"])
    return arrays | {"prune_edge_mask": np.unpackbits(arrays["prune_edge_mask"], axis=1, count=size).astype(bool)}


@pytest.fixture(scope="module")
def family_model():
    loaded = {}

    def load(family: str):
        if family not in loaded:
            loaded[family] = load_model(FAMILY_DATA / family / "model", device="cpu")
        return loaded[family]

    return load


@pytest.fixture(scope="module")
def pair(oracle_model, oracle_set, family_model):
    """(model, set) of a graph's name."""
    sets = {}

    def load(name: str):
        *family, parts, _ = name.split("/")
        if not family:
            return oracle_model, oracle_set(parts)
        model = family_model(family[0])
        if (family[0], parts) not in sets:
            sets[family[0], parts] = load_transcoders(FAMILY_DATA / family[0] / parts, model)
        return model, sets[family[0], parts]

    return load


@pytest.fixture(scope="module")
def traced(pair):
    graphs = {}

    def trace(name: str):
        if name not in graphs:
            graphs[name] = attribute(*pair(name), reference(name)["input_ids"].tolist())
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
    if name in LLAMA:
        texts = [oracle_model.token_text(int(i)) for i in graph.logit_token_ids]
        assert texts == theirs["logit_token_strs"].tolist()
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


def test_every_family_that_can_be_loaded_was_compared():
    compared = {FAMILIES[name.split("/")[0]].config["model_type"] for name in SETS}
    assert set(ARCHITECTURES) - compared == {"gemma3"}  # with images: its text part is gemma3_text


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


@pytest.mark.parametrize("name", CASES)
def test_where_the_reference_is_wrong_ours_is_that_of_the_reference_mended(name, tmp_path):
    model_folder, parts_folder = write_case(name, FAMILY_DATA, tmp_path)
    model = load_model(model_folder, device="cpu")
    right = dict(np.load(FAMILY_DATA / "mended" / f"{name}.npz"))
    graph = attribute(model, load_transcoders(parts_folder, model), list(CASES[name].ids))
    assert np.array_equal(graph.features, right["active_features"])
    assert_same_matrix(graph.matrix.toarray(), right["adjacency_matrix"])
    np.testing.assert_allclose(graph.arrays["final_logits"], right["final_logits"], atol=1e-4)
    if name == "two_rotary_bases":
        assert np.abs(graph.arrays["final_logits"] - right["as_it_is_logits"]).max() > 0.05
    if name == "cross_layer_skip":
        off = np.linalg.norm(graph.matrix.toarray() - right["as_it_is"])
        assert off > 0.5 * np.linalg.norm(right["as_it_is"])
    if name == "empty_last_position":
        assert graph.features[:, 1].max() < len(graph.token_ids) - 1
