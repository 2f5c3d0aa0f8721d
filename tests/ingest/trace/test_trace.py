"""From a prompt to a circuit, and into a real atlas."""

from __future__ import annotations

import numpy as np
import pytest

import ingest.trace
from atlas import Atlas
from atlas.circuit import KIND, Circuit, Edges, Nodes
from atlas.circuit_file import from_bytes, to_bytes
from atlas.errors import InputRejected, ModelRejected, UsageError
from ingest import trace
from ingest.models import load_model
from ingest.trace import attribute, question, trace_circuit
from ingest.transcoders import load_transcoders

IDS = [1, 7, 33, 7, 20, 48]


def ask(model, transcoders, ids=IDS, targets=None, node=0.8, edge=0.98, **parameters):
    defaults = {"targets": targets, "max_logits": 10, "logit_mass": 0.95, "max_features": None, "dtype": "float64"}
    return question(model, transcoders, ids, None, defaults | parameters, {"node": node, "edge": edge})


@pytest.fixture(scope="module")
def full(tiny, tiny_set):
    return attribute(tiny, tiny_set, IDS)


@pytest.fixture(scope="module")
def circuit(tiny, tiny_set):
    return trace_circuit(tiny, tiny_set, ask(tiny, tiny_set), actor="tester")


@pytest.fixture(scope="module")
def whole(tiny, tiny_set):
    return trace_circuit(tiny, tiny_set, ask(tiny, tiny_set, node=1.0, edge=1.0), actor="tester")


def test_thresholds_of_one_keep_every_node_and_every_edge(whole, full):
    assert len(whole.nodes) == full.order.size
    assert len(whole.edges) == full.matrix.nnz
    np.testing.assert_array_equal(whole.adjacency().toarray(), full.matrix.toarray())


def test_nodes_follow_the_conventions_of_a_circuit(circuit, whole):
    nodes = whole.nodes
    assert len(set(whole.keys)) == len(nodes)
    token = nodes.is_kind("token")
    assert nodes.index[token].tolist() == IDS
    assert set(nodes.layer[token]) == {-1}
    logit = nodes.is_kind("logit")
    assert set(nodes.layer[logit]) == {3}
    assert set(nodes.position[logit]) == {len(IDS) - 1}
    assert (np.diff(nodes.probability[logit]) <= 0).all()
    assert np.isnan(nodes.probability[~logit]).all()
    feature = nodes.is_kind("feature")
    assert (nodes.activation[feature] > 0).all()
    assert (nodes.position[feature] > 0).all()
    assert set(nodes.index[nodes.is_kind("error")]) == {-1}
    assert circuit.record.targets[0].what == circuit.node_tokens[int(np.flatnonzero(circuit.nodes.is_kind("logit"))[0])]
    assert circuit.tokens == ["w1", "w7", "w33", "w7", "w20", "w48"]
    assert circuit.feature_key(int(np.flatnonzero(circuit.nodes.is_kind("feature"))[0])).startswith(
        "tiny/tiny%2Frandom/"
    )


