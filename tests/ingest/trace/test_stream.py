"""A trace that never holds its full graph gives the circuit of one that does."""

from __future__ import annotations

import numpy as np
import pytest

from atlas import Atlas
from atlas.errors import InputRejected, UsageError
from ingest import trace
from ingest.models import load_model
from ingest.trace import attribute, memory, parse_targets, question, trace_circuit
from ingest.trace.attribute import prepare
from ingest.trace.estimate import estimate_trace
from ingest.trace.make import strongest_edges, traced
from ingest.transcoders import load_transcoders
from tests.ingest.trace.test_reference import FAMILY_DATA

IDS = [1, 7, 33, 7, 20, 48]
THRESHOLDS = [(0.8, 0.98), (0.5, 0.7), (0.95, 1.0), (1.0, 0.9), (1.0, 1.0), (0.0, 0.98)]
PAIRS = [  # with and without skip connections and cross-layer, parallel blocks, post-norms
    "gpt2/plt_skip",
    "gpt_neox/plt_skip",
    "qwen3/plt_jumprelu_skip",
    "qwen2/plt_relu",
    "gemma2/clt_relu",
    "gemma2/plt_skip_inner",
]


def ask(model, transcoders, ids=IDS, node=0.8, edge=0.98, **parameters):
    defaults = {"targets": None, "max_logits": 10, "logit_mass": 0.95, "max_features": None, "dtype": "float64"}
    return question(model, transcoders, list(ids), "prompt", defaults | parameters, {"node": node, "edge": edge})


def both(model, transcoders, asked, targets=None):
    """Float64 weights: the same edges are rounded to the same float32, so that no near tie falls otherwise."""
    made = [
        trace_circuit(model, transcoders, asked, targets, actor="tester", stream=stream, batch_size=size, warn=print)
        for stream, size in ((False, None), (True, 3))
    ]
    return made


def assert_same(whole, streamed) -> None:
    assert streamed.keys == whole.keys
    for name in ("source", "target", "slot"):
        np.testing.assert_array_equal(getattr(streamed.edges, name), getattr(whole.edges, name), err_msg=name)
    np.testing.assert_allclose(streamed.edges.weight, whole.edges.weight, rtol=1e-5)
    for name, column in whole.nodes.columns().items():
        scale = np.nanmax(np.abs(whole.nodes.input_abs_total)) if name == "input_total" else 0  # sums that cancel
        np.testing.assert_allclose(
            streamed.nodes.columns()[name], column, rtol=1e-5, atol=1e-7 * scale, equal_nan=True, err_msg=name
        )
    numbers = [circuit.record.scores.model_dump(exclude={"claimed", "computed_on"}) for circuit in (streamed, whole)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-5, abs=1e-9)
    assert streamed.record.scores.computed_on == whole.record.scores.computed_on
    assert streamed.record.targets == whole.record.targets
    assert set(streamed.extra) == set(whole.extra)
    for name, column in whole.extra.items():
        largest = np.abs(column).max(initial=0)
        np.testing.assert_allclose(streamed.extra[name], column, rtol=1e-5, atol=1e-7 * largest, err_msg=name)


@pytest.fixture(scope="module", params=PAIRS)
def pair(request):
    family = request.param.split("/")[0]
    model = load_model(FAMILY_DATA / family / "model", device="cpu", dtype="float64")
    return model, load_transcoders(FAMILY_DATA / request.param, model)


@pytest.mark.parametrize(("node", "edge"), THRESHOLDS)
def test_the_circuit_of_every_family_is_the_same(pair, node, edge):
    whole, streamed = both(*pair, ask(*pair, ids=[1, 55, 71, 5, 48, 66, 77], node=node, edge=edge))
    assert len(whole.edges) > 10
    assert_same(whole, streamed)


