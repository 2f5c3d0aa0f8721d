"""From a request to stored evidence: what can be asked, what is predicted, controls, marks, sets of prompts, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from atlas import Atlas
from atlas.causal_records import InterventionRequest
from atlas.circuit import Circuit, Edges, Nodes
from atlas.errors import InputRejected, ModelRejected, NotFound, UsageError
from atlas.evidence import (
    CONTROLS_NEEDED,
    bootstrap_interval,
    control_p_value,
    control_quantile,
    mark,
    rank_correlation,
)
from ingest.causal.laboratory import Laboratory
from ingest.causal.predict import LinearGraph
from ingest.causal.prompts import OnPrompt
from ingest.interventions import intervene
from ingest.models import load_model
from ingest.trace import question, trace_circuit
from ingest.trace.targets import TargetSpec
from tests.conftest import make_circuit
from tests.ingest.by_hand import Forward, decoders, random_set
from tests.ingest.trace.conftest import write_model

IDS = [1, 7, 46, 7, 40, 48, 5]
OTHER = "w9 w6 w7 w40 w48 w5"

# -- marks: the rule itself, on generated numbers

effects = st.floats(-10, 10, allow_nan=False).map(lambda x: round(x, 3))
controls = st.lists(effects, min_size=0, max_size=25)


@hypothesis_settings(deadline=None)  # machines that do other things too
@given(predicted=st.none() | effects, measured=effects, others=controls)
def test_marks_obey_the_rule(predicted, measured, others):
    given_mark, reason = mark(predicted, measured, others)
    assert reason.endswith(".")
    if predicted is None or len(others) < CONTROLS_NEEDED:
        assert given_mark == "inconclusive"
        return
    beyond = np.quantile(np.abs(others), 0.95)
    same_sign = np.sign(predicted) == np.sign(measured) != 0
    ratio = measured / predicted if predicted else np.inf
    assert (given_mark == "confirmed") == bool(same_sign and abs(measured) > beyond and 1 / 3 <= ratio <= 3)
    refuted = abs(predicted) > beyond and (abs(measured) <= beyond or not same_sign)
    assert (given_mark == "refuted") == bool(refuted)


@hypothesis_settings(deadline=None)  # machines that do other things too
@given(
    measured=effects, others=controls.filter(lambda found: len(found) >= CONTROLS_NEEDED), scale=st.floats(0.01, 100)
)
def test_a_mark_does_not_depend_on_the_unit(measured, others, scale):
    beyond = control_quantile(others)
    if abs(abs(measured) - beyond) < 1e-6 or abs(2 - beyond) < 1e-6:
        return
    scaled = mark(2 * scale, measured * scale, [other * scale for other in others])[0]
    if min(abs(measured / 2 - 1 / 3), abs(measured / 2 - 3)) > 1e-9:
        assert scaled == mark(2.0, measured, others)[0]


def test_marks_by_example():
    quiet = [0.1, -0.2] * 5
    assert mark(-2.0, -1.5, quiet)[0] == "confirmed"
    assert mark(-2.0, 1.5, quiet)[0] == "refuted"
    assert mark(-2.0, -0.1, quiet)[0] == "refuted"
    assert mark(-2.0, -0.5, quiet)[0] == "inconclusive"  # the sign and beyond, but a quarter of the size
    assert mark(-0.1, -0.1, quiet)[0] == "inconclusive"
    assert mark(-2.0, -1.5, quiet[:7])[0] == "inconclusive"
    assert mark(float("nan"), -1.5, quiet)[0] == "inconclusive"


# -- the causal score


def test_the_score_is_spearmans_and_needs_three():
    from scipy.stats import spearmanr

    draw = np.random.default_rng(0)
    a, b = draw.normal(size=12), draw.integers(0, 5, 12).astype(float)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert rank_correlation(a[:2], b[:2]) is None
    assert rank_correlation(a, np.ones(12)) is None


def test_an_interval_holds_the_score_and_is_wider_for_noise():
    draw = np.random.default_rng(0)
    predicted = draw.normal(size=30)
    close, loose = (predicted + noise * draw.normal(size=30) for noise in (0.1, 2.0))
    widths = []
    for measured in (close, loose):
        low, high = bootstrap_interval(predicted, measured)
        assert low <= rank_correlation(predicted, measured) <= high
        widths.append(high - low)
    assert widths[0] < widths[1]
    many = np.stack([predicted + draw.normal(size=30) for _ in range(40)])
    low, high = bootstrap_interval(np.tile(predicted, (40, 1)), many)
    assert low <= rank_correlation(predicted, many.mean(axis=0)) <= high
    assert high - low < widths[1]
    assert bootstrap_interval(predicted[:2], close[:2]) is None


def test_the_p_value_is_small_only_where_controls_do_something_else():
    draw = np.random.default_rng(0)
    predicted = draw.normal(size=15)
    apart = [draw.normal(size=10) for _ in predicted]
    alike = [np.repeat(value, 10) for value in predicted]
    assert control_p_value(predicted, predicted, apart) < 0.01
    assert control_p_value(predicted, predicted, alike) == 1.0
    uniform = [
        control_p_value(predicted, draw.normal(size=15), [draw.normal(size=20) for _ in predicted], seed)
        for seed in range(60)
    ]
    assert 0.3 < np.mean(uniform) < 0.7
    assert control_p_value(predicted, predicted, [[]] * 15) is None


# -- what the graph predicts


def test_the_linear_total_effect_is_over_all_paths():
    circuit = make_circuit()  # token -> f0 (a 2) -> f1 (a 1) -> logit, weights 0.5, -1, 2
    graph = LinearGraph(circuit)
    np.testing.assert_allclose(graph.effects({0: -1.0}), [-1, -0.5, 0.25, 0.5])
    np.testing.assert_allclose(graph.effects({1: -2.0}), [np.nan, -2, 1, 2])
    np.testing.assert_allclose(
        graph.effects({0: -1.0, 2: -1.0}), [-1, -0.5, -1, -2]
    )  # a set node does not move otherwise
    np.testing.assert_allclose(graph.effects({0: -1.0, 2: -1.0}, added=True), [-1, -0.5, -0.75, -1.5])
    assert np.isnan(graph.effects({0: None})[1:]).all()


def test_effects_equal_the_inverse_matrix_on_random_graphs():
    draw = np.random.default_rng(1)
    n = 30
    dense = np.tril(draw.normal(size=(n, n)), -1) * (draw.random((n, n)) < 0.3)
    target, source = np.nonzero(dense)
    activation = draw.uniform(0.5, 2, n)
    circuit = Circuit(
        make_circuit().record,
        Nodes(kind=[0] * n, layer=range(n), position=[0] * n, index=[0] * n, activation=activation),
        Edges(source=source, target=target, weight=dense[target, source]),
    )
    per_unit = circuit.adjacency().toarray().astype(float) / circuit.nodes.activation
    expected = np.linalg.solve(np.eye(n) - per_unit, np.eye(n)[:, 3]) * -2
    found = LinearGraph(circuit).effects({3: -2.0})
    assert np.isnan(found[:3]).all()
    np.testing.assert_allclose(np.nan_to_num(found), expected, atol=1e-9)


def test_behind_a_node_of_unknown_activation_nothing_is_predicted():
    circuit = make_circuit()
    circuit.nodes.activation[1] = np.nan
    found = LinearGraph(circuit).effects({0: -1.0})
    assert found[1] == pytest.approx(-0.5)
    assert np.isnan(found[2:]).all()
    there = np.array([np.nan, 2.0, np.nan, np.nan])
    np.testing.assert_allclose(LinearGraph(circuit, there).effects({0: -1.0}), [-1, -0.5, 0.25, 0.5])


# -- controls


def prompt_of(features, activations) -> OnPrompt:
    nothing = torch.zeros(0)
    return OnPrompt("", [], None, nothing, nothing, np.array(features), np.array(activations, float))


def test_controls_are_of_the_same_position_where_enough_fire_there():
    here = [(1, 4, i) for i in range(12)]
    there = [(1, 2, i) for i in range(9)]
    on = prompt_of([*here, *there, (0, 4, 3)], [*np.linspace(1, 12, 12), *np.full(9, 5.0), 5.0])
    chosen = on.controls((1, 4, 4), 20, {(1, 4, 4), (1, 4, 7)})
    assert len(chosen) == 10
    assert all(feature[:2] == (1, 4) for feature in chosen)
    assert not {(1, 4, 4), (1, 4, 7)} & set(chosen)
    assert chosen[0] in [(1, 4, 3), (1, 4, 5)]  # activations 4 and 6 beside 5
    assert on.controls((1, 4, 4), 3, {(1, 4, 4)}) == chosen[:3]


def test_where_few_fire_other_positions_fill_up():
    on = prompt_of([(1, 4, 0), (1, 4, 1), *[(1, 2, i) for i in range(9)]], [5.0, 1.0, *range(1, 10)])
    chosen = on.controls((1, 4, 0), 6, {(1, 4, 0)})
    assert chosen[:2] == [(1, 4, 1), (1, 2, 4)]
    assert len(chosen) == 6
    assert on.controls((1, 3, 0), 6, set()) == []  # what does not fire has nothing to be matched with


# -- from a request to stored evidence


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    model = load_model(write_model(tmp_path_factory.mktemp("tiny") / "model"), device="cpu", dtype="float64")
    return model, random_set("skip")


def ask_trace(pair, targets=None, ids=IDS, dtype="float64", node=0.9) -> Circuit:
    model, transcoders = pair
    parameters = {"targets": None, "max_logits": 3, "logit_mass": 1.0, "max_features": None, "dtype": dtype}
    asked = question(model, transcoders, ids, None, parameters, {"node": node, "edge": 0.98})
    return trace_circuit(model, transcoders, asked, targets, actor="tester", opened_edges=0)


@pytest.fixture(scope="module")
def circuit(pair) -> Circuit:
    return ask_trace(pair)


@pytest.fixture
def atlas(settings, circuit, monkeypatch):
    """A catalog without a graph server: what is kept is asked here, and projections have tests of their own."""
    monkeypatch.setattr("atlas.base.AtlasBase._project", lambda *_: None)
    with Atlas.open(settings=settings) as opened:
        opened.add(circuit)
        yield opened


def strongest(circuit: Circuit, kind="feature", count=1, layer=None) -> list[str]:
    rows = np.flatnonzero(circuit.nodes.is_kind(kind))
    if layer is not None:
        rows = rows[circuit.nodes.layer[rows] == layer]
    order = rows[np.argsort(-circuit.nodes.influence[rows], kind="stable")]
    return [circuit.keys[row] for row in order[:count]]


def do(atlas, circuit, pair, kind, nodes, **more):
    request = InterventionRequest(circuit=circuit.id, kind=kind, nodes=nodes, **more)
    return intervene(atlas, request, model=pair[0], transcoders=pair[1])


def feature_of(key: str) -> tuple[int, int, int]:
    layer, position, index = key.removeprefix("feature/").split("/")
    return int(layer), int(position), int(index)


def test_an_ablation_is_kept_with_what_was_predicted_and_measured(atlas, circuit, pair):
    (key,) = strongest(circuit)
    row = do(atlas, circuit, pair, "ablate", [key])
    stored = atlas.intervention(row.id)
    assert stored.nodes == [key]
    first, feature = row.targets[0], feature_of(key)
    token = circuit.record.targets[0].token_id
    clean = Forward(*pair, IDS)
    run = Forward(*pair, IDS, decoders(pair[1], len(IDS), [(*feature, -clean.value(*feature))]))
    assert first.node == f"logit/3/6/{token}"
    assert first.before == pytest.approx(float(clean.logits[-1, token]), abs=1e-9)
    assert first.measured == pytest.approx(float(run.logits[-1, token] - clean.logits[-1, token]), abs=1e-6)
    assert first.predicted == pytest.approx(
        LinearGraph(circuit).effects({circuit.row(key): -clean.value(*feature)})[circuit.row(first.node)], rel=1e-5
    )
    assert row.controls.count == len(row.controls.effects) == len(row.controls.features) > 0
    assert row.controls.same_position <= row.controls.count
    assert key not in row.controls.features
    other = feature_of(row.controls.features[0])
    away = Forward(*pair, IDS, decoders(pair[1], len(IDS), [(*other, -clean.value(*other))]))
    assert row.controls.effects[0] == pytest.approx(float(away.logits[-1, token] - clean.logits[-1, token]), abs=1e-6)
    assert {moved.node for moved in row.moved} >= {target.node for target in row.targets}
    assert row.mark == mark(first.predicted, first.measured, row.controls.effects)[0]
    assert stored.provenance["dtype"] == "float64"
    assert stored.controls == row.controls


def test_doing_nothing_moves_nothing(atlas, circuit, pair):
    keys = [*strongest(circuit, count=3), *strongest(circuit, "token"), *strongest(circuit, "error")]
    for kind, more in (
        ("scale", {"factor": 1.0}),
        ("steer", {"value": 0.0}),
        ("patch", {"prompt": circuit.record.prompt}),
    ):
        row = do(atlas, circuit, pair, kind, keys, controls=0, **more)
        assert max(abs(moved.measured) for moved in row.moved) < 1e-9
        assert row.mark == "inconclusive"


def test_a_feature_goes_through_zero(atlas, circuit, pair):
    (key,) = strongest(circuit, layer=0)
    feature = feature_of(key)
    row = do(atlas, circuit, pair, "scale", [key], factor=-4, controls=0)
    clean = Forward(*pair, IDS)
    run = Forward(*pair, IDS, decoders(pair[1], len(IDS), [(*feature, -5 * clean.value(*feature))]))
    token = circuit.record.targets[0].token_id
    assert row.targets[0].measured == pytest.approx(float((run.logits - clean.logits)[-1, token]), abs=1e-6)
    deep = [moved for moved in row.moved if moved.node.startswith("feature/2")]
    for moved in deep:
        one = feature_of(moved.node)
        assert moved.measured == pytest.approx(run.pre(*one) - clean.pre(*one), abs=1e-6)
    assert any(moved.before > 0 > moved.before + moved.measured for moved in deep)


def test_patching_takes_the_value_of_the_other_prompt(atlas, circuit, pair):
    model, transcoders = pair
    keys = strongest(circuit, count=2, layer=0)
    row = do(atlas, circuit, pair, "patch", keys, prompt=OTHER, controls=0)
    other_ids = [1, *model.tokenizer.encode(OTHER)]
    clean, other = Forward(*pair, IDS), Forward(*pair, other_ids)
    changes = [(*f, other.value(*f) - clean.value(*f)) for f in map(feature_of, keys)]
    run = Forward(*pair, IDS, decoders(transcoders, len(IDS), changes))
    token = circuit.record.targets[0].token_id
    assert row.targets[0].measured == pytest.approx(float((run.logits - clean.logits)[-1, token]), abs=1e-6)
    token_key = strongest(circuit, "token")
    patched = do(atlas, circuit, pair, "patch", token_key, prompt=OTHER)
    assert patched.targets[0].predicted is None
    assert patched.mark == "inconclusive"


def test_a_supernode_is_changed_at_once_with_controls_for_each_member(atlas, circuit, pair):
    keys = strongest(circuit, count=3)
    atlas.annotate(circuit.id, "supernode", "group", keys)
    request = InterventionRequest(circuit=circuit.id, kind="ablate", supernode="group")
    row = intervene(atlas, request, model=pair[0], transcoders=pair[1])
    assert sorted(row.nodes) == sorted(keys)
    assert len(row.controls.features) == 3 * row.controls.count
    assert not set(keys) & set(row.controls.features)
    for start in range(0, len(row.controls.features), 3):
        assert len(set(row.controls.features[start : start + 3])) == 3


def test_an_edge_is_cut_by_path_patching_and_its_mark_is_on_it(atlas, circuit, pair):
    source = int(np.flatnonzero(circuit.nodes.is_kind("feature") & (circuit.nodes.layer == 0))[0])
    edge = int(np.flatnonzero(circuit.edges.source == source)[0])
    target = int(circuit.edges.target[edge])
    keys = [circuit.keys[source], circuit.keys[target]]
    row = do(atlas, circuit, pair, "cut", keys)
    assert row.targets[0].node == keys[1]
    assert row.targets[0].predicted == pytest.approx(-float(circuit.edges.weight[edge]), rel=1e-4)
    clean = Forward(*pair, IDS)
    feature = feature_of(keys[0])
    run = Forward(*pair, IDS, decoders(pair[1], len(IDS), [(*feature, -clean.value(*feature))]), held=clean)
    to = feature_of(keys[1]) if keys[1].startswith("feature") else None
    moved = run.pre(*to) - clean.pre(*to) if to else float((run.logits - clean.logits)[-1, circuit.nodes.index[target]])
    assert row.targets[0].measured == pytest.approx(moved, abs=1e-6)
    (kept,) = atlas.edge_marks(circuit.id)
    assert (kept.source, kept.target, kept.mark) == (*keys, row.mark)


def test_a_path_passes_on_what_each_node_on_it_makes_of_the_change(atlas, circuit, pair):
    nodes, edges = circuit.nodes, circuit.edges
    middle = np.flatnonzero(nodes.is_kind("feature") & (nodes.layer == 1))
    pairs = [
        (int(s), int(m), int(t))
        for m in middle
        for s in edges.source[edges.target == m]
        if nodes.kind[s] == 0
        for t in edges.target[edges.source == m]
    ]
    path = max(pairs, key=lambda p: abs(circuit.adjacency()[p[1], p[0]]))
    keys = [circuit.keys[row] for row in path]
    row = do(atlas, circuit, pair, "cut", keys)
    clean = Forward(*pair, IDS)
    first, second = feature_of(keys[0]), feature_of(keys[1])
    one = Forward(*pair, IDS, decoders(pair[1], len(IDS), [(*first, -clean.value(*first))]), held=clean)
    change = one.value(*second) - clean.value(*second)
    two = Forward(*pair, IDS, decoders(pair[1], len(IDS), [(*second, change)]), held=clean)
    if keys[2].startswith("feature"):
        expected = two.pre(*feature_of(keys[2])) - clean.pre(*feature_of(keys[2]))
    else:
        expected = float((two.logits - clean.logits)[-1, nodes.index[path[2]]])
    assert row.targets[0].measured == pytest.approx(expected, abs=1e-6)
    weights = circuit.adjacency()
    product = -weights[path[1], path[0]] * weights[path[2], path[1]] / nodes.activation[path[1]]
    assert row.targets[0].predicted == pytest.approx(float(product), rel=1e-3)
    assert len(row.moved) == 2
    assert not atlas.edge_marks(circuit.id)


def test_tokens_and_errors_have_no_controls_and_so_no_mark(atlas, circuit, pair):
    for kind in ("token", "error"):
        row = do(atlas, circuit, pair, "ablate", strongest(circuit, kind))
        assert (row.mark, row.controls.count) == ("inconclusive", 0)
        assert row.targets[0].measured != 0


def test_on_a_set_of_prompts_the_effect_is_the_mean(atlas, circuit, pair):
    (key,) = strongest(circuit, layer=0)
    texts = [circuit.record.prompt, OTHER]
    row = do(atlas, circuit, pair, "ablate", [key], prompts=texts)
    assert [one.node for one in row.prompts] == texts
    assert row.targets[0].measured == pytest.approx(np.mean([one.measured for one in row.prompts]))
    alone = do(atlas, circuit, pair, "ablate", [key])
    assert row.prompts[0].measured == pytest.approx(alone.targets[0].measured, abs=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_dtypes_say_nearly_the_same(tmp_path, dtype):
    folder = write_model(tmp_path / "model")
    measured = []
    for one in ("float64", dtype):
        model = load_model(folder, device="cpu", dtype=one)
        transcoders = random_set("relu")
        for layer in transcoders.layers:
            for name in ("w_enc", "b_enc", "w_dec", "b_dec"):
                setattr(layer, name, getattr(layer, name).to(model.dtype))
        if not measured:
            circuit = ask_trace((model, transcoders))
            keys = strongest(circuit, count=6)
        laboratory = Laboratory(model, transcoders, circuit)
        trials = [
            laboratory.trial(
                InterventionRequest(circuit=circuit.id, kind="ablate", nodes=[k], controls=0), [circuit.row(k)]
            )
            for k in keys
        ]
        measured.append([result.targets[0].measured for result in laboratory.results(trials)])
    tolerance = 1e-4 if dtype == "float32" else 0.1
    np.testing.assert_allclose(measured[1], measured[0], atol=tolerance * np.abs(measured[0]).max())


def test_several_targets_and_positions_are_all_measured(pair):
    model, transcoders = pair
    specs = [
        TargetSpec("difference", "w3 − w5", -1, (3, 5)),
        TargetSpec("token", "w9", 4, (9,)),
        TargetSpec("feature", "", 5, feature=next((2, f) for l, p, f in _firing(pair) if (l, p) == (2, 5))),
    ]
    circuit = ask_trace(pair, specs)
    laboratory = Laboratory(model, transcoders, circuit)
    key = strongest(circuit, layer=0)[0]
    request = InterventionRequest(circuit=circuit.id, kind="ablate", nodes=[key], controls=0)
    (result,) = laboratory.results([laboratory.trial(request, [circuit.row(key)])])
    clean, feature = Forward(*pair, IDS), feature_of(key)
    run = Forward(*pair, IDS, decoders(transcoders, len(IDS), [(*feature, -clean.value(*feature))]))
    moved = run.logits - clean.logits
    layer, index = specs[2].feature
    expected = [
        float(moved[6, 3] - moved[6, 5]),
        float(moved[4, 9]),
        run.pre(layer, 5, index) - clean.pre(layer, 5, index),
    ]
    assert [target.measured for target in result.targets] == pytest.approx(expected, abs=1e-6)


def _firing(pair):
    from ingest.causal.prompts import on_prompt

    return on_prompt(*pair, IDS, "").features.tolist()


# -- refusals: one sentence each


def test_what_makes_no_sense_is_refused_in_one_sentence(atlas, circuit, pair):
    (feature,), (logit,) = (
        strongest(circuit),
        [circuit.keys[i] for i in np.flatnonzero(circuit.nodes.is_kind("logit"))[:1]],
    )
    deep = strongest(circuit, layer=2)[0]
    shallow = strongest(circuit, layer=0)[0]
    refused = [
        (NotFound, "no node 'feature/9/9/9'", {"kind": "ablate", "nodes": ["feature/9/9/9"]}),
        (NotFound, "no supernode 'nobody'", {"kind": "ablate", "nodes": [], "supernode": "nobody"}),
        (UsageError, "factor", {"kind": "scale", "nodes": [feature]}),
        (UsageError, "value", {"kind": "steer", "nodes": [feature]}),
        (UsageError, "prompt", {"kind": "patch", "nodes": [feature]}),
        (UsageError, "nodes", {"kind": "ablate", "nodes": []}),
        (UsageError, "cannot be changed: it is a logit", {"kind": "ablate", "nodes": [logit]}),
        (UsageError, "no edge from", {"kind": "cut", "nodes": [deep, shallow]}),
        (UsageError, "finite", {"kind": "scale", "nodes": [feature], "factor": float("inf")}),
        (InputRejected, "4 tokens, the circuit's has 7", {"kind": "patch", "nodes": [feature], "prompt": "w6 w4 w5"}),
        (InputRejected, "4 tokens", {"kind": "ablate", "nodes": [feature], "prompts": ["w6 w4 w5"]}),
    ]
    for error, words, arguments in refused:
        with pytest.raises(error, match=words):
            intervene(atlas, InterventionRequest(circuit=circuit.id, **arguments), model=pair[0], transcoders=pair[1])
    assert not atlas.interventions(circuit.id)


def test_an_imported_circuit_says_which_model_is_missing(atlas):
    stranger = make_circuit(model="elsewhere", transcoders="far")
    atlas.add(stranger)
    with pytest.raises(ModelRejected, match="the model elsewhere with the transcoder set far is needed"):
        intervene(atlas, InterventionRequest(circuit=stranger.id, kind="ablate", nodes=["feature/0/1/6"]))


def test_another_model_or_set_than_the_traced_one_is_refused(atlas, circuit, pair, tmp_path):
    other = load_model(write_model(tmp_path / "other", seed=5), device="cpu", dtype="float64")
    with pytest.raises(ModelRejected, match="was traced with"):
        do(atlas, circuit, (other, pair[1]), "ablate", strongest(circuit))
    silent = random_set("skip", seed=9)
    for layer in silent.layers:
        layer.b_enc -= 100
    with pytest.raises(ModelRejected, match="only 0 fire"):
        do(atlas, circuit, (pair[0], silent), "ablate", strongest(circuit))
