"""The battery on the shipped model and on circuits of components: score, interval, baselines, resumption, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlas import Atlas
from atlas.causal_records import ComponentsRequest, InterventionRequest, PromptPair, VerifyRequest
from atlas.circuit import Circuit
from atlas.errors import InputRejected, ModelRejected, UsageError
from atlas.evidence import evidence_of, rank_correlation
from atlas.settings import Settings
from ingest.causal.components import ComponentLaboratory, Part
from ingest.causal.full_graph import full_predictions
from ingest.causal.predict import LinearGraph
from ingest.components.circuit import component_circuit
from ingest.interventions import intervene
from ingest.models import load_model
from ingest.organism import model_path, transcoders_path
from ingest.trace import question, trace, trace_circuit
from ingest.trace.targets import recorded_targets
from ingest.transcoders import load_transcoders
from ingest.transcoders.permuted import permuted_set
from ingest.verification import verify
from tests.ingest.by_hand import random_set
from tests.ingest.trace.conftest import write_model

PROMPT = "The capital of the state containing Dallas is"


@pytest.fixture(scope="module")
def shipped():
    model = load_model(model_path(), device="cpu")
    return model, load_transcoders(transcoders_path(), model)


@pytest.fixture
def atlas(tmp_path, monkeypatch):
    """A catalog without a graph server: projections have tests of their own."""
    monkeypatch.setattr("atlas.base.AtlasBase._project", lambda *_: None)
    with Atlas.open(settings=Settings(home=tmp_path / "home", actor="tester")) as opened:
        yield opened


@pytest.fixture
def traced(atlas, shipped) -> Circuit:
    found = trace(atlas, PROMPT, model=shipped[0], transcoders=shipped[1])
    return atlas.load(found.circuit)


SMALL = {"features": 6, "paths": 3, "controls": 10, "permuted": 1}


def test_a_verification_scores_a_circuit_and_its_model_is_found_by_its_record(atlas, traced):
    atlas.annotate(
        traced.id, "supernode", "pair", [traced.keys[i] for i in np.flatnonzero(traced.nodes.is_kind("feature"))[:2]]
    )
    seen = []
    result = verify(atlas, VerifyRequest(circuit=traced.id, **SMALL), progress=lambda *now: seen.append(now))
    assert len(result.points) == 6
    assert result.tested == 7  # and the supernode
    assert result.confirmed + result.refuted + result.inconclusive == result.tested
    assert (
        result.edges_confirmed + result.edges_refuted + result.edges_inconclusive == len(result.interventions) - 7 > 2
    )
    predicted, measured = ([getattr(point, name) for point in result.points] for name in ("predicted", "measured"))
    assert result.spearman == pytest.approx(rank_correlation(predicted, measured))
    low, high = result.interval
    assert -1 <= low <= result.spearman <= high <= 1
    assert result.interval_over == "nodes"
    assert 0 < result.p_value <= 1
    assert [b.name for b in result.baselines] == [
        "raw activation",
        "direct edge",
        "unpruned graph",
        "permuted transcoders",
    ]
    assert result.provenance["battery"].startswith("b1-")
    assert seen[0][2] == "interventions"
    rows = atlas.interventions(traced.id, battery=result.provenance["battery"], limit=None)
    assert {row.id for row in rows} == set(result.interventions)
    (kept,) = atlas.measurements(traced.id, "verification")
    assert kept.document["spearman"] == result.spearman
    assert atlas.show(traced.id).verdict == result.verdict
    assert evidence_of(result).confirmed == result.confirmed + result.edges_confirmed
    strongest = np.sort(traced.nodes.influence[traced.nodes.is_kind("feature")])[::-1][:6]
    tested = [traced.nodes.influence[traced.row(point.node)] for point in result.points]
    np.testing.assert_array_equal(tested, strongest)


def test_a_killed_verification_goes_on_and_a_finished_one_is_returned(atlas, traced, shipped, monkeypatch):
    monkeypatch.setattr("ingest.verification.GROUP", 3)
    request = VerifyRequest(circuit=traced.id, **SMALL)

    def kill(done, total, what):
        if what == "interventions" and done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(atlas, request, model=shipped[0], transcoders=shipped[1], progress=kill)
    before = {row.id for row in atlas.interventions(traced.id, limit=None)}
    assert len(before) == 6
    result = verify(atlas, request, model=shipped[0], transcoders=shipped[1])
    assert before < set(result.interventions)
    assert len(result.interventions) == len(atlas.interventions(traced.id, limit=None))
    assert verify(atlas, request, model=shipped[0], transcoders=shipped[1]) == result
    assert len(atlas.measurements(traced.id)) == 1
    other = verify(atlas, request.model_copy(update={"seed": 1}), model=shipped[0], transcoders=shipped[1])
    assert not set(other.interventions) & set(result.interventions)
    assert other.points == result.points


def test_over_a_set_of_prompts_the_interval_is_over_prompts(atlas, traced, shipped):
    prompts = [
        PROMPT,
        "The capital of the state containing Houston is",
        "The capital of the state containing Seattle is",
    ]
    result = verify(
        atlas,
        VerifyRequest(circuit=traced.id, features=5, paths=0, controls=8, permuted=0, prompts=prompts),
        model=shipped[0],
        transcoders=shipped[1],
    )
    assert result.interval_over == "prompts"
    rows = [atlas.intervention(one) for one in result.interventions]
    assert all(len(row.prompts) == 3 for row in rows)
    for point, row in zip(result.points, rows, strict=True):
        assert point.measured == pytest.approx(np.mean([one.measured for one in row.prompts]))
    with pytest.raises(InputRejected, match="tokens, the circuit's has 9"):
        verify(atlas, VerifyRequest(circuit=traced.id, prompts=["The opposite of hot is"]))


def test_the_unpruned_graph_predicts_as_a_graph_that_keeps_everything(tmp_path):
    model = load_model(write_model(tmp_path / "model"), device="cpu", dtype="float64")
    transcoders, ids = random_set("skip"), [1, 7, 33, 7, 20]
    parameters = {"targets": None, "max_logits": 2, "logit_mass": 1.0, "max_features": None, "dtype": "float64"}
    asked = question(model, transcoders, ids, "", parameters, {"node": 1.0, "edge": 1.0})
    whole = trace_circuit(model, transcoders, asked, actor="tester", opened_edges=0)
    rows = np.flatnonzero(whole.nodes.is_kind("feature"))
    features = [(int(whole.nodes.layer[r]), int(whole.nodes.position[r]), int(whole.nodes.index[r])) for r in rows]
    (target, *_) = recorded_targets(model, whole)
    found = full_predictions(model, transcoders, ids, target, features, None)
    first = int(np.flatnonzero(whole.nodes.is_kind("logit"))[0])
    graph = LinearGraph(whole)
    expected = [graph.effects({row: -float(whole.nodes.activation[row])})[first] for row in rows.tolist()]
    np.testing.assert_allclose(found, np.nan_to_num(expected), rtol=1e-4, atol=1e-5)
    other = full_predictions(model, permuted_set(transcoders, 0), ids, target, features, None)
    assert np.abs(other - found).max() > 0.01
    same = permuted_set(transcoders, 0).layers[1]
    picked = torch.arange(5)
    assert sorted(map(tuple, same.decoder_rows(torch.arange(40))[:, 0].tolist())) == sorted(
        map(tuple, transcoders.layers[1].w_dec.tolist())
    )
    torch.testing.assert_close(same.encoder_rows(picked), transcoders.layers[1].encoder_rows(picked))


def test_circuits_of_differences_and_without_features_are_verified_too(atlas, shipped):
    model, transcoders = shipped
    specs = ["diff:Austin|Sacramento"]
    found = trace(atlas, PROMPT, model=model, transcoders=transcoders, targets=specs).circuit
    result = verify(
        atlas,
        VerifyRequest(circuit=found, features=4, paths=2, controls=8, permuted=1),
        model=model,
        transcoders=transcoders,
    )
    assert len(result.points) == 4
    assert result.baselines[-1].name == "permuted transcoders"
    alone = trace(atlas, model=model, transcoders=transcoders, token_ids=[1]).circuit
    empty = verify(atlas, VerifyRequest(circuit=alone), model=model, transcoders=transcoders)
    assert (empty.spearman, empty.interval, empty.p_value, empty.tested) == (None, None, None, 0)


# -- circuits of components

PAIRS = [
    PromptPair(
        clean=f"The capital of the state containing {a} is",
        corrupted=f"The capital of the state containing {b} is",
        answer=x,
        wrong=y,
    )
    for a, b, x, y in (
        ("Dallas", "Oakland", "Austin", "Sacramento"),
        ("Oakland", "Seattle", "Sacramento", "Olympia"),
        ("Seattle", "Dallas", "Olympia", "Austin"),
    )
]


@pytest.fixture
def components(atlas, shipped) -> Circuit:
    request = ComponentsRequest(profile="demo", pairs=PAIRS, steps=3, edges=40, neurons=2)
    return atlas.load(component_circuit(atlas, request, model=shipped[0]).circuit)


def test_replacing_a_component_is_cutting_all_of_its_edges(components, shipped):
    laboratory = ComponentLaboratory(shipped[0], components)
    wiring = laboratory.split.wiring
    parts = [Part("head", 1, 2), Part("mlp", 0), Part("mlp", 3), Part("token", -1)]
    request = InterventionRequest(circuit=components.id, kind="ablate", nodes=["x"])
    laboratory._replace(request, [(part,) for part in parts], None)
    laboratory._replace(request, [tuple(parts[:2])], None)
    keep = torch.ones(5, wiring.n_edges, dtype=torch.bool)
    for row, part in enumerate(parts):
        keep[row, wiring.edge_source == laboratory.source(part)] = False
    keep[4] = keep[0] & keep[1]
    expected = laboratory.split.measure(laboratory.cases, keep, laboratory.metric).double().numpy() - laboratory.clean
    changes = [*((part,) for part in parts), tuple(parts[:2])]
    assert np.abs(expected).max() > 0.5
    for change, wanted in zip(changes, expected, strict=True):
        np.testing.assert_allclose(laboratory._done[laboratory._name(request, change)], wanted, atol=2e-3)


def test_a_component_is_ablated_scaled_patched_and_its_edge_cut(atlas, components, shipped):
    heads = np.flatnonzero(components.nodes.is_kind("head", "mlp"))
    row = int(heads[np.argmax(components.nodes.influence[heads])])
    key = components.keys[row]

    def do(kind, nodes, **more):
        return intervene(
            atlas, InterventionRequest(circuit=components.id, kind=kind, nodes=nodes, **more), model=shipped[0]
        )

    ablated = do("ablate", [key])
    assert ablated.targets[0].predicted == pytest.approx(-float(components.extra["eap.node_score"][row]))
    assert len(ablated.prompts) == 3
    assert ablated.targets[0].measured == pytest.approx(np.mean([one.measured for one in ablated.prompts]))
    assert ablated.controls.count > 0
    kept = do("scale", [key], factor=1.0)
    assert abs(kept.targets[0].measured) < 1e-4
    assert kept.targets[0].predicted is None
    gone = do("scale", [key], factor=0.0)
    assert abs(gone.targets[0].measured) > 1e-3
    patched = do("patch", [key], prompt=PAIRS[0].corrupted, controls=0)
    assert patched.prompts[0].measured == pytest.approx(ablated.prompts[0].measured, abs=1e-4)
    neuron = next(key for key in components.keys if key.startswith("neuron"))
    single = do("ablate", [neuron])
    assert single.controls.count == 20
    assert single.targets[0].measured != 0
    edge = int(np.argmax(np.abs(components.edges.weight)))
    ends = [components.keys[int(components.edges.source[edge])], components.keys[int(components.edges.target[edge])]]
    if not any("neuron" in end for end in ends):
        cut = do("cut", ends)
        assert cut.targets[0].predicted is not None
        assert atlas.edge_marks(components.id)[0].mark == cut.mark
    with pytest.raises(UsageError, match="no value"):
        do("steer", [key], value=1.0)
    with pytest.raises(InputRejected, match="tokens"):
        do("patch", [key], prompt="The opposite of hot is")


def test_a_component_circuit_is_verified_on_its_cases(atlas, components):
    result = verify(atlas, VerifyRequest(circuit=components.id, features=8, paths=2, controls=8))
    assert len(result.points) == result.tested == 8
    assert result.interval_over == "prompts"
    assert result.spearman is not None
    assert {b.name for b in result.baselines} >= {"direct edge"}
    with pytest.raises(UsageError, match="cases it was found on"):
        verify(atlas, VerifyRequest(circuit=components.id, prompts=[PROMPT]))


def test_a_heat_map_has_nothing_to_intervene_on(atlas, shipped):
    from atlas.causal_records import PatchRequest
    from ingest.components.patching import patch

    heat = patch(atlas, PatchRequest(profile="demo", pairs=PAIRS[:1], sites=["mlp"]), model=shipped[0]).circuit
    key = atlas.load(heat).keys[0]
    for refused in (
        lambda: verify(atlas, VerifyRequest(circuit=heat)),
        lambda: intervene(atlas, InterventionRequest(circuit=heat, kind="ablate", nodes=[key])),
    ):
        with pytest.raises(UsageError, match="table of patching effects"):
            refused()


def test_the_score_of_a_component_whose_model_is_gone_is_refused(atlas, components):
    elsewhere = components.record.model.model_copy(update={"weights_hash": "0" * 64, "name": "elsewhere"})
    added = atlas.add(components.with_record(model=elsewhere))
    with pytest.raises(ModelRejected, match="The model elsewhere"):
        verify(atlas, VerifyRequest(circuit=added.circuit))
