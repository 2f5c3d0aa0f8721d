"""Putting and deleting, interrupted anywhere: the aggregates always equal a full recompute of what is there."""

from __future__ import annotations

import math
import random
import threading
from collections import Counter

import numpy as np
import pytest

from atlas.circuit import Circuit
from atlas.graph import GraphStore, cypher, loading
from atlas.graph.influences import influence_rows, recomputed
from atlas.graph.projection import Step, batches
from tests.graph.random_circuits import random_circuit


class Interrupted(BaseException):
    """Stands for the death of the process between two transactions."""


def interrupt_after(connection, writes: int):
    """The connection's `write`, which dies before its (writes + 1)th transaction."""
    real, done = type(connection).write.__get__(connection), 0

    def write(work):
        nonlocal done
        if done == writes:
            raise Interrupted
        done += 1
        return real(work)

    return write


@pytest.fixture
def in_pieces(monkeypatch):
    """Every circuit is loaded like a huge one: a transaction per batch of a few rows."""
    monkeypatch.setattr(loading, "SINGLE_TRANSACTION_EDGES", 0)
    monkeypatch.setattr(loading, "SINGLE_TRANSACTION_ROWS", 0)
    monkeypatch.setattr(loading, "BATCH_ROWS", dict.fromkeys(loading.BATCH_ROWS, 7))
    monkeypatch.setattr(loading, "DELETE_NODES", 4)


def check_aggregates(store: GraphStore, counted: list[Circuit]) -> None:
    """INFLUENCES and Feature.circuits against a recompute from the circuits that are in and counted."""
    found = {
        (row["source"], row["target"], row["method"], row["unit"]): row
        for row in store._connection.read(cypher.ALL_INFLUENCES)
    }
    wanted = recomputed(counted)
    assert found.keys() == wanted.keys()
    for key, values in wanted.items():
        for name, value in values.items():
            # Taking a large value out of a mean leaves a rounding error of the size of that value.
            assert math.isclose(found[key][name], value, rel_tol=1e-9, abs_tol=1e-7), (key, name)
    circuits = Counter(
        key for circuit in counted for key in {circuit.feature_key(row) for row in range(len(circuit.nodes))} - {None}
    )
    rows = store.read("MATCH (f:Feature) RETURN f.key, f.circuits", limit=10_000, timeout=30).rows
    assert {key: count for key, count in rows if count} == circuits


