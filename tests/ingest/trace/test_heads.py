"""The parts of an edge: they sum to it, and each is what its head carries, computed another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ingest.models import load_model
from ingest.trace import attribute
from ingest.trace.heads import REST, STRAIGHT, EdgeSplitter
from ingest.transcoders import load_transcoders
from tests.ingest.trace.conftest import write_model, write_set

PROMPT = [1, 7, 33, 7, 20, 48, 2]
CASES = {
    "llama": {"skip": True},
    "gemma2": {"feature_output_hook": "mlp.hook_out"},
    "gpt2": {"skip": True, "hook": "ln2.hook_normalized"},
    "gpt_neox": {"skip": True},
}


def check_sums(model, transcoders, prompt) -> None:
    graph = attribute(model, transcoders, prompt)
    edges = graph.matrix.tocoo()
    picked = np.random.default_rng(0).choice(edges.nnz, min(400, edges.nnz), replace=False)
    source, target, weight = edges.col[picked], edges.row[picked], edges.data[picked]
    parts = EdgeSplitter.of_prompt(model, transcoders, prompt, graph.targets).split(source, target)
    total = np.bincount(parts.edge, weights=parts.weight, minlength=len(picked))
    np.testing.assert_allclose(total, weight, atol=1e-5 * np.abs(weight).max())
    assert (parts.head >= 0).any()


@pytest.mark.parametrize("family", CASES)
def test_the_parts_sum_to_the_edge(family, tmp_path):
    model = load_model(write_model(tmp_path / "model", family), device="cpu", dtype="float64")
    transcoders = load_transcoders(write_set(tmp_path / "set", **CASES[family]), model)
    check_sums(model, transcoders, PROMPT)


def test_the_parts_sum_to_the_edge_of_real_sizes_in_float32(oracle_model, oracle_set):
    check_sums(oracle_model, oracle_set("plt_relu"), [1, 57, 203, 11, 340, 57])


def test_a_part_is_what_its_head_moves_in_a_model_of_one_layer_of_attention(tiny, tiny_set):
    """Token -> feature of layer 0: one head at most lies between them."""
    graph = attribute(tiny, tiny_set, PROMPT)
    row = int(np.flatnonzero((graph.features[:, 0] == 0) & (graph.features[:, 1] == 4))[0])
    sources = np.arange(graph.order.tokens.start, graph.order.tokens.start + 5)
    parts = EdgeSplitter.of_prompt(tiny, tiny_set, PROMPT, graph.targets).split(sources, np.full(5, row))
    out = tiny.network(torch.tensor([PROMPT]), output_attentions=True)
    block, body = tiny.network.model.layers[0], tiny.network.model
    embedded = body.embed_tokens.weight[PROMPT].double()
    values = block.self_attn.v_proj.weight @ block.input_layernorm(embedded).T  # bias left out: it is a constant
    mid_scale = tiny.freeze(PROMPT, "mlp.hook_in", "mlp.hook_out").input_scales[0][4]
    encoder = tiny_set.layers[0].encoder_rows(torch.tensor([int(graph.features[row, 2])]))[0]
    gradient = encoder * block.post_attention_layernorm.weight * mid_scale
    size = block.self_attn.head_dim
    for edge, layer, head, position, weight in zip(
        parts.edge, parts.layer, parts.head, parts.source_position, parts.weight, strict=True
    ):
        if head == STRAIGHT:
            expected = float(gradient @ embedded[4]) if edge == 4 else 0.0
        elif head == REST:
            continue
        else:
            assert (layer, position) == (0, edge)  # what token `edge` holds is read where it stands
            group = head // 2
            carried = out.attentions[0][0, head, 4, position] * values[group * size : (group + 1) * size, position]
            through = block.self_attn.o_proj.weight[:, head * size : (head + 1) * size] @ carried
            expected = float(gradient @ through)
        assert weight == pytest.approx(expected, abs=2e-5)
