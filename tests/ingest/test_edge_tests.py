"""The engine of interventions: what it does to a real model equals a forward run written by hand, for every family and kind of set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlas.causal_records import InterventionRequest
from atlas.circuit import Circuit
from ingest.causal.laboratory import Laboratory
from ingest.causal.network import FeatureChange, Reads, RealNetwork, VectorChange
from ingest.causal.prompts import on_prompt
from ingest.models import FAMILIES, load_model
from ingest.trace import question, trace_circuit
from ingest.trace.targets import TargetSpec
from tests.ingest.by_hand import FEATURES, LAYERS, Forward, decoders, linear, random_set
from tests.ingest.trace.conftest import write_model

IDS = [1, 7, 33, 7, 20, 48, 2]
KINDS = {
    "relu": {},
    "jump": {"hooks": ("hook_resid_mid", "mlp.hook_out")},
    "skip": {"hooks": ("mlp.hook_in", "hook_mlp_out")},
    "top-k": {"hooks": ("ln2.hook_normalized", "mlp.hook_out")},
    "cross-layer": {},
}
EVERY_KIND = ("llama", "gpt2", "gemma2", "gpt_neox")  # one of each kind of norm and residual
CASES = [(family, kind) for family in FAMILIES for kind in KINDS if family in EVERY_KIND or kind == "cross-layer"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    loaded = {}

    def load(family: str):
        if family not in loaded:
            folder = write_model(tmp_path_factory.mktemp(family) / "model", family)
            loaded[family] = load_model(folder, device="cpu", dtype="float64")
        return loaded[family]

    return load


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request, models):
    family, kind = request.param
    model, transcoders = models(family), random_set(kind, **KINDS[kind])
    return model, transcoders, on_prompt(model, transcoders, IDS, "")


def every_feature() -> np.ndarray:
    return np.array([(l, p, f) for l in range(LAYERS) for p in range(len(IDS)) for f in range(0, FEATURES, 7)])


TARGETS = [TargetSpec("token", "a", 6, (3,)), TargetSpec("difference", "b - c", 4, (5, 9))]


def reads_of(model, transcoders) -> Reads:
    return Reads(model, transcoders, every_feature(), TARGETS)


def by_hand(reads: Reads, run: Forward) -> np.ndarray:
    features = [run.pre(*feature) for feature in reads.features.tolist()]
    return np.array([*features, float(run.logits[6, 3]), float(run.logits[4, 5] - run.logits[4, 9])])


def test_the_unchanged_run_is_the_model(case):
    model, transcoders, on = case
    reads = reads_of(model, transcoders)
    clean = Forward(model, transcoders, IDS)
    read = RealNetwork(model, transcoders).run(IDS, [()], reads)
    np.testing.assert_allclose(read.before, by_hand(reads, clean), atol=1e-10)
    np.testing.assert_allclose(read.changes, 0, atol=1e-12)
    layer, position, feature = on.features[len(on.features) // 2].tolist()
    assert on.value((layer, position, feature)) == pytest.approx(clean.value(layer, position, feature), abs=1e-6)


def picked(on) -> list[tuple[int, int, int]]:
    """Some features that fire, of every layer."""
    draw = np.random.default_rng(0)
    return [tuple(draw.choice(on.features[on.features[:, 0] == layer]).tolist()) for layer in range(LAYERS)]


def test_ablating_a_feature_takes_its_decoders_away_and_leaves_the_rest_free(case):
    model, transcoders, on = case
    reads, clean = reads_of(model, transcoders), Forward(model, transcoders, IDS)
    features = picked(on)
    rows = [(FeatureChange(*feature, 0.0),) for feature in features]
    read = RealNetwork(model, transcoders).run(IDS, rows, reads)
    for feature, change in zip(features, read.changes, strict=True):
        away = decoders(transcoders, len(IDS), [(*feature, -clean.value(*feature))])
        run = Forward(model, transcoders, IDS, away)
        np.testing.assert_allclose(change, by_hand(reads, run) - by_hand(reads, clean), atol=1e-9)
    assert np.abs(read.changes).max() > 1e-2


def test_of_several_features_the_upper_ones_are_set_from_what_they_are_in_that_run(case):
    model, transcoders, on = case
    reads, clean = reads_of(model, transcoders), Forward(model, transcoders, IDS)
    lower, *_ = picked(on)
    upper = next(tuple(f) for f in on.features.tolist() if f[0] == 2 and f[1] >= lower[1])
    (change,) = (
        RealNetwork(model, transcoders)
        .run(IDS, [(FeatureChange(*lower, 0.0), FeatureChange(*upper, 0.4))], reads)
        .changes
    )
    away = (*lower, -clean.value(*lower))
    between = Forward(model, transcoders, IDS, decoders(transcoders, len(IDS), [away]))
    set_to = (*upper, 0.4 - between.value(*upper))
    run = Forward(model, transcoders, IDS, decoders(transcoders, len(IDS), [away, set_to]))
    np.testing.assert_allclose(change, by_hand(reads, run) - by_hand(reads, clean), atol=1e-9)


def test_steering_tokens_and_errors_are_vectors_at_their_places(case):
    model, transcoders, on = case
    reads, clean = reads_of(model, transcoders), Forward(model, transcoders, IDS)
    error = on.errors[1, 3]
    token = on.token_vectors[0]
    rows = [
        (FeatureChange(0, 2, 5, -1.5, add=True),),
        (VectorChange(1, 3, "error", -error),),
        (VectorChange(-1, 0, "token", 0.5 * token),),
    ]
    read = RealNetwork(model, transcoders).run(IDS, rows, reads)
    at_error = torch.zeros(len(IDS), model.width, dtype=torch.float64)
    at_error[3] = -error
    at_token = torch.zeros(len(IDS), model.width, dtype=torch.float64)
    at_token[0] = 0.5 * token
    runs = [
        Forward(model, transcoders, IDS, decoders(transcoders, len(IDS), [(0, 2, 5, -1.5)])),
        Forward(model, transcoders, IDS, {1: at_error}),
        Forward(model, transcoders, IDS, embedded=at_token),
    ]
    for change, run in zip(read.changes, runs, strict=True):
        np.testing.assert_allclose(change, by_hand(reads, run) - by_hand(reads, clean), atol=1e-9)


def test_a_cut_holds_what_mlps_write_but_for_skips(case):
    model, transcoders, on = case
    reads, clean = reads_of(model, transcoders), Forward(model, transcoders, IDS)
    features = picked(on)
    rows = [(FeatureChange(*feature, 0.0),) for feature in features]
    read = RealNetwork(model, transcoders).run(IDS, rows, reads, held=on.held, values=True)
    for feature, change, values in zip(features, read.changes, read.values, strict=True):
        away = decoders(transcoders, len(IDS), [(*feature, -clean.value(*feature))])
        run = Forward(model, transcoders, IDS, away, held=clean)
        np.testing.assert_allclose(change, by_hand(reads, run) - by_hand(reads, clean), atol=1e-9)
        expected = [run.value(*one) for one in reads.features.tolist()]
        np.testing.assert_allclose(values, expected, atol=1e-9)


def test_what_is_read_does_not_depend_on_the_batch_and_memory_that_runs_out_halves_it(case, monkeypatch):
    model, transcoders, on = case
    reads = reads_of(model, transcoders)
    rows = [(FeatureChange(*feature, 0.0),) for feature in on.features[:9].tolist()]
    whole = RealNetwork(model, transcoders).run(IDS, rows, reads)
    done = []
    parts = RealNetwork(model, transcoders, batch_rows=2).run(
        IDS, rows, reads, progress=lambda now, total, what: done.append((now, total))
    )
    np.testing.assert_allclose(parts.changes, whole.changes, atol=1e-10)
    assert done == [(2, 9), (4, 9), (6, 9), (8, 9), (9, 9)]

    body, tried = type(model).body.fget(model), []
    plain = body.forward

    def scarce(*args, input_ids, **options):
        tried.append(len(input_ids))
        if len(input_ids) > 4:
            raise torch.OutOfMemoryError("no memory left")
        return plain(*args, input_ids=input_ids, **options)

    monkeypatch.setattr(body, "forward", scarce)
    halved = RealNetwork(model, transcoders).run(IDS, rows, reads)
    np.testing.assert_allclose(halved.changes, whole.changes, atol=1e-10)
    assert max(tried) > 4


# -- an engine check, never evidence: in the graph's own linear model everything must come out as the graph says


LINEAR = [("relu", "mlp.hook_in"), ("jump", "hook_resid_mid"), ("skip", "mlp.hook_in"), ("cross-layer", "mlp.hook_in")]


def whole_graph(model, transcoders) -> Circuit:
    parameters = {"targets": None, "max_logits": 3, "logit_mass": 1.0, "max_features": None, "dtype": "float64"}
    asked = question(model, transcoders, IDS, "", parameters, {"node": 1.0, "edge": 1.0})
    return trace_circuit(model, transcoders, asked, actor="tester", opened_edges=0)


@pytest.mark.parametrize(("kind", "hook"), LINEAR, ids=[kind for kind, _ in LINEAR])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_the_linear_model_of_the_graph_effects_are_as_predicted(models, family, kind, hook):
    model = models(family)
    transcoders = random_set(kind, (hook, "mlp.hook_out"))
    circuit = whole_graph(model, transcoders)
    edges, draw = circuit.edges, np.random.default_rng(0)
    features = np.flatnonzero(circuit.nodes.is_kind("feature") & (circuit.nodes.layer < 2))
    sources = [
        *draw.choice(features, 4, replace=False).tolist(),
        int(np.flatnonzero(circuit.nodes.is_kind("token"))[2]),
        int(np.flatnonzero(circuit.nodes.is_kind("error") & (circuit.nodes.layer == 1))[3]),
    ]

    def ask(what, *rows, **more):
        return InterventionRequest(
            circuit=circuit.id, kind=what, nodes=[circuit.keys[r] for r in rows], controls=0, **more
        )

    laboratory = Laboratory(model, transcoders, circuit)
    with linear(model, transcoders, IDS, passing=True):
        asked = [laboratory.trial(ask("ablate", row), [row]) for row in sources]
        asked += [laboratory.trial(ask("steer", sources[0], value=0.3), sources[:1])]
        asked += [laboratory.trial(ask("scale", *sources, factor=1.01), sources)]
        results = laboratory.results(asked)
    for result in results:
        checked = [moved for moved in [*result.targets, *result.moved] if moved.predicted is not None]
        assert len(checked) > 10
        size = max(abs(moved.predicted) for moved in checked)
        for moved in checked:
            assert moved.measured == pytest.approx(moved.predicted, abs=2e-5 * max(size, 1))

    cuts = [draw.choice(np.flatnonzero(edges.source == row)) for row in sources for _ in range(2)]
    trials = [
        laboratory.trial(ask("cut", s, t), [s, t])
        for s, t in zip(edges.source[cuts].tolist(), edges.target[cuts].tolist(), strict=True)
    ]
    with linear(model, transcoders, IDS, passing=False):
        for edge, result in zip(cuts, laboratory.results(trials), strict=True):
            assert result.targets[0].predicted == pytest.approx(-float(edges.weight[edge]), rel=1e-4, abs=1e-6)
            assert result.targets[0].measured == pytest.approx(-float(edges.weight[edge]), rel=1e-3, abs=2e-5)
