"""A family file says which module is which; here the modules themselves say whether that is so."""

from __future__ import annotations

import pytest
import torch

from ingest.models import FAMILIES, load_model
from tests.ingest.trace.conftest import write_model

IDS = torch.tensor([[1, 7, 33, 7, 20, 48, 2]])


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    return load_model(
        write_model(tmp_path_factory.mktemp("parts") / "model", request.param), device="cpu", dtype="float64"
    )


def test_projections_give_what_their_columns_of_the_module_hold(model):
    seen = {}
    blocks = model.blocks()
    for i, block in enumerate(blocks):
        block.attention_norm.module.register_forward_hook(
            lambda module, args, output, i=i: seen.__setitem__(("in", i), output)
        )
        for part in (block.query, block.key, block.value):
            part.module.register_forward_hook(lambda module, args, output, i=i: seen.__setitem__((module, i), output))
    model.network(IDS)
    for i, block in enumerate(blocks):
        for part in (block.query, block.key, block.value):
            made = seen["in", i] @ part.weight.T + (0 if part.bias is None else part.bias)
            torch.testing.assert_close(seen[part.module, i][..., part.columns], made)


def test_the_heads_written_together_are_the_output_of_attention(model):
    seen = {}
    for i, block in enumerate(model.blocks()):
        block.output.register_forward_hook(lambda module, args, output, i=i: seen.__setitem__(i, (args[0], output)))
    model.network(IDS)
    for i, block in enumerate(model.blocks()):
        heads, written = seen[i]
        bias = 0 if block.output_bias is None else block.output_bias
        assert heads.shape[-1] == block.query.weight.shape[0]
        torch.testing.assert_close(heads @ block.output_weight.T + bias, written)


def test_layers_take_the_stream_in_and_give_it_out(model):
    seen = {}
    for i, block in enumerate(model.blocks()):
        block.layer.register_forward_hook(lambda module, args, output, i=i: seen.__setitem__(i, (args[0], output)))
    model.network(IDS)
    for i in range(1, model.n_layers):
        torch.testing.assert_close(seen[i][0], seen[i - 1][1])


def test_heads_of_their_own_leave_what_the_network_says(model):
    before = model.network(IDS).logits
    with model.ungrouped():
        for block in model.blocks():
            assert block.query.weight.shape == block.key.weight.shape == block.value.weight.shape
        torch.testing.assert_close(model.network(IDS).logits, before)
    assert torch.equal(model.network(IDS).logits, before)
