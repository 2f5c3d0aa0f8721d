"""Reading what stands at the leading positions gives what carrying gradients over them gives."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from ingest.trace import attribute
from ingest.trace.attribute import prepare
from ingest.trace.leading import find_leading
from ingest.trace.targets import token_targets
from tests.ingest.trace.test_carried import case  # noqa: F401

COUNTS = [1, 3]


@pytest.fixture(params=COUNTS)
def leading(request, monkeypatch):
    """As many positions without features, as an instruction-tuned Gemma 3 has 4."""
    monkeypatch.setattr("ingest.models.base.Model.constant_positions", lambda *_: request.param)
    monkeypatch.setattr("ingest.models.gemma.GemmaModel.constant_positions", lambda *_: request.param)
    return request.param


def test_tokens_and_constants_make_up_the_stream_there(case, leading):  # noqa: F811
    model, parts, ids = case
    ready = prepare(model, parts, ids, None, None, 10, 0.95)
    found = ready.engine.leading
    assert found.count == leading
    for layer, stream in enumerate(found.streams):
        real = ready.frozen.stream_after(layer - 1)[:leading]
        torch.testing.assert_close(stream.sum(dim=0), real, rtol=1e-4, atol=1e-5 * float(real.abs().max()))


@pytest.mark.parametrize("meeting", [0, 1])
def test_the_graph_is_the_one_of_gradients_that_go_everywhere(case, leading, meeting, monkeypatch):  # noqa: F811
    model, parts, ids = case
    module = sys.modules["ingest.trace.attribute"]
    monkeypatch.setattr(module, "best_layer", lambda *_: meeting)
    read = attribute(model, parts, ids)
    monkeypatch.setattr(module, "find_leading", lambda frozen, set_, sources, _: find_leading(frozen, set_, sources, 0))
    everywhere = attribute(model, parts, ids)
    assert read.features[:, 1].min() >= leading
    assert np.array_equal(read.features, everywhere.features)
    assert np.linalg.norm((read.matrix - everywhere.matrix).data) <= 5e-6 * np.linalg.norm(everywhere.matrix.data)
    np.testing.assert_allclose(read.constants, everywhere.constants, atol=1e-5 * max(abs(everywhere.matrix).max(), 1))


def test_a_target_at_such_a_position_is_the_sum_of_tokens_and_constants(case, leading):  # noqa: F811
    model, parts, ids = case
    places = [*range(leading), len(ids) - 1]
    targets = [spec for place in places for spec in token_targets([5], ["five"], position=place)]
    graph = attribute(model, parts, ids, targets=targets)
    logits = graph.matrix.toarray()[graph.order.logits]
    scale = np.abs(graph.pre_activations[graph.order.logits]).max()
    total = logits.sum(axis=1) + graph.constants[graph.order.logits]
    np.testing.assert_allclose(total, graph.pre_activations[graph.order.logits], atol=1e-4 * max(scale, 1))
    for row, place in zip(logits, places, strict=True):
        tokens = np.flatnonzero(row[graph.order.tokens]).tolist()
        assert tokens
        assert max(tokens) <= place
        if place < leading:
            assert tokens == list(range(place + 1))
    assert not logits[:leading, : graph.order.tokens.start].any()
