"""What must hold for any model: tiny random ones of every family, with every kind of per-layer transcoder, in float64."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from atlas.errors import ModelRejected
from ingest.models import FAMILIES, load_model
from ingest.trace import attribute
from ingest.transcoders import load_transcoders
from tests.ingest.trace.conftest import write_model, write_set
from tests.ingest.trace.detached import DetachedNetwork
from tests.ingest.trace.linear import ForwardLinear

PROMPT = [1, 7, 33, 7, 20, 48, 2]
KINDS = {
    "relu": {},
    "jumprelu-mid": {"jump": True, "hook": "hook_resid_mid"},
    "skip-normalized": {"skip": True, "hook": "ln2.hook_normalized"},
    "jumprelu-skip": {"jump": True, "skip": True},
    "skip-added": {"skip": True, "feature_output_hook": "hook_mlp_out"},
}


EVERY_KIND = ("llama", "gpt2", "gemma2", "gpt_neox")  # one of each kind of norm and residual
CASES = [(family, kind) for family in FAMILIES for kind in KINDS if family in EVERY_KIND or kind == "jumprelu-skip"]
# the forward model of `linear.py` is written for these; the gradients hold for every family
LLAMA_LIKE = [case for case in CASES if case[0] in {"llama", "mistral", "qwen2", "qwen3"}]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request, tmp_path_factory):
    family, kind = request.param
    folder = tmp_path_factory.mktemp("case")
    model = load_model(write_model(folder / "model", family), device="cpu", dtype="float64")
    transcoders = load_transcoders(write_set(folder / "set", **KINDS[kind]), model)
    return model, transcoders, attribute(model, transcoders, PROMPT)


def test_inputs_and_constants_sum_to_the_pre_activation(case):
    _, _, graph = case
    targets = np.r_[graph.order.features, graph.order.logits]
    total = graph.matrix.sum(axis=1) + graph.constants
    assert graph.order.n_features > 30
    np.testing.assert_allclose(total[targets], graph.pre_activations[targets], atol=3e-6)


def test_rows_are_the_gradients_of_the_network_with_patterns_and_denominators_held(case):
    model, transcoders, graph = case
    network = DetachedNetwork(model, transcoders, PROMPT)
    order, matrix = graph.order, graph.matrix.toarray()
    layer, position, feature = graph.features.T
    embeddings = torch.from_numpy(graph.arrays["token_vectors"]).double()
    errors = torch.from_numpy(graph.arrays["error_vectors"]).double()
    picked = np.random.default_rng(0).choice(order.n_features, 8, replace=False)
    for row in [*picked, order.logits.start, order.logits.stop - 1]:
        if row < order.n_features:
            encoder = transcoders.layers[layer[row]].w_enc[feature[row]]
            target = network.read[layer[row]][position[row]] @ encoder
        else:
            target = network.logits[int(graph.logit_token_ids[row - order.logits.start])]
        at_embedding, at_outputs = network.gradients(target)
        expected = np.zeros(order.size)
        for column, (l, p, f) in enumerate(graph.features):
            decoder = transcoders.layers[l].w_dec[f] * float(graph.activations[column])
            expected[column] = float(at_outputs[l, p] @ decoder)
        expected[order.errors] = (at_outputs * errors).sum(-1).flatten()
        expected[order.tokens] = (at_embedding * embeddings).sum(-1)
        np.testing.assert_allclose(matrix[row], expected, atol=3e-6)


@pytest.mark.parametrize("case", LLAMA_LIKE, ids="-".join, indirect=True)
def test_an_edge_is_what_removing_its_source_takes_from_the_target(case):
    model, transcoders, graph = case
    forward = ForwardLinear(model, transcoders, PROMPT)
    order, matrix = graph.order, graph.matrix.toarray()
    layer, position, feature = graph.features.T
    picked = np.random.default_rng(0)
    columns = [
        *picked.choice(order.n_features, 6, replace=False),
        *picked.choice(np.arange(order.errors.start, order.errors.stop), 6, replace=False),
        order.tokens.start,
        order.tokens.stop - 1,
    ]
    for column in columns:
        if column < order.n_features:
            at, where = int(layer[column]), int(position[column])
            vector = transcoders.layers[at].w_dec[feature[column]] * float(graph.activations[column])
        elif column < order.errors.stop:
            at, where = divmod(int(column) - order.errors.start, order.n_positions)
            vector = torch.from_numpy(graph.arrays["error_vectors"][at, where]).double()
        else:
            at, where = -1, int(column) - order.tokens.start
            vector = model.network.get_input_embeddings().weight[PROMPT[where]]
        moved, logits = forward.push(at, where, -vector)
        expected = np.zeros(order.size)
        expected[order.features] = [-float(moved[l][p, f]) for l, p, f in zip(layer, position, feature, strict=True)]
        expected[order.logits] = -logits[torch.from_numpy(graph.logit_token_ids)].numpy()
        np.testing.assert_allclose(matrix[:, column], expected, atol=2e-6)


def test_only_what_lies_below_and_not_later_is_a_source(case):
    _, _, graph = case
    order, coordinates = graph.order, graph.matrix.tocoo()
    layer = np.r_[graph.features[:, 0], np.repeat(np.arange(order.n_layers), order.n_positions)]
    layer = np.r_[layer, np.full(order.n_positions, -1), np.full(order.n_logits, order.n_layers)]
    position = np.r_[graph.features[:, 1], np.tile(np.arange(order.n_positions), order.n_layers)]
    position = np.r_[position, np.arange(order.n_positions), np.full(order.n_logits, order.n_positions - 1)]
    assert (layer[coordinates.col] < layer[coordinates.row]).all()
    assert (position[coordinates.col] <= position[coordinates.row]).all()
    assert (coordinates.data != 0).all()
    assert (graph.features[:, 1] > 0).all()


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_the_graph_does_not_depend_on_the_batch_size(tiny, tiny_set, batch_size):
    whole = attribute(tiny, tiny_set, PROMPT)
    parts = attribute(tiny, tiny_set, PROMPT, batch_size=batch_size)
    assert np.array_equal(parts.features, whole.features)
    np.testing.assert_allclose(parts.matrix.toarray(), whole.matrix.toarray(), atol=1e-6)
    np.testing.assert_allclose(parts.constants, whole.constants, atol=1e-6)


@pytest.mark.parametrize("beside", [1, 3])
def test_running_out_of_memory_halves_the_batch_and_keeps_finished_rows(beside, tiny, tiny_set, monkeypatch):
    whole = attribute(tiny, tiny_set, PROMPT)
    monkeypatch.setattr(sys.modules["ingest.trace.rows"], "batches_beside", lambda *_: beside)
    frozen_type = type(tiny.freeze(PROMPT, "mlp.hook_in", "mlp.hook_out"))
    through, tried = frozen_type.attention_back, []

    def scarce(self, layer, grad, *where):
        tried.append(len(grad))
        if len(grad) > 5:
            raise torch.OutOfMemoryError("no memory left")
        return through(self, layer, grad, *where)

    monkeypatch.setattr(frozen_type, "attention_back", scarce)
    done = []
    parts = attribute(tiny, tiny_set, PROMPT, progress=lambda now, total, what: done.append((now, total)))
    assert max(tried) > 5
    np.testing.assert_allclose(parts.matrix.toarray(), whole.matrix.toarray(), atol=1e-6)
    targets = whole.order.n_features + whole.order.n_logits
    assert done[-1] == (targets, targets)
    assert [now for now, _ in done] == sorted({now for now, _ in done})

    monkeypatch.setattr(frozen_type, "attention_back", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(ModelRejected, match="not enough memory"):
        attribute(tiny, tiny_set, PROMPT)


def test_a_single_token_has_a_graph_without_features(tiny, tiny_set):
    graph = attribute(tiny, tiny_set, [1])
    assert graph.order.n_features == 0
    assert graph.matrix.nnz == graph.order.n_logits
    total = graph.matrix.sum(axis=1) + graph.constants
    np.testing.assert_allclose(total[graph.order.logits], graph.pre_activations[graph.order.logits], atol=1e-6)


def test_half_precision_finds_nearly_the_same_graph(oracle, oracle_model, oracle_set):
    from scipy.stats import spearmanr

    model = load_model(oracle / "model", device="cpu", dtype="bfloat16")
    prompt = [1, 57, 203, 11, 340, 57]
    coarse = attribute(model, load_transcoders(oracle / "plt_relu", model), prompt)
    fine = attribute(oracle_model, oracle_set("plt_relu"), prompt)
    a, b = (set(map(tuple, g.features.tolist())) for g in (coarse, fine))
    assert len(a & b) / len(a | b) > 0.9
    both = sorted(a & b)
    matrices = []
    for graph in (coarse, fine):
        row = {key: i for i, key in enumerate(map(tuple, graph.features.tolist()))}
        rows = [row[key] for key in both]
        matrices.append(graph.matrix.toarray()[np.ix_(rows, rows)])
    edges = (matrices[0] != 0) | (matrices[1] != 0)
    assert spearmanr(matrices[0][edges], matrices[1][edges]).statistic > 0.98


def test_feature_inputs_of_a_padded_batch_are_those_of_the_prompts_alone(tiny, tiny_set):
    batch = torch.tensor([PROMPT, [*PROMPT[:4], 0, 0, 0]])
    for hook in ("mlp.hook_in", "ln2.hook_normalized", "hook_resid_mid"):
        together = tiny.feature_inputs(batch, hook)
        for row, length in ((0, 7), (1, 4)):
            alone = tiny.freeze(PROMPT[:length], hook, "mlp.hook_out").inputs
            torch.testing.assert_close(together[:, row, :length], alone)
