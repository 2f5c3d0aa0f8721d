"""The scores of a few ordinary passes are the gradients that autograd takes through the split network."""

from __future__ import annotations

import pytest
import torch

from ingest.components.eap import edge_scores
from ingest.components.split import SplitNetwork, with_hooks
from tests.ingest.components.conftest import VOCABULARY
from tests.ingest.components.test_split import Cases


@pytest.fixture
def model(family_model):
    return family_model


@pytest.fixture
def cases():
    clean, corrupted = torch.randint(1, VOCABULARY, (2, 3, 7), generator=torch.Generator().manual_seed(5))
    return Cases(clean, corrupted, torch.tensor([7, 5, 6]))


def difference(logits, cases):
    """Curved, so that steps differ."""
    return torch.softmax(logits, -1)[:, 5] - 0.1 * logits[:, 6] ** 2


def by_autograd(model, cases, steps):
    """(E,): d metric / d mask where every masked-out output is this run's less (clean - corrupted)."""
    split = SplitNetwork(model)
    change = split.outputs(cases.clean) - split.outputs(cases.corrupted)
    start, end = model.embedding(cases.corrupted), model.embedding(cases.clean)
    total = torch.zeros(split.wiring.n_edges, dtype=torch.float64)
    for step in range(1, steps + 1):
        point = start + step / steps * (end - start)
        with with_hooks([(model.embedding, "after", lambda module, args, output, point=point: point)]):
            here = split.outputs(cases.clean)
            keep = torch.ones(split.wiring.n_edges, dtype=torch.float64, requires_grad=True)
            logits = split.forward(cases.clean, cases.lengths, keep, here - change)
        difference(logits, cases).sum().backward()
        total += keep.grad / steps / len(cases.clean)
    return total


@pytest.mark.parametrize("steps", [1, 3])
def test_scores_are_gradients_through_the_split_network(model, cases, steps):
    expected = by_autograd(model, cases, steps)
    found = edge_scores(model, cases, difference, steps)
    tolerance = 1e-9 if model.config.model_type == "gpt2" else 1e-4  # the others' norms round to float32
    torch.testing.assert_close(found.scores, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())
    assert expected.abs().max() > 1e-3


def test_a_node_scores_what_its_whole_output_does_to_first_order(model, cases):
    """Against the gradient at the place where it is added to the stream."""
    found = edge_scores(model, cases, difference, 1)
    split, layer = SplitNetwork(model), 1
    change = split.outputs(cases.clean) - split.outputs(cases.corrupted)
    kept = {}

    def watch(module, args):
        stream = args[0].requires_grad_()
        stream.register_hook(lambda gradient: kept.setdefault("gradient", gradient))

    with with_hooks([(model.blocks()[layer].layer, "before", watch)]):
        logits = model.network(cases.clean).logits[torch.arange(3), cases.lengths - 1]
    difference(logits, cases).sum().backward()
    seen = split.wiring.seen_by_heads(layer)
    table = torch.zeros(split.wiring.n_sources, split.wiring.n_inputs, dtype=torch.float64)
    table[split.wiring.edge_source, split.wiring.edge_input] = found.scores
    later = table[:seen, split.wiring.head_inputs(layer).start :].sum(1)
    expected = torch.einsum("srpd,rpd->s", change[:seen], kept["gradient"]) / 3
    torch.testing.assert_close(later, expected, rtol=1e-4, atol=1e-6)


def test_batches_do_not_change_scores(model, cases):
    whole, apart = (edge_scores(model, cases, difference, 2, batch=batch) for batch in (3, 1))
    torch.testing.assert_close(whole.scores, apart.scores, rtol=1e-6, atol=1e-9)
    assert whole.clean == pytest.approx(apart.clean)
    with torch.no_grad():
        logits = model.network(cases.clean).logits[torch.arange(3), cases.lengths - 1]
    assert whole.clean == pytest.approx(difference(logits, cases).mean().item(), rel=1e-5)


def test_equal_prompts_have_no_scores(model, cases):
    same = Cases(cases.clean, cases.clean, cases.lengths)
    assert edge_scores(model, same, difference, 3).scores.abs().max() == 0
