"""One suite over both servers: what goes into the graph comes out again."""

from __future__ import annotations

import pytest

from atlas.graph import CircuitProjection, FeatureRow, GraphStore
from atlas.records import ImportedSupernode


@pytest.fixture
def store(graph_settings):
    store = GraphStore.connect(graph_settings, dimension=4, encoder="test-encoder")
    store.ensure_schema()
    yield store
    store.close()


def projection(circuit, **changes):
    fields = {
        "name": "one",
        "created_at": "2026-01-01T00:00:00+00:00",
        "created_by": "tester",
        "verdict": "untested",
        "status": "ready",
        "counted": True,
    }
    return CircuitProjection(circuit, **(fields | changes))


def test_a_circuit_goes_in_and_comes_out_whole(store, make_circuit):
    circuit = make_circuit()

    store.put_circuit(projection(circuit, supernodes=[ImportedSupernode(name="s", node_keys=[circuit.keys[1]])]))

    assert store.circuit_ids() == {circuit.id: "ready"}
    rows = store.read(
        "MATCH (c:Circuit)-[:CONTAINS]->(a:Node)-[e:ATTRIBUTES]->(b:Node) RETURN a.kind, b.kind, e.weight ORDER BY e.weight",
        limit=10,
        timeout=10,
    )
    assert rows.rows == [["feature", "feature", -1.0], ["token", "feature", 0.5], ["feature", "logit", 2.0]]
    assert store.features(["toy/toy-set/0/6"])["toy/toy-set/0/6"]["circuits"] == 1
    store.delete_circuit(circuit.id)
    assert store.circuit_ids() == {}
    assert store.features(["toy/toy-set/0/6"]) == {}


def test_a_label_is_found_by_meaning_and_by_words(store, make_circuit):
    store.put_features(
        [
            FeatureRow("toy/toy-set/0/6", "a town in Texas", 0.9, [1, 0, 0, 0]),
            FeatureRow("toy/toy-set/1/7", "a colour", None, [0, 1, 0, 0]),
        ]
    )

    assert store.nearest([0.9, 0.1, 0, 0], 1)[0][0] == "toy/toy-set/0/6"
    assert [key for key, _ in store.full_text("texas TOWN", 5)] == ["toy/toy-set/0/6"]
