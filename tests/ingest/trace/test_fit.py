"""Whether a set fits its model on a prompt: said of sets that do not, of every length; not said of those that do."""

from __future__ import annotations

from copy import copy

import numpy as np
import pytest
import torch

from ingest.models import load_model
from ingest.organism import model_path, transcoders_path
from ingest.trace import parse_targets
from ingest.trace.attribute import ENOUGH_POSITIONS, Prepared, prepare
from ingest.trace.estimate import estimate_trace
from ingest.transcoders import TranscoderSet, load_transcoders

PROMPT = "The capital of the state containing Dallas is"
LENGTHS = (2, 3, 4, 6, 99)


@pytest.fixture(scope="module")
def demo():
    model = load_model(model_path(), device="cpu")
    return model, load_transcoders(transcoders_path(), model)


def changed(transcoders: TranscoderSet, how: str) -> TranscoderSet:
    """The set as it would be if it were another model's."""
    generator = torch.Generator().manual_seed(0)
    fresh, layers = copy(transcoders), []
    for number, layer in enumerate(transcoders.layers):
        other = copy(transcoders.layers[(number + 1) % len(transcoders.layers)] if how == "layers swapped" else layer)
        if how == "decoders permuted":
            other.w_dec = layer.w_dec[torch.randperm(len(layer.w_dec), generator=generator)]
        if how == "encoders permuted":
            other.w_enc = layer.w_enc[torch.randperm(len(layer.w_enc), generator=generator)]
        if how == "of inputs that a norm has not scaled":
            other.w_enc = layer.w_enc * 3
        layers.append(other)
    fresh.layers = layers
    return fresh


def ready(model, transcoders, length: int, **targets) -> Prepared:
    ids = model.tokenizer.encode(PROMPT)[:length]
    specs = parse_targets(model, targets["targets"]) if targets else None
    return prepare(model, transcoders, ids, specs, None, 10, 0.95)


def warnings(prepared: Prepared) -> list[str]:
    said: list[str] = []
    prepared.check(None, said.append)
    return said


@pytest.mark.parametrize("length", LENGTHS)
def test_the_shipped_set_fits_prompts_of_every_length(demo, length):
    assert warnings(ready(*demo, length)) == []


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("how", ["decoders permuted", "encoders permuted", "of inputs that a norm has not scaled"])
def test_features_that_do_not_belong_there_are_warned_about(demo, how, length):
    model, parts = demo
    said = warnings(ready(model, changed(parts, how), length))
    assert len(said) == 1
    assert "explains less of the MLPs" in said[0]
    assert "explained variance -" in said[0]


def test_wrong_constants_too_are_seen_once_there_are_enough_positions(demo):
    model, parts = demo
    prepared = ready(model, changed(parts, "layers swapped"), 99)
    assert len(prepared.token_ids) > ENOUGH_POSITIONS
    assert prepared.explained_variance < 0
    assert len(warnings(prepared)) == 1


def test_a_weak_set_that_fits_is_not_warned_about_because_the_prompt_is_short(demo):
    """Two positions: about their own mean they vary by half of what outputs vary by."""
    model, parts = demo
    prepared = ready(model, parts, 3)
    outputs, _ = prepared._explained
    layers, positions = prepared.looked
    spread = (outputs - outputs.mean(dim=1, keepdim=True)).square().sum()
    noise = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0))
    prepared.sources.fixed = prepared.sources.fixed.clone()
    prepared.sources.errors[layers, positions] = noise * (1.2 * spread / noise.square().sum()).sqrt()
    assert prepared.explained_variance < 0
    assert prepared.explained_beside_biases > 0
    assert warnings(prepared) == []


def test_a_prompt_on_which_nothing_fires_is_told_before_the_trace_and_by_the_dry_run(demo):
    model, parts = demo
    silent = copy(parts)
    silent.layers = [copy(layer) for layer in parts.layers]
    for layer in silent.layers:
        layer.b_enc = layer.b_enc - 1000
    (said,) = warnings(ready(model, silent, 5))
    assert said.startswith("No feature of the transcoder set")
    assert estimate_trace(model, silent, model.tokenizer.encode(PROMPT)[:5]).warnings == [said]
    assert estimate_trace(*demo, model.tokenizer.encode(PROMPT)).warnings == []


@pytest.mark.parametrize("name", ["is@3", "feature", "direction"])
def test_only_where_features_are_looked_for_something_is_to_be_explained(demo, name, tmp_path):
    """A target in the middle, or below the last layer: what lies beyond it has no features, and is no error of the set."""
    model, parts = demo
    whole = ready(model, parts, 99)
    features = whole.sources.features
    layer, position, index = features[(features[:, 0] == 1) & (features[:, 1] == 5)][0].tolist()
    np.save(tmp_path / "one.npy", np.ones(model.width, np.float32))
    written = {"feature": f"feature:{layer}/{position}/{index}", "direction": f"direction:1:{tmp_path / 'one.npy'}"}
    prepared = ready(model, parts, 99, targets=[written.get(name, name)])
    assert prepared.explained_variance > 0.8
    assert warnings(prepared) == []
    layers, positions = prepared.looked
    errors = whole.sources.errors[layers, positions]
    torch.testing.assert_close(prepared.sources.errors[layers, positions], errors)
