"""Models whose weights were written by hand: exhaustive edge patching recovers the edges that were written."""

from __future__ import annotations

import pytest
import torch

from atlas.circuit import SLOT
from ingest.components.curves import auroc
from ingest.components.eap import edge_scores
from ingest.components.path_patching import edge_effects
from ingest.components.wiring import Wiring
from tests.handmade_models import ATTENTION, NAMES, handmade


@pytest.fixture(scope="module", params=[(name, attention) for name in NAMES for attention in ATTENTION], ids="-".join)
def made(request):
    return handmade(*request.param, count=8)


@pytest.fixture(scope="module")
def exact(made):
    return edge_effects(made.model, made.cases, made.metric).mean(1)


def test_the_model_does_what_it_was_written_for(made):
    run = made.model.network(made.cases.clean, output_attentions=True)
    assert torch.equal(run.logits[:, -1].argmax(-1), made.cases.answers)
    functional = run.attentions[0][:, 0, -1].max(-1).values
    if made.attention == "saturated":
        assert functional.min() > 1 - 1e-9
    else:
        assert 0.5 < functional.min() <= functional.max() < 0.8


def test_exhaustive_edge_patching_recovers_the_edges(made, exact):
    effects = exact.numpy()
    assert auroc(abs(effects), made.truth) >= 0.98
    assert (effects[made.truth] > 1).all()  # logits: all of them help
    assert abs(effects[~made.truth]).max() < 0.2


def test_denoising_needs_the_whole_circuit_and_single_edges_do_less(made):
    """A clean edge in a corrupted run rarely helps by itself; only the last edge carries the answer alone."""
    effects = edge_effects(made.model, made.cases, made.metric, direction="denoise").mean(1).numpy()
    wiring = Wiring.of(made.model)
    last = [e for e in range(wiring.n_edges) if made.truth[e] and wiring.edge_target[e] == wiring.n_sources]
    assert effects.argmax() == last[0]


def test_gradients_find_soft_circuits_and_starve_in_saturated_ones(made, exact):
    wiring = Wiring.of(made.model)
    plain = edge_scores(made.model, made.cases, made.metric, 1).scores
    pattern = made.truth & ((wiring.edge_slot == SLOT["q"]) | (wiring.edge_slot == SLOT["k"]))
    assert pattern.any()
    if made.attention == "saturated":
        assert (plain[pattern].abs() < 0.05 * exact[pattern].abs()).all()
    else:
        assert auroc(plain.abs().numpy(), made.truth) >= 0.98


def test_the_last_edge_of_a_linear_reader_is_scored_exactly(made, exact):
    """The logits are linear in what is written, up to the norm, so there both are the same."""
    wiring = Wiring.of(made.model)
    last = [e for e in range(wiring.n_edges) if made.truth[e] and wiring.edge_target[e] == wiring.n_sources]
    exact = edge_effects(made.model, made.cases, made.metric, last).mean(1)
    torch.testing.assert_close(
        edge_scores(made.model, made.cases, made.metric, 3).scores[last], exact, rtol=1e-3, atol=0
    )
