"""Where heads look and what they copy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlas.causal_records import PromptPair
from ingest.components.pairs import make_cases
from ingest.components.roles import HeadScores, head_scores, roles
from ingest.models import load_model
from tests.ingest.trace.conftest import write_model

PAIRS = [
    PromptPair(clean="w5 w6 w7 w6 w9", corrupted="w5 w6 w7 w8 w9", answer="w5", wrong="w6"),
    PromptPair(clean="w8 w40 w41 w42 w40 w9", corrupted="w8 w40 w41 w42 w43 w9", answer="w41", wrong="w40"),
]


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma2"])
def model(request, tmp_path_factory):
    return load_model(write_model(tmp_path_factory.mktemp("roles") / request.param, request.param), device="cpu")


def test_attention_is_read_at_the_places_of_the_names(model):
    cases = make_cases(model, PAIRS)
    found = head_scores(model, cases)
    answers, wrong, first, after, changed = [], [], [], [], []
    for row, places in enumerate([(1, 2, 4), (3, 2, 5)]):  # answer, the wrong one's first and last mention
        ids = cases.clean[row : row + 1, : cases.lengths[row]]
        with torch.no_grad():
            seen = model.network(input_ids=ids, output_attentions=True).attentions
        pattern = torch.stack([layer[0] for layer in seen]).numpy()
        answers.append(pattern[:, :, -1, places[0]])
        wrong.append(pattern[:, :, -1, places[2]])
        first.append(pattern[:, :, places[2], places[1]])
        after.append(pattern[:, :, places[2], places[1] + 1])
        changed.append(pattern[:, :, -1, places[2]])
    for name, expected in (
        ("to_answer", answers),
        ("to_wrong", wrong),
        ("wrong_to_first", first),
        ("wrong_to_after", after),
        ("to_changed", changed),
    ):
        np.testing.assert_allclose(getattr(found, name), np.mean(expected, axis=0), rtol=1e-4)


def test_a_place_that_no_case_has_is_unknown(model):
    once = make_cases(model, [PromptPair(clean="w5 w6", answer="w5", wrong="w7")])
    found = head_scores(model, once)
    assert np.isnan(found.to_wrong).all()
    assert np.isfinite(found.to_answer).all()


def test_a_head_that_writes_what_it_reads_copies_and_turned_around_it_does_the_opposite(tmp_path):
    model = load_model(write_model(tmp_path / "model"), device="cpu")
    network, size = model.network.model, 10
    with torch.no_grad():
        for layer in network.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
            layer.input_layernorm.weight.fill_(1)
        network.norm.weight.fill_(1)
        words = torch.eye(size, model.width)[torch.arange(model.vocabulary) % size]
        model.embedding.weight.copy_(words)
        model.network.lm_head.weight.copy_(words * (torch.arange(model.vocabulary) < size)[:, None])
        attention = network.layers[1].self_attn
        attention.v_proj.weight.zero_()
        attention.v_proj.bias.zero_()
        attention.v_proj.weight[size : 2 * size, :size] = torch.eye(size)  # key/value head 1, read by heads 2 and 3
        attention.o_proj.weight[:size, 2 * size : 3 * size] = torch.eye(size)
        attention.o_proj.weight[:size, 3 * size : 4 * size] = -torch.eye(size)
    pair = PromptPair(clean="w6 w7 w8 w7", corrupted="w6 w7 w8 w8", answer="w6", wrong="w7")
    found = head_scores(model, make_cases(model, [pair]))
    assert found.copying[1, 2:].tolist() == [1, 0]
    assert found.anti_copying[1, 2:].tolist() == [0, 1]
    assert found.suppressing[1, 2:].tolist() == [0, 1]


def scores(**given: float) -> HeadScores:
    """Two heads of one layer; the second has the numbers given, the first looks nowhere."""
    names = HeadScores.__dataclass_fields__
    return HeadScores(**{name: np.array([[0.0, given.get(name, 0.0)]]) for name in names})


@pytest.mark.parametrize(
    ("given", "role"),
    [
        ({"to_answer": 0.6, "to_wrong": 0.1, "copying": 0.9}, ("name mover",)),
        ({"to_answer": 0.6, "anti_copying": 0.9}, ("negative name mover",)),
        ({"to_answer": 0.6}, ()),
        ({"to_answer": 0.1, "to_wrong": 0.7}, ("S-inhibition",)),
        ({"to_wrong": 0.7, "suppressing": 0.9}, ("copy suppression",)),
        ({"wrong_to_first": 0.8, "induction": 0.4}, ("duplicate token", "induction")),
        ({"previous_token": 0.9}, ("previous token",)),
        ({"previous_token": 0.2}, ()),
        ({"to_changed": 0.8}, ()),
        ({"to_changed": 0.8, "to_wrong": np.nan}, ("changed token",)),
    ],
)
def test_a_role_needs_the_attention_and_the_copying_of_that_role(given, role):
    (found,) = roles(scores(**given), np.array([[0.1, -2.0]]), count=1)
    assert (found.layer, found.head, found.effect, found.roles) == (0, 1, -2.0, role)


def test_an_inhibiting_head_must_help_through_the_queries_of_a_name_mover():
    both = scores(to_wrong=0.7)
    both.to_answer[0, 0], both.copying[0, 0] = 0.9, 1.0
    effect, into = np.array([[3.0, 1.0]]), np.zeros((1, 2, 1, 2))
    assert [found.roles for found in roles(both, effect, into_queries=into)] == [("name mover",), ()]
    into[0, 1, 0, 0] = 0.5
    assert roles(both, effect, into_queries=into)[1].roles == ("S-inhibition",)
