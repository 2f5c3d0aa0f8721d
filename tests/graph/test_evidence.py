"""Evidence over both servers: marks on edges, interventions and what they moved; put again, interrupted, taken out."""

from __future__ import annotations

import random

import pytest

from atlas.causal_records import EdgeMark, InterventionRow, Moved
from atlas.graph import loading
from atlas.graph.evidence import MOST_MOVED, EvidenceProjection, evidence_steps
from tests.causal.results import FIRST, LOGIT, SECOND, TOKEN, ablated, cut
from tests.graph.random_circuits import random_circuit
from tests.graph.test_loading import Interrupted, interrupt_after

TIME = "2026-01-01T00:00:00.000000+00:00"
MARKS = "MATCH (a:Node)-[e:ATTRIBUTES]->(b:Node) RETURN a.kind, b.kind, e.evidence ORDER BY e.weight"
INTERVENTIONS = """MATCH (i:Intervention) OPTIONAL MATCH (i)-[:PERTURBED]->(p:Node) OPTIONAL MATCH (i)-[m:MOVED]->(n:Node)
    RETURN i.key, i.circuit, i.kind, i.mark, i.value, i.spearman, i.author, i.created_at, i.battery, p.idx, n.kind, n.idx,
    m.predicted, m.actual ORDER BY i.key, p.idx, n.kind, n.idx"""


def stored(result, circuit, number: int = 0) -> InterventionRow:
    return InterventionRow(
        **result.model_dump(), id=f"{number:032x}", circuit=circuit.id, battery="b", author="tester", created_at=TIME
    )


def mark(source: str, target: str, said: str) -> EdgeMark:
    return EdgeMark(source=source, target=target, mark=said, intervention="x")


def rows(store, query: str, **params):
    return store.read(query, params, limit=10_000, timeout=30).rows


@pytest.fixture
def in_pieces(monkeypatch):
    """As for huge circuits and thousands of interventions: a transaction per few rows."""
    monkeypatch.setattr(loading, "SINGLE_TRANSACTION_EDGES", 0)
    monkeypatch.setattr(loading, "SINGLE_TRANSACTION_ROWS", 0)
    monkeypatch.setattr(loading, "BATCH_ROWS", dict.fromkeys(loading.BATCH_ROWS, 2))
    monkeypatch.setattr(loading, "DELETE_INTERVENTIONS", 2)


@pytest.fixture(params=["at once", "in pieces"])
def pace(request):
    if request.param == "in pieces":
        request.getfixturevalue("in_pieces")


def test_an_edge_is_untested_until_a_test_says_otherwise(store, make_circuit, project, pace):
    circuit = make_circuit()
    store.put_circuit(project(circuit))
    assert rows(store, MARKS) == [
        ["feature", "feature", "untested"],
        ["token", "feature", "untested"],
        ["feature", "logit", "untested"],
    ]
    for said in ("refuted", "confirmed"):
        evidence = EvidenceProjection(circuit.id, {"verdict": "crisp"}, marks=[mark(FIRST, SECOND, said)])
        assert store.put_evidence(evidence)
        assert [row[2] for row in rows(store, MARKS)] == [said, "untested", "untested"]
    assert rows(store, "MATCH (c:Circuit) RETURN c.verdict, c.status") == [["crisp", "ready"]]
    assert store.marks(circuit.id, [(FIRST, SECOND), (SECOND, LOGIT), (TOKEN, LOGIT)]) == {
        (FIRST, SECOND): {"confirmed"},
        (SECOND, LOGIT): {"untested"},
    }


def test_interventions_say_what_they_changed_and_what_moved(store, make_circuit, project, pace):
    circuit = make_circuit()
    store.put_circuit(project(circuit))
    done = [stored(ablated(circuit.id), circuit, 1), stored(cut(circuit.id, FIRST, SECOND, LOGIT), circuit, 2)]
    for _ in range(2):  # putting it again doubles nothing
        assert store.put_evidence(EvidenceProjection(circuit.id, {}, interventions=done))
        by = [circuit.id, "tester", TIME, "b"]
        assert rows(store, INTERVENTIONS) == [
            [done[0].id, by[0], "ablate", "confirmed", 0.0, 1.0, *by[1:], 6, "feature", 7, -1.0, -0.5],
            [done[0].id, by[0], "ablate", "confirmed", 0.0, 1.0, *by[1:], 6, "logit", 3, -2.0, -1.5],
            [done[1].id, by[0], "cut", "confirmed", None, None, *by[1:], 6, "logit", 3, 0.5, 1.0],
            [done[1].id, by[0], "cut", "confirmed", None, None, *by[1:], 7, "logit", 3, 0.5, 1.0],
        ]
    assert store.intervention_keys() == {circuit.id: {row.id for row in done}}
    store.put_evidence(EvidenceProjection(circuit.id, {}, interventions=done[:1], whole=True))
    assert store.intervention_keys() == {circuit.id: {done[0].id}}