def test_any_sequence_of_puts_and_deletes_dying_anywhere_ends_right(store, project, in_pieces):
    chance = random.Random(17)
    circuits = [random_circuit(seed, prompt=seed // 2) for seed in range(6)]
    wanted: dict[str, bool] = {}  # circuit id: counted
    connection = store._connection
    real = connection.write
    for _ in range(25):
        circuit = chance.choice(circuits)
        connection.write = interrupt_after(connection, chance.randrange(25)) if chance.random() < 0.7 else real
        delete = circuit.id in wanted and chance.random() < 0.4
        counted = chance.random() < 0.7
        for attempt in range(2):
            try:
                if delete:
                    store.delete_circuit(circuit.id, project(circuit) if chance.random() < 0.5 else None)
                    wanted.pop(circuit.id)
                else:
                    store.put_circuit(project(circuit, counted=counted))
                    wanted[circuit.id] = counted
                break
            except Interrupted:
                connection.write = real  # the next process, which may be told something else
                if chance.random() < 0.3:
                    delete = not delete
                    wanted.setdefault(circuit.id, False)
                assert attempt == 0
    connection.write = real

    assert store.circuit_ids() == dict.fromkeys(wanted, "ready")
    check_aggregates(store, [circuit for circuit in circuits if wanted.get(circuit.id)])
    for circuit_id in list(wanted):
        store.delete_circuit(circuit_id)
    assert store.read("MATCH (n) WHERE NOT n:Meta RETURN n", limit=5, timeout=30).rows == []


def test_a_circuit_is_not_ready_before_its_last_write(store, project, in_pieces):
    circuit = random_circuit(1)
    connection, real = store._connection, store._connection.write
    writes = 0
    while True:
        connection.write = interrupt_after(connection, writes)
        try:
            store.put_circuit(project(circuit))
            break
        except Interrupted:
            assert store.circuit_ids().get(circuit.id, "loading") == "loading"
        connection.write = real
        store.delete_circuit(circuit.id)
        writes += 3
    connection.write = real

    assert store.circuit_ids() == {circuit.id: "ready"}
    assert writes > 10
    check_aggregates(store, [circuit])


def test_a_half_deleted_circuit_can_be_put_again(store, project, in_pieces):
    circuit = random_circuit(1)
    store.put_circuit(project(circuit))
    connection, real = store._connection, store._connection.write
    connection.write = interrupt_after(connection, 6)
    with pytest.raises(Interrupted):
        store.delete_circuit(circuit.id)
    connection.write = real
    assert store.circuit_ids() == {circuit.id: "deleting"}

    store.put_circuit(project(circuit))

    check_aggregates(store, [circuit])


def test_in_one_transaction_or_in_many_the_graph_is_the_same(store, project, monkeypatch):
    circuit = random_circuit(3, nodes=60, edges=300)
    everything = (
        "MATCH (a:Node)-[e:ATTRIBUTES]->(b) RETURN a.key AS a, b.key AS b, e.weight AS w, e.share AS s, e.slot AS slot, "
        "a.idx AS i, a.layer AS l, a.position AS p, a.token AS t ORDER BY a, b, w"
    )
    store.put_circuit(project(circuit))
    whole = store.read(everything, limit=1000, timeout=30).rows
    store.delete_circuit(circuit.id)
    monkeypatch.setattr(loading, "SINGLE_TRANSACTION_EDGES", 0)
    monkeypatch.setattr(loading, "SINGLE_TRANSACTION_ROWS", 0)
    monkeypatch.setattr(loading, "BATCH_ROWS", dict.fromkeys(loading.BATCH_ROWS, 50))

    store.put_circuit(project(circuit))

    assert store.read(everything, limit=1000, timeout=30).rows == whole
    assert len(whole) == 301


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("again", range(6))  # a lost update showed in one of ten
def test_two_writers_of_the_same_features_lose_and_double_nothing(
    store, graph_settings, project, request, pieces, again
):
    if pieces:
        request.getfixturevalue("in_pieces")
    circuits = [random_circuit(seed) for seed in range(8)]
    errors = []

    def load(mine):
        other = GraphStore.connect(graph_settings, dimension=4, encoder="test-encoder")
        try:
            for circuit in mine:
                other.put_circuit(project(circuit))
        except BaseException as error:
            errors.append(error)
        finally:
            other.close()

    # Both also load circuit 0, as two processes that drain the same outbox would.
    threads = [threading.Thread(target=load, args=(circuits[i : 4 + i] + circuits[:1],)) for i in (0, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert store.circuit_ids() == {circuit.id: "ready" for circuit in circuits}
    check_aggregates(store, circuits)
    (attributes,) = store.read("MATCH ()-[e:ATTRIBUTES]->() RETURN count(e)", limit=5, timeout=30).rows
    assert attributes == [8 * 41]


def test_what_is_taken_back_without_the_circuit_equals_what_it_added(store, project):
    circuit = random_circuit(5, nodes=40, edges=400)
    store.put_circuit(project(circuit))

    steps = loading._read_back(store._connection, circuit.id)

    assert steps == project(circuit).aggregates


@pytest.mark.slow
def test_a_circuit_of_250000_edges_loads_and_goes(store, project):
    circuit = random_circuit(1, nodes=1_000, edges=250_000, features=60)

    store.put_circuit(project(circuit))

    assert store.circuit_ids() == {circuit.id: "ready"}
    check_aggregates(store, [circuit])
    store.delete_circuit(circuit.id)
    assert store.read("MATCH (n) WHERE NOT n:Meta RETURN n", limit=5, timeout=60).rows == []


def test_a_pair_at_several_positions_counts_once_per_circuit(make_circuit):
    """Weights 1 and 3 between the same two features at two positions: mean 2, positive, shares 1/1 and 3/3."""
    circuit = make_circuit("a b")
    circuit.nodes.kind[:] = 0
    circuit.nodes.layer[:] = [0, 0, 1, 1]
    circuit.nodes.position[:] = [0, 1, 0, 1]
    circuit.nodes.index[:] = [6, 6, 7, 7]
    circuit.nodes.input_abs_total[:] = [0, 0, 1, 3]
    circuit.edges.source[:], circuit.edges.target[:] = [0, 1, 1], [2, 3, 3]
    circuit.edges.weight[:] = [1, 3, 3]

    ((source, target, share, weight, positive),) = influence_rows(circuit)

    assert (source, target) == ("toy/toy-set/0/6", "toy/toy-set/1/7")
    assert (share, weight, positive) == (1.0, pytest.approx(7 / 3), 1.0)


def test_batches_cut_any_stretch_of_the_rows_at_step_borders():
    steps = [Step("a", list("pqrst")), Step("b", []), Step("c", list("xyz"))]
    sizes = {"a": 2, "b": 2, "c": 2}

    cut = [(batch.name, "".join(batch.rows), batch.begin, batch.end) for batch in batches(steps, sizes, 1, 7)]

    assert cut == [("a", "qr", 1, 3), ("a", "st", 3, 5), ("c", "xy", 5, 7)]
    for begin in range(9):
        for end in range(begin, 9):
            rows = [row for batch in batches(steps, sizes, begin, end) for row in batch.rows]
            assert rows == list("pqrstxyz")[begin:end]


def test_unknown_numbers_are_left_out_of_the_graph(make_circuit, project):
    rows = project(make_circuit()).steps[0].rows

    assert "activation" not in rows[0]
    assert rows[1]["activation"] == 2.0
    assert all(not (isinstance(value, float) and np.isnan(value)) for row in rows for value in row.values())