def test_pruned_nodes_keep_the_totals_from_before(circuit, whole):
    assert len(circuit.nodes) < len(whole.nodes)
    dense = whole.adjacency().toarray().astype(np.float64)
    rows = [whole.row(key) for key in circuit.keys]
    np.testing.assert_allclose(circuit.nodes.input_total, dense.sum(axis=1)[rows], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(circuit.nodes.input_abs_total, np.abs(dense).sum(axis=1)[rows], rtol=1e-5)
    kept = circuit.adjacency().toarray()
    np.testing.assert_array_equal(kept[kept != 0], dense[np.ix_(rows, rows)][kept != 0].astype(np.float32))
    assert set(circuit.nodes.kind[circuit.edges.source]) <= {KIND["feature"], KIND["error"], KIND["token"]}
    np.testing.assert_array_equal(circuit.nodes.influence, whole.nodes.influence[rows])
    strong = circuit.nodes.influence_cumulative[circuit.nodes.is_kind("feature", "error")]
    assert (strong <= 0.8 + circuit.nodes.influence.max() / whole.nodes.influence.sum()).all()


def test_scores_of_the_pruned_graph_are_lower_and_those_of_the_whole_graph_do_not_depend_on_pruning(circuit, whole):
    pruned, unpruned = circuit.record.scores, whole.record.scores
    assert pruned.computed_on == "full graph"
    assert (pruned.replacement, pruned.completeness) == (unpruned.replacement, unpruned.completeness)
    assert pruned.replacement_pruned < pruned.replacement
    assert pruned.completeness_pruned < pruned.completeness
    assert (unpruned.replacement_pruned, unpruned.completeness_pruned) == (unpruned.replacement, unpruned.completeness)


def test_a_feature_cap_keeps_totals_and_counts_the_other_features_as_unexplained(tiny, tiny_set, whole):
    capped = trace_circuit(tiny, tiny_set, ask(tiny, tiny_set, node=1.0, edge=1.0, max_features=12), actor="tester")
    feature = capped.nodes.is_kind("feature")
    assert feature.sum() == 12
    rows = [whole.row(key) for key in capped.keys]
    weakest = whole.nodes.influence[np.array(rows)[feature]].min()
    assert (whole.nodes.influence[whole.nodes.is_kind("feature")] > weakest).sum() == 11
    np.testing.assert_array_equal(capped.nodes.input_abs_total, whole.nodes.input_abs_total[rows])
    np.testing.assert_array_equal(capped.adjacency().toarray(), whole.adjacency().toarray()[np.ix_(rows, rows)])
    assert 0 < capped.record.scores.replacement < whole.record.scores.replacement
    assert capped.record.scores.replacement_pruned < whole.record.scores.replacement


def test_the_record_tells_where_the_circuit_came_from(circuit, tiny, tiny_set):
    r = circuit.record
    assert (r.model.name, r.model.weights_hash, r.model.layers) == ("tiny", tiny.weights_hash, 3)
    assert (r.transcoders.name, r.transcoders.hash) == ("tiny/random", tiny_set.hash)
    assert r.examples[0].token_ids == IDS
    assert r.provenance.created_by == "tester"
    assert r.provenance.created_at.endswith("+00:00")
    assert (r.provenance.device, r.provenance.dtype) == ("cpu", "float64")
    assert {"torch", "transformers", "circuit-atlas", "python"} <= set(r.provenance.versions)
    assert "/" not in r.model.name + r.name


def test_the_trace_key_is_known_before_tracing_and_changes_with_what_is_asked(circuit, tiny, tiny_set):
    def key(**asked):
        return Circuit(ask(tiny, tiny_set, **asked), Nodes(0), Edges(0)).trace_key

    assert key() == circuit.trace_key
    others = [key(node=0.7), key(ids=[*IDS, 3]), key(targets=[4]), key(max_features=9), key(max_logits=3)]
    assert len({circuit.trace_key, *others}) == 6


def test_a_trace_is_the_same_twice_and_survives_the_circuit_file(circuit, tiny, tiny_set):
    again = trace_circuit(tiny, tiny_set, ask(tiny, tiny_set), actor="another")
    assert again.id == circuit.id == from_bytes(to_bytes(circuit)).id


def test_wrong_numbers_are_refused(tiny, tiny_set, settings):
    with Atlas.open(settings=settings) as atlas:
        for wrong in (
            {"node_threshold": 1.2},
            {"edge_threshold": -0.1},
            {"logit_mass": 0},
            {"max_logits": 0},
            {"max_features": 0},
        ):
            with pytest.raises(UsageError):
                trace(atlas, "w7 w9", model=tiny, transcoders=tiny_set, **wrong)
        with pytest.raises(InputRejected):
            trace(atlas, "", model=tiny, transcoders=tiny_set)
        with pytest.raises(ModelRejected):
            trace(atlas, "w7", model="./nowhere", transcoders=tiny_set)


def test_the_package_can_be_called_and_looked_into():
    assert trace is ingest.trace
    assert callable(trace)
    assert trace.attribute is attribute


def test_a_trace_is_kept_and_found_again(oracle, store_pair):
    with Atlas.open(settings=store_pair) as atlas:
        first = trace(atlas, "w5 w6 w7", model=oracle / "model", transcoders=oracle / "plt_relu", targets=["w40", "w7"])
        assert not first.already
        assert sorted(first.settings["targets"]) == ["w40", "w7"]
        assert first.settings["node_threshold"] == 0.8
        kept = atlas.load(first.circuit)
        assert (len(kept.nodes), len(kept.edges)) == (first.nodes, first.edges)
        assert kept.record.provenance.created_by == "tester"
        assert atlas.find_trace(kept.trace_key) == first.circuit

        model = load_model(oracle / "model")
        transcoders = load_transcoders(oracle / "plt_relu", model)
        ticks = []
        second = trace(
            atlas,
            token_ids=[1, 5, 6, 7],
            model=model,
            transcoders=transcoders,
            targets=["w7", "w40"],
            collection="mine",
            progress=lambda *tick: ticks.append(tick),
        )
        assert (second.circuit, second.already, ticks) == (first.circuit, True, [])
        assert second.scores == first.scores
        assert [row.collections for row in atlas.circuits()] == [["mine"]]

        again = trace(
            atlas,
            "w5 w6 w7",
            model=model,
            transcoders=transcoders,
            targets=["w7", "w40"],
            again=True,
            progress=lambda *tick: ticks.append(tick),
        )
        assert ticks
        assert atlas.load(again.circuit).trace_key == kept.trace_key

        other = trace(atlas, "w5 w6 w7", model=model, transcoders=transcoders)
        assert other.circuit != first.circuit