def test_a_circuit_comes_with_its_evidence_or_not_at_all(store, make_circuit, project, in_pieces):
    circuit = random_circuit(3)
    feature, *others = circuit.keys[:6]
    results = [ablated(circuit.id, feature, moved=[Moved(node=key, before=0, measured=1) for key in others])] * 3
    done = [stored(result, circuit, number) for number, result in enumerate(results)]
    first = (circuit.keys[circuit.edges.source[0]], circuit.keys[circuit.edges.target[0]])
    projection = project(circuit, evidence=evidence_steps(done, [mark(*first, "confirmed")]))
    connection, real = store._connection, store._connection.write
    writes = 0
    while True:
        connection.write = interrupt_after(connection, writes)
        try:
            store.put_circuit(projection)
            break
        except Interrupted:
            assert store.circuit_ids().get(circuit.id, "loading") == "loading"
            writes += 3
    connection.write = real
    assert writes > 20
    assert store.intervention_keys() == {circuit.id: {row.id for row in done}}
    assert rows(store, "MATCH ()-[m:MOVED]->() RETURN count(m)") == [[3 * len(others)]]
    assert store.marks(circuit.id, [first]) == {first: {"confirmed"}}


def test_an_interrupted_deletion_of_a_circuit_with_evidence_ends_with_nothing(store, make_circuit, project, in_pieces):
    chance = random.Random(5)
    connection, real = store._connection, store._connection.write
    circuit = make_circuit()
    done = [stored(ablated(circuit.id), circuit, number) for number in range(5)]
    for _ in range(6):
        store.put_circuit(project(circuit, evidence=evidence_steps(done, [])))
        connection.write = interrupt_after(connection, chance.randrange(6))
        try:
            store.delete_circuit(circuit.id, project(circuit))
        except Interrupted:
            connection.write = real
            store.delete_circuit(circuit.id)
        connection.write = real
        assert rows(store, "MATCH (n) WHERE NOT n:Meta RETURN n") == []


def test_evidence_for_a_circuit_that_is_not_loaded_waits_for_it(store, make_circuit, project):
    circuit = make_circuit()
    evidence = EvidenceProjection(circuit.id, {}, [stored(ablated(circuit.id), circuit)])
    assert not store.put_evidence(evidence)
    assert rows(store, "MATCH (n) WHERE NOT n:Meta RETURN n") == []


def test_the_graph_holds_the_targets_and_what_moved_most(make_circuit):
    circuit = make_circuit()
    moved = [Moved(node=f"feature/0/1/{n}", before=0.0, measured=float(n) * (-1) ** n) for n in range(200)]
    moved.append(Moved(node=LOGIT, before=0.0, measured=1e9))  # the target, which is told once, as target
    steps = {step.name: step.rows for step in evidence_steps([stored(ablated("x", moved=moved), circuit)], [])}
    nodes = [row[1] for row in steps["moved"]]
    assert nodes == [LOGIT] + [f"feature/0/1/{n}" for n in range(199, 199 - MOST_MOVED + 1, -1)]
    assert steps["moved"][0][2:] == [-2.0, -1.5]


def test_names_in_evidence_are_values(store, make_circuit, project):
    evil = "'}) MATCH (n) DETACH DELETE n //`"
    circuit = make_circuit()
    store.put_circuit(project(circuit))
    row = stored(ablated(circuit.id, nodes=[FIRST, evil]), circuit).model_copy(update={"author": evil, "battery": evil})
    store.put_evidence(EvidenceProjection(circuit.id, {}, [row], [mark(evil, SECOND, "refuted")]))
    assert rows(store, "MATCH (i:Intervention)-[:PERTURBED]->(n) RETURN i.author, i.battery, n.idx") == [
        [evil, evil, 6]
    ]
