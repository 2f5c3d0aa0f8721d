"""Targets other than the last token's likeliest logits: each is held to the gradient of the real network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlas import Atlas
from ingest import trace
from ingest.trace import TargetSpec, attribute, graph_influence, parse_targets, prune
from tests.ingest.trace.detached import DetachedNetwork

PROMPT = [1, 7, 33, 7, 20, 48, 2]


def row_of(graph, network, transcoders, target: torch.Tensor) -> np.ndarray:
    """What the row of `target` must be, from the gradient."""
    at_embedding, at_outputs = network.gradients(target)
    expected = np.zeros(graph.order.size)
    for column, (layer, position, feature) in enumerate(graph.features):
        decoder = transcoders.layers[layer].w_dec[feature]
        expected[column] = float(at_outputs[layer, position] @ decoder) * graph.activations[column]
    errors = torch.from_numpy(graph.arrays["error_vectors"]).double()
    expected[graph.order.errors] = (at_outputs * errors).sum(-1).flatten()
    embeddings = torch.from_numpy(graph.arrays["token_vectors"]).double()
    expected[graph.order.tokens] = (at_embedding * embeddings).sum(-1)
    return expected


def test_a_difference_is_the_difference_of_the_two_rows(tiny, tiny_set):
    pair = parse_targets(tiny, ["diff:w7|w9", "w7", "w9"])
    graph = attribute(tiny, tiny_set, PROMPT, targets=pair)
    kinds = [spec.kind for spec in graph.logit_targets]
    assert kinds == ["difference", "token", "token"]
    difference, first, second = graph.matrix.toarray()[graph.order.logits]
    np.testing.assert_allclose(difference, first - second, atol=1e-6)
    values = graph.pre_activations[graph.order.logits]
    assert values[0] == pytest.approx(values[1] - values[2], abs=1e-5)
    total = graph.matrix.sum(axis=1) + graph.constants
    np.testing.assert_allclose(total[graph.order.logits], values, atol=3e-6)


def test_a_token_in_the_middle_is_read_at_its_position(tiny, tiny_set):
    graph = attribute(tiny, tiny_set, PROMPT, targets=parse_targets(tiny, ["w7@3", "w7@-1"]))
    assert graph.logit_positions.tolist() == [3, 6]
    total = graph.matrix.sum(axis=1) + graph.constants
    np.testing.assert_allclose(total[graph.order.logits], graph.pre_activations[graph.order.logits], atol=3e-6)
    alone = attribute(tiny, tiny_set, PROMPT[:4], targets=parse_targets(tiny, ["w7"]))
    assert graph.logit_probabilities[0] == pytest.approx(alone.logit_probabilities[0], abs=1e-6)
    assert graph.pre_activations[graph.order.logits][0] == pytest.approx(alone.pre_activations[-1], abs=1e-5)
    # what comes later cannot reach it
    positions = np.r_[graph.features[:, 1], np.tile(np.arange(7), 3), np.arange(7), [9, 9]]
    assert not graph.matrix.toarray()[graph.order.logits.start][positions > 3].any()


def test_a_direction_is_read_from_the_stream_it_names(tiny, tiny_set, tmp_path):
    vector = np.random.default_rng(0).normal(size=24).astype(np.float32)
    np.save(tmp_path / "truth.npy", vector)
    for name, layer in ((f"direction:{tmp_path / 'truth.npy'}", 2), (f"direction:1:{tmp_path / 'truth.npy'}@4", 1)):
        graph = attribute(tiny, tiny_set, PROMPT, targets=parse_targets(tiny, [name]))
        position = 6 if layer == 2 else 4
        if layer == 1:  # transformers gives the last stream after the final norm only
            states = tiny.network(torch.tensor([PROMPT]), output_hidden_states=True).hidden_states
            expected = float(states[layer + 1][0, position] @ torch.from_numpy(vector).double())
            assert graph.pre_activations[-1] == pytest.approx(expected, abs=1e-5)
        assert graph.matrix.sum(axis=1)[-1] + graph.constants[-1] == pytest.approx(graph.pre_activations[-1], abs=1e-5)
        assert (graph.features[:, 0] <= layer).all()
        assert (graph.features[:, 1] <= position).all()


def test_a_feature_is_explained_by_what_lies_below_it(tiny, tiny_set):
    whole = attribute(tiny, tiny_set, PROMPT)
    row = int(np.flatnonzero((whole.features[:, 0] == 2) & (whole.features[:, 1] == 4))[0])
    layer, position, index = whole.features[row].tolist()
    graph = attribute(tiny, tiny_set, PROMPT, targets=parse_targets(tiny, [f"feature:{layer}/{position}/{index}"]))
    assert graph.order.n_logits == 0
    target = int(graph.explained_features[0])
    assert graph.features[target].tolist() == [layer, position, index]
    network = DetachedNetwork(tiny, tiny_set, PROMPT)
    encoder = tiny_set.layers[layer].w_enc[index]
    expected = row_of(graph, network, tiny_set, network.read[layer][position] @ encoder)
    np.testing.assert_allclose(graph.matrix.toarray()[target], expected, atol=3e-6)
    influence = graph_influence(graph)
    assert influence[target] == 0
    assert influence.sum() > 0.9
    kept = prune(graph, 0.8, 0.98)
    assert kept.nodes[target]
    assert kept.edges.any()


def test_a_circuit_says_what_was_explained(tiny, tiny_set, settings):
    with Atlas.open(settings=settings) as atlas:
        options = {"model": tiny, "transcoders": tiny_set, "token_ids": PROMPT}
        made = trace(atlas, targets=["diff:w7|w9", "w5@3"], **options)
        record = atlas.load(made.circuit).record
        assert [(t.kind, t.position) for t in record.targets] == [("difference", 6), ("token", 3)]
        assert trace(atlas, targets=["w5@3", "diff:w7|w9"], **options).already
        assert not trace(atlas, targets=["w5@4", "diff:w7|w9"], **options).already


def test_specs_are_equal_when_they_ask_the_same():
    vector = np.ones(4)
    a, b = (TargetSpec("direction", name, vector=vector * scale) for name, scale in (("x", 1), ("x", 2)))
    assert a.described() != b.described()
    assert TargetSpec("token", "a", tokens=(3,)).described() == TargetSpec("token", "b", tokens=(3,)).described()
