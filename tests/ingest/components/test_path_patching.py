"""Edges patched in the ordinary network do what cutting them in the split network does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ingest.components.path_patching import edge_effects, path_effect, skipped
from ingest.components.split import SplitNetwork
from tests.ingest.components.conftest import VOCABULARY
from tests.ingest.components.test_eap import difference
from tests.ingest.components.test_split import Cases


@pytest.fixture
def model(family_model):
    return family_model


@pytest.fixture
def cases():
    clean, corrupted = torch.randint(1, VOCABULARY, (2, 3, 7), generator=torch.Generator().manual_seed(5))
    return Cases(clean, corrupted, torch.tensor([7, 5, 6]))


@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_effects_are_those_of_the_split_network(model, cases, direction):
    split = SplitNetwork(model)
    edges = np.arange(0, split.wiring.n_edges, 5)
    cuts = torch.ones(len(edges), split.wiring.n_edges)
    cuts[torch.arange(len(edges)), torch.from_numpy(edges)] = 0
    noise = direction == "noise"
    run = cases if noise else replace(cases, clean=cases.corrupted, corrupted=cases.clean)
    whole = split.measure(run, torch.ones(1, split.wiring.n_edges), difference)
    expected = (whole - split.measure(run, cuts, difference)) * (1 if noise else -1)
    found = edge_effects(model, cases, difference, edges, direction, rows=9)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert (expected.abs() > 1e-4).float().mean() > 0.3


def test_all_edges_are_the_default(model, cases):
    wiring = SplitNetwork(model).wiring
    ticks = []
    found = edge_effects(model, cases, difference, progress=lambda done, total, what: ticks.append((done, total)))
    assert found.shape == (wiring.n_edges, 3)
    assert ticks[-1] == (wiring.n_edges * 3,) * 2
    some = [3, wiring.n_edges - 2]
    torch.testing.assert_close(found[some], edge_effects(model, cases, difference, some), rtol=1e-6, atol=1e-8)


def test_skipped_layers_come_back(model, cases):
    before = model.network(cases.clean).logits
    layers = [block.layer for block in model.blocks()]
    with skipped(layers):
        assert not torch.equal(model.network(cases.clean).logits, before)
    assert torch.equal(model.network(cases.clean).logits, before)


def test_a_path_carries_only_what_its_middle_makes_of_the_change(model, cases):
    split, layer = SplitNetwork(model), 1
    wiring, block = split.wiring, model.blocks()[layer]
    source, middle, end = wiring.head(0, 2), wiring.mlp(layer), wiring.n_sources
    path = [wiring.edge(source, middle), wiring.edge(middle, end)]
    outputs = split.outputs(cases.clean)
    read = outputs[: wiring.seen_by_mlp(layer)].sum(0)
    change = split.outputs(cases.corrupted)[source] - outputs[source]
    made = block.mlp(block.mlp_norm.module(read + change))
    if block.post_mlp_norm is not None:
        made = block.post_mlp_norm.module(made)
    final = outputs.sum(0) + made - outputs[middle]
    rows = torch.arange(3)

    def measured(stream):
        logits = model.network.get_output_embeddings()(model.final_norm.module(stream))[rows, cases.lengths - 1]
        cap = getattr(model.config, "final_logit_softcapping", None)
        return difference(logits if cap is None else torch.tanh(logits / cap) * cap, cases)

    expected = measured(outputs.sum(0)) - measured(final)
    torch.testing.assert_close(path_effect(split, cases, difference, path), expected, rtol=1e-4, atol=1e-6)
    assert expected.abs().max() > 1e-3


def test_a_path_must_hang_together(model, cases):
    split = SplitNetwork(model)
    broken = [split.wiring.edge(0, split.wiring.mlp(0)), split.wiring.edge(split.wiring.mlp(1), split.wiring.n_sources)]
    for path in ([], broken, broken[:1]):
        with pytest.raises(ValueError, match="a path is edges"):
            path_effect(split, cases, difference, path)
