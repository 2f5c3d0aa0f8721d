"""Features switched off in the real model, and what a graph says they are worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from atlas.circuit import KIND, Circuit, CircuitRecord, Edges, Nodes, Target
from ingest.components.features import FeatureRuns, rows_of_features, total_effects
from ingest.models import load_model
from ingest.trace.targets import TargetSpec, token_targets
from ingest.transcoders import load_transcoders
from tests.ingest.trace.conftest import write_model, write_set

IDS = [1, 7, 20, 33, 9, 14]


@pytest.fixture(scope="module", params=["llama", "gemma2", "gpt_neox"])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model = load_model(write_model(folder / "model", request.param), device="cpu", dtype="float64")
    return model, load_transcoders(write_set(folder / "set", skip=True), model)


def runs(pair, **changes) -> FeatureRuns:
    return FeatureRuns(*pair, IDS, token_targets([3, 11], ["", ""]), **changes)


def test_with_every_feature_kept_the_run_is_the_model_itself(pair):
    run = runs(pair)
    with torch.no_grad():
        logits = pair[0].network(input_ids=torch.tensor([IDS])).logits[0, -1]
    uncapped = pair[0].freeze(IDS, "mlp.hook_in", "mlp.hook_out").logits_at(-1)[1]
    chance = logits.double().softmax(0)
    expected = sum(chance[i] * uncapped[i] for i in (3, 11))
    assert run.metric(np.ones((1, len(run.features)), bool)) == pytest.approx([float(expected)], rel=1e-5)


def test_a_feature_of_the_last_layer_that_is_off_is_missing_from_the_last_stream(pair):
    model, transcoders = pair
    run = runs(pair)
    last = next(i for i, f in enumerate(run.features.tolist()) if f[0] == 2 and f[1] == len(IDS) - 1)
    keep = np.ones((1, len(run.features)), bool)
    keep[0, last] = False
    frozen = model.freeze(IDS, "mlp.hook_in", "mlp.hook_out")
    written = transcoders.layers[2].decoder_rows(run.features[last, 2:])[0, 0] * run.activations[last].double()
    post = model.blocks()[2].post_mlp_norm
    stream = frozen.final[-1] - written
    if post is not None:
        before = frozen.outputs[2, -1]
        stream = frozen.final[-1] - post.module(before) + post.module(before - written)
    head = model.network.get_output_embeddings()
    expected = (lambda x: x - x.mean())(head(model.final_norm.module(stream)))
    chance = frozen.logits.double().softmax(0)
    assert run.metric(keep) == pytest.approx([float(sum(chance[i] * expected[i] for i in (3, 11)))], rel=1e-5)


def test_gradient_scores_are_what_a_hair_of_each_feature_does(pair):
    model, transcoders = pair

    def effects(hair: float) -> np.ndarray:
        thin = [replace(layer, w_dec=layer.w_dec * hair) for layer in transcoders.layers]
        run = runs((model, replace(transcoders, layers=thin)))
        count = len(run.features)
        return run.metric(np.ones((1, count), bool)) - run.metric(~np.eye(count, dtype=bool))

    hair = 0.02  # transformers computes softmax and norms in float32, so not thinner
    expected = (effects(hair) - effects(-hair)) / (2 * hair)
    scores = runs(pair).gradient_scores()
    assert np.abs(scores - expected).max() < 1e-3 * np.abs(scores).max()


def test_positions_without_features_are_left_alone(pair):
    run = runs(pair)
    assert (run.features[:, 1] > 0).all()
    one = FeatureRuns(*pair, IDS[:1], token_targets([3], [""]))
    assert len(one.features) == 0
    assert np.isfinite(one.metric(np.zeros((1, 0), bool))).all()


def test_target_features_are_measured_at_their_pre_activation(pair):
    model, transcoders = pair
    layer, position, index = runs(pair).features.tolist()[-1]
    run = FeatureRuns(*pair, IDS, [TargetSpec("feature", "", position, feature=(layer, index))])
    frozen = model.freeze(IDS, "mlp.hook_in", "mlp.hook_out")
    expected = transcoders.layers[layer].pre_activations(frozen.inputs[layer, position])[index]
    assert run.metric(np.ones((1, len(run.features)), bool)) == pytest.approx([float(expected)], rel=1e-5)


def test_total_effects_are_the_sum_over_all_paths():
    generator = np.random.default_rng(0)
    layers = np.array([0, 0, 1, 1, 2, 3, 3])
    kinds = [KIND["feature"]] * 5 + [KIND["logit"]] * 2
    activation = np.where(layers < 3, generator.uniform(0.5, 2, 7), np.nan).astype(np.float32)
    chance = np.array([np.nan] * 5 + [0.7, 0.2], np.float32)
    nodes = Nodes(kind=kinds, layer=layers, position=[1] * 7, index=range(7), activation=activation, probability=chance)
    source, target = np.nonzero(layers[:, None] < layers[None])
    weight = generator.normal(size=len(source)).astype(np.float32)
    record = CircuitRecord(targets=[Target(what="a", token_id=5), Target(what="b", token_id=6)])
    circuit = Circuit(record, nodes, Edges(source=source, target=target, weight=weight))
    linear = np.zeros((7, 7))  # by row = target: change of its value per change of the source's value
    linear[target, source] = weight / activation[source]
    reach = np.linalg.inv(np.eye(7) - linear)
    expected = (0.7 * reach[5, :5] + 0.2 * reach[6, :5]) * activation[:5]
    assert np.allclose(total_effects(circuit)[:5], expected, rtol=1e-5)


def test_rows_are_found_by_layer_position_and_index():
    nodes = Nodes(kind=[KIND["feature"], KIND["error"], KIND["feature"]], layer=[0, 0, 1], position=[2, 2, 2])
    circuit = Circuit(CircuitRecord(), nodes, Edges(0))
    assert rows_of_features(circuit, torch.tensor([[1, 2, -1], [0, 2, -1], [0, 3, -1]])).tolist() == [2, 0, -1]