@pytest.mark.parametrize(
    "names",
    [["diff:w7|w9"], ["w7@3", "w7@-1"], ["diff:w7|w9", "w5@3"], ["feature"], ["direction"], ["feature", "w7@2"]],
    ids=str,
)
@pytest.mark.parametrize(("node", "edge"), [(0.8, 0.98), (0.6, 0.9)])
def test_the_circuit_of_every_target_is_the_same(tiny, tiny_set, tmp_path, names, node, edge):
    np.save(tmp_path / "truth.npy", np.random.default_rng(0).normal(size=24).astype(np.float32))
    full = attribute(tiny, tiny_set, IDS)
    layer, position, index = full.features[np.flatnonzero(full.features[:, 0] == 2)[-1]]
    written = {"feature": f"feature:{layer}/{position}/{index}", "direction": f"direction:1:{tmp_path / 'truth.npy'}@4"}
    targets = parse_targets(tiny, [written.get(name, name) for name in names])
    asked = ask(tiny, tiny_set, node=node, edge=edge, targets=names, max_logits=None, logit_mass=None)
    whole, streamed = both(tiny, tiny_set, asked, targets)
    assert len(whole.edges) > 2
    assert_same(whole, streamed)


@pytest.mark.parametrize("cap", [1, 12, 10_000])
@pytest.mark.parametrize(("node", "edge"), [(0.8, 0.98), (1.0, 1.0)])
def test_the_circuit_of_a_feature_cap_is_the_same(tiny, tiny_set, cap, node, edge):
    asked = ask(tiny, tiny_set, node=node, edge=edge, max_features=cap)
    assert_same(*both(tiny, tiny_set, asked))


def test_dropped_nodes_and_dead_ends_count_as_error_in_the_scores(tiny, tiny_set):
    """A threshold at which some nodes within it lose their last edge: they are not among the kept, so error."""
    asked = ask(tiny, tiny_set, node=0.99, edge=0.3)
    whole, streamed = both(tiny, tiny_set, asked)
    within = trace_circuit(tiny, tiny_set, ask(tiny, tiny_set, node=0.99, edge=1.0), actor="tester")
    assert len(whole.nodes) < len(within.nodes)
    assert_same(whole, streamed)
    assert streamed.record.scores.replacement_pruned < streamed.record.scores.replacement


def test_progress_covers_both_passes_and_memory_that_runs_out_halves_the_batch(tiny, tiny_set, monkeypatch):
    asked = ask(tiny, tiny_set)
    whole = trace_circuit(tiny, tiny_set, asked, actor="tester", stream=False)
    full = attribute(tiny, tiny_set, IDS)
    rows = full.order.n_features + full.order.n_logits
    kept = int((whole.nodes.is_kind("feature") | whole.nodes.is_kind("logit")).sum())
    frozen_type = type(tiny.freeze(IDS, "mlp.hook_in", "mlp.hook_out"))
    through, tried, done = frozen_type.attention_back, [], []

    def scarce(self, layer, grad, *where):
        tried.append(len(grad))
        if len(grad) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")
        return through(self, layer, grad, *where)

    monkeypatch.setattr(frozen_type, "attention_back", scarce)
    streamed = trace_circuit(
        tiny, tiny_set, asked, actor="tester", stream=True, opened_edges=0, progress=lambda *tick: done.append(tick)
    )
    assert max(tried) > 2
    whole.extra = {}
    assert_same(whole, streamed)
    counts = [now for now, _, _ in done]
    assert counts == sorted(set(counts))
    assert done[0][1] > rows  # a guess of the second pass is in it
    assert done[-1][0] == done[-1][1] >= rows + kept


def test_what_can_be_an_edge_is_counted_before(tiny, tiny_set, pair):
    for model, parts in ((tiny, tiny_set), pair):
        ready = prepare(model, parts, IDS, None, None, 10, 0.95)
        counts, matrix = ready.inputs_at_most, attribute(model, parts, IDS).matrix
        real = np.diff(matrix.indptr)
        assert (real <= counts).all()
        assert real.sum() > 0.95 * counts.sum()  # a sliding window lets fewer through
        some = np.random.default_rng(0).random(len(counts)) < 0.5
        among = np.bincount(
            matrix.tocoo().row, weights=(some[matrix.tocoo().row] & some[matrix.indices]), minlength=len(some)
        )
        bound = ready.inputs_among(some)
        assert (among <= bound).all()
        assert among.sum() > 0.9 * bound.sum()


