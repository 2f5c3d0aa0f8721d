"""Metrics are what they say, differentiable, and functions are run only where they may be."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from atlas.errors import InputRejected, UsageError
from ingest.components.metrics import metric
from ingest.components.network import every_place, run, with_clean_logits
from tests.ingest.components.conftest import VOCABULARY, random_cases

CASES = random_cases([5, 4])
LOGITS = torch.randn(2, VOCABULARY, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_logit_difference_and_probability():
    a, w = CASES.answers.tolist(), CASES.wrong.tolist()
    expected = torch.stack([LOGITS[0, a[0]] - LOGITS[0, w[0]], LOGITS[1, a[1]] - LOGITS[1, w[1]]])
    torch.testing.assert_close(metric("logit-difference")(LOGITS, CASES), expected)
    chances = LOGITS.exp() / LOGITS.exp().sum(1, keepdim=True)
    expected = torch.stack([chances[0, a[0]], chances[1, a[1]]])
    torch.testing.assert_close(metric("probability")(LOGITS, CASES), expected)


def test_kl_is_that_of_torch_and_nothing_on_the_clean_run():
    clean = torch.randn(2, VOCABULARY, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cases = replace(CASES, clean_logits=clean)
    logs = [torch.log_softmax(x, -1) for x in (LOGITS, clean)]
    expected = -torch.nn.functional.kl_div(*logs, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(metric("kl")(LOGITS, cases), expected)
    assert (expected < 0).all()
    torch.testing.assert_close(metric("kl")(clean, cases), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("name", ["logit-difference", "probability", "kl"])
def test_gradients_flow_back_to_every_site(family_model, name):
    cases = with_clean_logits(family_model, random_cases([5, 4]))
    places = every_place(family_model)
    leaves = {}

    def leaf(place):
        def edit(value):
            leaves[place] = value.detach().requires_grad_() if place.layer == 0 and place.site == "resid.pre" else value
            return leaves[place]

        return edit

    made = run(family_model, cases.corrupted, cases.lengths, reads=places, writes={p: leaf(p) for p in places})
    value = metric(name)(made.logits, cases).sum()
    wanted = [made.values[place] for place in places]
    gradients = torch.autograd.grad(value, wanted)
    assert all(torch.isfinite(g).all() and g.abs().max() > 0 for g in gradients)


def test_a_function_of_a_module_is_a_metric(tmp_path, monkeypatch):
    (tmp_path / "own_metric.py").write_text(
        "def largest(logits, cases):\n    return logits.amax(-1)\n"
        "def total(logits, cases):\n    return logits.sum()\n"
        "word = 'x'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        torch.testing.assert_close(metric("function:own_metric:largest")(LOGITS, CASES), LOGITS.amax(-1))
        with pytest.raises(InputRejected, match=r"returned \(\) for 2 cases"):
            metric("function:own_metric:total")(LOGITS, CASES)
        with pytest.raises(UsageError, match="is not a function"):
            metric("function:own_metric:word")
        with pytest.raises(UsageError, match="cannot be imported"):
            metric("function:own_metric:none")
        with pytest.raises(UsageError, match="only by a command on this machine"):
            metric("function:own_metric:largest", functions=False)
    finally:
        sys.modules.pop("own_metric", None)


@pytest.mark.parametrize("name", ["logit_diff", "", "function:", "function:os", "function:nowhere:f"])
def test_an_unknown_metric_is_one_sentence(name):
    with pytest.raises(UsageError) as refused:
        metric(name)
    assert name in refused.value.message
    assert refused.value.hint


def test_a_refused_function_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "loud_metric.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError):
        metric("function:loud_metric:f", functions=False)
    assert "loud_metric" not in sys.modules
