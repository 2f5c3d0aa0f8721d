"""Neurons are parts of their MLP: what they are scored sums to what it is scored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ingest.components.eap import edge_scores
from ingest.components.neurons import strongest_neurons
from ingest.components.wiring import Wiring
from tests.handmade_models import RELATIONS, handmade
from tests.ingest.components.conftest import random_cases
from tests.ingest.components.test_eap import difference


@pytest.mark.parametrize("steps", [1, 3])
def test_all_neurons_together_are_the_mlps(family_model, steps):
    cases, wiring = random_cases([6, 5, 6]), Wiring.of(family_model)
    whole = edge_scores(family_model, cases, difference, steps)
    table = np.zeros((wiring.n_sources, wiring.n_inputs))
    table[wiring.edge_source, wiring.edge_input] = whole.scores
    every = strongest_neurons(family_model, cases, difference, steps, 10**6, batch=2)
    of_layer = np.arange(wiring.layers)[:, None] == every.layer
    assert of_layer.sum(1).min() >= 32
    mlps = [wiring.mlp(layer) for layer in range(wiring.layers)]
    size = np.abs(table).max()
    inputs = [wiring.mlp_input(layer) for layer in range(wiring.layers)]
    np.testing.assert_allclose(every.into @ of_layer.T, table[:, inputs], rtol=1e-4, atol=1e-5 * size)
    np.testing.assert_allclose(of_layer @ every.out, table[mlps], rtol=1e-4, atol=1e-5 * size)
    np.testing.assert_allclose(every.out.sum(1), every.scores, rtol=1e-3, atol=1e-5 * size)
    assert np.abs(table[mlps]).max() > 1e-3


def test_few_neurons_are_the_strongest_of_the_layers_asked_about(family_model):
    cases = random_cases([6, 6])
    every = strongest_neurons(family_model, cases, difference, 1, 10**6)
    few = strongest_neurons(family_model, cases, difference, 1, 5, layers=np.array([False, True, True]))
    allowed = np.flatnonzero(every.layer > 0)
    best = allowed[np.sort(np.argsort(-np.abs(every.scores[allowed]))[:5])]
    np.testing.assert_array_equal(few.layer * 1000 + few.index, every.layer[best] * 1000 + every.index[best])
    for name in ("scores", "out", "into"):
        whole = getattr(every, name)
        chosen = whole[:, best] if name == "into" else whole[best]
        np.testing.assert_allclose(getattr(few, name), chosen, rtol=1e-5, atol=1e-9)


def test_the_neuron_that_looks_up_the_answer_is_found():
    """In the model whose table was written by hand, for cases of one subject and relation."""
    made = handmade("lookup", "soft", count=48)
    subject, relation = 2, 1
    rows = [i for i, ids in enumerate(made.cases.clean.tolist()) if subject in ids and ids[-1] == 4 + relation]
    assert len(rows) >= 1
    cases = made.cases.take(torch.tensor(rows))
    best = strongest_neurons(made.model, cases, made.metric, 3, 1)
    assert (best.layer[0], best.index[0]) == (1, subject * RELATIONS + relation)
    assert best.scores[0] > 1