def test_a_graph_that_does_not_fit_is_streamed_and_cannot_be_kept(tiny, tiny_set, monkeypatch, settings):
    ready = prepare(tiny, tiny_set, IDS, None, None, 10, 0.95)
    needed = int(ready.inputs_at_most.sum()) * memory.EDGE_BYTES
    assert not memory.must_stream(ready)
    assert not estimate_trace(tiny, tiny_set, IDS).streamed
    plenty = estimate_trace(tiny, tiny_set, IDS)
    monkeypatch.setattr(memory, "available", lambda: needed)
    assert memory.must_stream(ready)
    assert not memory.must_stream(ready, stream=False)
    estimate = estimate_trace(tiny, tiny_set, IDS)
    assert estimate.streamed
    assert estimate.memory_bytes < plenty.memory_bytes
    assert traced(tiny, tiny_set, ask(tiny, tiny_set), actor="tester")[1] is None
    with Atlas.open(settings=settings) as atlas:
        options = {"model": tiny, "transcoders": tiny_set, "token_ids": IDS}
        with pytest.raises(InputRejected, match=r"only .* are free, so it cannot be kept") as refused:
            trace(atlas, keep_full=True, **options)
        assert "--max-features" in refused.value.hint
        with pytest.raises(UsageError, match="no full graph"):
            trace(atlas, keep_full=True, stream=True, **options)


def test_what_does_not_fit_even_so_is_refused_before_the_work(tiny, tiny_set, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1000)
    rows = []
    for asked, words in (
        (ask(tiny, tiny_set, node=1.0), "Lower the node threshold, or pass --max-features"),
        (ask(tiny, tiny_set, max_features=20), "Lower the cap"),
    ):
        with pytest.raises(InputRejected, match="were asked for need about") as refused:
            trace_circuit(tiny, tiny_set, asked, actor="tester", progress=lambda *tick: rows.append(tick))
        assert words in refused.value.hint
    assert not rows
    with pytest.raises(InputRejected, match="nodes within the threshold have"):
        trace_circuit(tiny, tiny_set, ask(tiny, tiny_set), actor="tester", stream=True)


def test_a_difference_is_a_target_like_others_when_the_strongest_edges_are_opened(tiny, tiny_set):
    targets = parse_targets(tiny, ["diff:w7|w9"])
    asked = ask(tiny, tiny_set, targets=["diff"], max_logits=None, logit_mass=None)
    circuit = trace_circuit(tiny, tiny_set, asked, targets, actor="tester", opened_edges=5)
    into = circuit.edges.target[np.unique(circuit.extra["heads.edge"])]
    target = int(np.flatnonzero(circuit.nodes.is_kind("logit"))[0])
    assert np.isnan(circuit.nodes.probability[target])
    assert target in into
    weights = np.zeros(len(circuit.nodes))
    weights[target] = 1
    strength = circuit.edge_shares * (circuit.nodes.influence + weights)[circuit.edges.target]
    best = np.sort(np.argsort(-strength, kind="stable")[:7])
    assert strongest_edges(circuit, weights, 7).tolist() == best.tolist()
    assert len(strongest_edges(circuit, weights, 10**6)) == len(circuit.edges)


def test_no_pass_holds_the_full_graph(tiny, tiny_set):
    """The largest tensor that either pass asks for is a batch's."""
    import tracemalloc

    ids = [1, *np.random.default_rng(0).integers(3, 50, 14).tolist()]
    peaks = []
    for stream in (False, True):
        tracemalloc.start()
        trace_circuit(tiny, tiny_set, ask(tiny, tiny_set, ids=ids), actor="tester", stream=stream, opened_edges=0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 0.5 * peaks[0]
