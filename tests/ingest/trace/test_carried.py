"""Meeting in the middle gives what carrying every gradient all the way gives, wherever the two meet."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from benchmarks.oracle.families import SETS
from ingest.models import load_model
from ingest.trace import attribute
from ingest.trace.attribute import Prepared, attribute_prepared, prepare
from ingest.trace.backward import Backward
from ingest.trace.carried import Upward, best_layer
from ingest.trace.graph import row_sums
from ingest.trace.stream import streamed
from ingest.transcoders import load_transcoders
from tests.ingest.trace.test_reference import FAMILY_DATA, reference

PAIRS = sorted(SETS)


@pytest.fixture(scope="module", params=PAIRS)
def case(request):
    model = load_model(FAMILY_DATA / request.param.split("/")[0] / "model", device="cpu")
    parts = load_transcoders(FAMILY_DATA / request.param, model)
    return model, parts, reference(f"{request.param}/long")["input_ids"].tolist()


@pytest.mark.parametrize("walk_work", [0, 2**13, 2**40], ids=["each position", "some together", "all together"])
def test_carried_sources_and_constants_make_up_the_stream(case, walk_work):
    model, parts, ids = case
    ready = prepare(model, parts, ids, None, None, 10, 0.95)
    upward = Upward(ready.frozen, parts, ready.sources, ready.order, walk_work)
    for layer in range(1, model.n_layers + 1):
        carried = upward.to(layer)
        stream = carried.constant.clone()
        assert len(carried.rows) == {0: len(ids), 2**40: 1}.get(walk_work, len(carried.rows))
        for first, become in zip(carried.firsts, carried.vectors, strict=True):
            stream[first:] += become.sum(dim=0)
        real = ready.frozen.stream_after(layer - 1)
        torch.testing.assert_close(stream, real, rtol=1e-4, atol=1e-5 * float(real.abs().max()))


def test_every_meeting_layer_gives_the_same_graph(case, monkeypatch):
    model, parts, ids = case
    monkeypatch.setattr(sys.modules["ingest.trace.attribute"], "best_layer", lambda *_: 0)
    whole = attribute(model, parts, ids)
    scale = abs(whole.matrix).max()
    for layer in range(1, model.n_layers + 1):
        monkeypatch.setattr(sys.modules["ingest.trace.attribute"], "best_layer", lambda *_, layer=layer: layer)
        met = attribute(model, parts, ids)
        assert np.array_equal(met.features, whole.features)
        assert np.linalg.norm((met.matrix - whole.matrix).data) <= 5e-6 * np.linalg.norm(whole.matrix.data)
        assert set(zip(*met.matrix.nonzero(), strict=True)) == set(zip(*whole.matrix.nonzero(), strict=True))
        np.testing.assert_allclose(met.constants, whole.constants, atol=1e-5 * max(scale, 1))


def test_a_capped_trace_meets_too(case, monkeypatch):
    model, parts, ids = case
    cap = 20
    monkeypatch.setattr(sys.modules["ingest.trace.attribute"], "best_layer", lambda *_: 1)
    met = attribute(model, parts, ids, max_features=cap)
    monkeypatch.setattr(Prepared, "meet", lambda *_: None)
    whole = attribute(model, parts, ids, max_features=cap)
    assert np.array_equal(met.computed, whole.computed)
    assert np.linalg.norm((met.matrix - whole.matrix).data) <= 5e-6 * np.linalg.norm(whole.matrix.data)


def test_features_below_the_meeting_are_read_and_never_walk_also_in_a_streamed_trace(case, monkeypatch):
    model, parts, ids = case
    met, walked = model.n_layers - 1, []
    monkeypatch.setattr(sys.modules["ingest.trace.attribute"], "best_layer", lambda *_: met)
    rows = Backward.rows

    def spied(self, layers, nodes, positions):
        walked.extend(layers[nodes < self.order.n_features].tolist())
        return rows(self, layers, nodes, positions)

    monkeypatch.setattr(Backward, "rows", spied)
    whole = attribute(model, parts, ids)
    assert set(walked) == {met}
    assert set(whole.features[:, 0]) > {met}
    _, first = streamed(prepare(model, parts, ids, None, None, 10, 0.95), 0.8)
    assert set(walked) == {met}
    for found, expected in zip(first.totals, row_sums(whole.matrix), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def counts(layers: int, positions: int, each: float) -> tuple[np.ndarray, np.ndarray]:
    targets = np.full((layers + 1, positions), each)
    targets[-1] = 0
    sources = np.full((layers + 1, positions), each + 1)
    sources[0] = 1
    return targets, sources


def test_the_best_layer_is_half_of_them_for_short_prompts_and_low_for_long_ones():
    width, attention = 576, 442_000.0
    best = {p: best_layer(*counts(30, p, 16), width, attention, 0, np.inf) for p in (4, 11, 32, 64, 256)}
    assert 14 <= best[11] <= 16
    assert best[4] >= best[11] >= best[32] >= best[64] >= best[256]
    assert best[256] <= 2


def test_little_memory_or_few_targets_keep_it_low():
    width, attention = 576, 442_000.0
    targets, sources = counts(30, 11, 16)
    assert best_layer(targets, sources, width, attention, 0, 0) == 0
    held = [best_layer(targets, sources, width, attention, 0, most) for most in (2**22, 2**23, 2**24, 2**25, 2**26)]
    assert held == sorted(held)
    assert 0 < held[0] < held[-1]
    assert best_layer(targets / 1000, sources, width, attention, 0, np.inf) == 0


def test_a_prompt_that_was_prepared_can_be_traced_again(case, monkeypatch):
    model, parts, ids = case
    monkeypatch.setattr(sys.modules["ingest.trace.attribute"], "best_layer", lambda *_: 1)
    ready = prepare(model, parts, ids, None, None, 10, 0.95)
    ready.meet()
    first, second = (attribute_prepared(ready) for _ in range(2))
    assert first.matrix.nnz
    assert (first.matrix != second.matrix).nnz == 0


def test_a_gradient_at_one_position_goes_through_attention_as_any_other(case):
    model, parts, ids = case
    frozen = prepare(model, parts, ids, None, None, 10, 0.95).frozen
    places = torch.arange(1, len(ids))
    grad = torch.zeros(2 + len(places), len(ids), model.width)
    grad[:2] = torch.randn(2, *grad.shape[1:])
    grad[torch.arange(2, len(grad)), places] = torch.randn(len(places), model.width)
    for layer in range(model.n_layers):
        for rows, alone in ((grad, places), (grad[2:], places), (grad[:2], places[:0])):
            expected = frozen.attention_back(layer, rows)
            torch.testing.assert_close(frozen.attention_back(layer, rows, 0, alone), expected, rtol=1e-4, atol=1e-5)
