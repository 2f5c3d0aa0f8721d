"""Putting a circuit into the graph and taking it out again: exactly once, resumable, reversible.

The Circuit node carries two counters: `loaded`, how many rows of its structure are in, and `aggregated`, how many rows of
what it adds to shared records (Feature.circuits, INFLUENCES) are in. A counter moves in the same transaction as its rows,
so that after a kill at any moment the next run goes on behind the last row that is in, forwards or backwards. `status` is
`loading`, then `ready` as the last write of a load; `deleting` from the first write of a deletion until the node is gone.
A load is one transaction where the server's memory allows it (SINGLE_TRANSACTION_ROWS, every circuit measured so far).
Above, the structure is one transaction and the aggregates go in batches; above SINGLE_TRANSACTION_EDGES every batch is a
transaction, so that nodes of a circuit that is not `ready` can be seen by Cypher that does not ask for its status.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

import neo4j

from atlas.errors import StoreUnavailable
from atlas.graph import cypher
from atlas.graph.connection import Connection
from atlas.graph.evidence import EvidenceProjection
from atlas.graph.influences import pooled
from atlas.graph.projection import Batch, CircuitProjection, Step, batches, total

SINGLE_TRANSACTION_EDGES = 200_000
SINGLE_TRANSACTION_ROWS = 100_000  # 200,000 edges with as many pairs are too much for a heap of 768 MB
BATCH_ROWS = {
    "nodes": 2_000,
    "attributes": 5_000,
    "features": 1_000,
    "components": 1_000,
    "heads": 1_000,
    "counts": 5_000,
    "influences": 2_500,
    "interventions": 1_000,
    "perturbed": 2_500,
    "moved": 2_500,
    "marks": 2_500,
}
DELETE_NODES = 500
DELETE_INTERVENTIONS = 500  # each with up to 50 relationships and more


def put_circuit(connection: Connection, projection: CircuitProjection) -> None:
    """Returns when the circuit is ready and its share of the aggregates is complete."""
    steps, aggregates = projection.steps, projection.aggregates
    target = total(aggregates) if projection.counted else 0
    together = total(steps) + target + total(projection.evidence) <= SINGLE_TRANSACTION_ROWS

    def begin(tx: neo4j.Transaction) -> dict[str, Any]:
        """All of the load, or all of the structure, or nothing yet: as much as fits into one transaction."""
        progress = _begin(tx, projection)
        if progress["status"] != "deleting" and len(projection.circuit.edges) <= SINGLE_TRANSACTION_EDGES:
            for batch in batches(steps, BATCH_ROWS, progress["loaded"], total(steps)):
                _put(tx, projection, batch)
            tx.run(cypher.SET_LOADED, {"id": projection.id, "to": total(steps)}).consume()
            if together:
                _move(tx, projection, progress["aggregated"], target)
                _put_evidence(tx, projection.id, projection.evidence)
                _finish(tx, projection)
        return progress

    progress = connection.write(begin)
    if progress["status"] == "deleting":
        delete_circuit(connection, projection.id, projection)
        progress = connection.write(begin)
        if progress["status"] == "deleting":
            raise StoreUnavailable(f"The circuit {projection.id} is being deleted by another process.", "Try again.")
    if len(projection.circuit.edges) > SINGLE_TRANSACTION_EDGES:
        _load_in_pieces(connection, projection, progress["loaded"])
    elif together:
        return
    _move_in_pieces(connection, projection.id, _pool_of(projection), aggregates, target)
    _put_evidence_in_pieces(connection, projection.id, projection.evidence)
    connection.write(lambda tx: _finish(tx, projection))


def describe_circuit(
    connection: Connection, circuit_id: str, properties: dict[str, Any], supernode_rows: list[dict[str, Any]]
) -> bool:
    """Other properties and supernodes for a circuit that is ready, whatever its size; False when there is none."""

    def work(tx: neo4j.Transaction) -> bool:
        progress = _lock(tx, circuit_id)
        if progress is None or progress["status"] != "ready":
            return False
        _put_supernodes(tx, circuit_id, supernode_rows)
        tx.run(cypher.SET_CIRCUIT, {"id": circuit_id, "properties": properties}).consume()
        return True

    return connection.write(work)


def put_evidence(connection: Connection, evidence: EvidenceProjection) -> bool:
    """Interventions, marks of edges and properties for a circuit that is ready; False when there is none.

    Everything but the removal of what a `whole` one replaces may be repeated without a trace; a kill after that removal
    leaves less than all, so the caller must come again.
    """

    def work(tx: neo4j.Transaction) -> bool:
        progress = _lock(tx, evidence.circuit_id)
        if progress is None or progress["status"] != "ready":
            return False
        tx.run(cypher.SET_CIRCUIT, {"id": evidence.circuit_id, "properties": evidence.properties}).consume()
        if together:
            _put_evidence(tx, evidence.circuit_id, steps)
        return True

    steps = evidence.steps
    together = total(steps) <= SINGLE_TRANSACTION_ROWS and not evidence.whole
    if evidence.whole:
        _delete_interventions(connection, evidence.circuit_id)
    if not connection.write(work):
        return False
    if not together:
        _put_evidence_in_pieces(connection, evidence.circuit_id, steps)
    return True


def _put_evidence(tx: neo4j.Transaction, circuit_id: str, steps: list[Step]) -> None:
    for batch in batches(steps, BATCH_ROWS, 0, total(steps)):
        parameters = {"rows": batch.rows, "prefix": circuit_id + "/"}
        tx.run(cypher.PUT_EVIDENCE[batch.name], parameters).consume()


def _put_evidence_in_pieces(connection: Connection, circuit_id: str, steps: list[Step]) -> None:
    for batch in batches(steps, BATCH_ROWS, 0, total(steps)):
        piece = [Step(batch.name, batch.rows)]

        def put(tx: neo4j.Transaction, piece: list[Step] = piece) -> None:
            progress = _lock(tx, circuit_id)
            if progress is not None and progress["status"] != "deleting":
                _put_evidence(tx, circuit_id, piece)

        connection.write(put)


def _delete_interventions(connection: Connection, circuit_id: str) -> None:
    parameters = {"id": circuit_id, "limit": DELETE_INTERVENTIONS}
    while True:
        gone = connection.write(lambda tx: tx.run(cypher.DELETE_INTERVENTIONS, parameters).data())[0]["deleted"]
        if gone < DELETE_INTERVENTIONS:
            return


def _put_supernodes(tx: neo4j.Transaction, circuit_id: str, rows: list[dict[str, Any]]) -> None:
    tx.run(cypher.DELETE_SUPERNODES, {"id": circuit_id}).consume()
    if rows:
        tx.run(cypher.PUT_SUPERNODES, {"id": circuit_id, "rows": rows}).consume()


def _load_in_pieces(connection: Connection, projection: CircuitProjection, begin: int) -> None:
    for batch in batches(projection.steps, BATCH_ROWS, begin, total(projection.steps)):

        def load(tx: neo4j.Transaction, batch: Batch = batch) -> None:
            progress = _lock(tx, projection.id)
            if progress is not None and progress["loaded"] == batch.begin:
                _put(tx, projection, batch)
                tx.run(cypher.SET_LOADED, {"id": projection.id, "to": batch.end}).consume()

        connection.write(load)


def delete_circuit(connection: Connection, circuit_id: str, projection: CircuitProjection | None) -> None:
    """Takes back what the circuit added to the aggregates, then removes it. Nothing happens when it is not there.

    Without `projection` what it added is read back from its own edges in the graph.
    """

    def begin(tx: neo4j.Transaction) -> dict[str, Any] | None:
        progress = _lock(tx, circuit_id)
        if progress is not None:
            tx.run(cypher.SET_STATUS, {"id": circuit_id, "status": "deleting"}).consume()
            tx.run(cypher.DELETE_SUPERNODES, {"id": circuit_id}).consume()
        return progress

    progress = connection.write(begin)
    if progress is None:
        return
    _delete_interventions(connection, circuit_id)
    aggregates: list[Step] = []
    if progress["aggregated"]:
        aggregates = projection.aggregates if projection is not None else _read_back(connection, circuit_id)
        _move_in_pieces(connection, circuit_id, (progress["method"], progress["unit"]), aggregates, 0)

    def remove(tx: neo4j.Transaction) -> bool:
        """Some nodes, and the features and components that nothing else holds; the Circuit itself with the last ones."""
        rows = tx.run(cypher.NODES_TO_DELETE, {"id": circuit_id, "limit": DELETE_NODES}).data()
        tx.run(cypher.DELETE_NODES, {"rows": [row["node"] for row in rows]}).consume()
        shared = sorted({row["shared"] for row in rows} - {None})
        tx.run(cypher.DELETE_UNUSED_FEATURES, {"rows": shared}).consume()
        tx.run(cypher.DELETE_UNUSED_COMPONENTS, {"rows": shared}).consume()
        if len(rows) < DELETE_NODES:
            tx.run(cypher.DELETE_CIRCUIT, {"id": circuit_id}).consume()
        return len(rows) < DELETE_NODES

    while not connection.write(remove):
        pass


def _begin(tx: neo4j.Transaction, projection: CircuitProjection) -> dict[str, Any]:
    parameters = {"id": projection.id, "writer": uuid.uuid4().hex, "properties": projection.properties}
    tx.run(cypher.MAKE_CIRCUIT, parameters).consume()
    return tx.run(cypher.CIRCUIT_PROGRESS, {"id": projection.id}).single(strict=True).data()


def _lock(tx: neo4j.Transaction, circuit_id: str) -> dict[str, Any] | None:
    """Progress, read after a write to the node has locked it (or will make one of two writers fail and start over)."""
    tx.run(cypher.LOCK_CIRCUIT, {"id": circuit_id, "writer": uuid.uuid4().hex}).consume()
    record = tx.run(cypher.CIRCUIT_PROGRESS, {"id": circuit_id}).single()
    return record.data() if record else None


def _put(tx: neo4j.Transaction, projection: CircuitProjection, batch: Batch) -> None:
    parameters = {"rows": batch.rows, "id": projection.id, "prefix": projection.id + "/"}
    tx.run(cypher.PUT[batch.name], parameters).consume()


def _finish(tx: neo4j.Transaction, projection: CircuitProjection) -> None:
    _put_supernodes(tx, projection.id, projection.supernode_rows)
    properties = projection.properties | {"counted": projection.counted}
    tx.run(cypher.SET_CIRCUIT, {"id": projection.id, "properties": properties}).consume()
    tx.run(cypher.SET_STATUS, {"id": projection.id, "status": projection.status}).consume()


def _move(tx: neo4j.Transaction, projection: CircuitProjection, begin: int, target: int) -> None:
    for forwards, batch in moves(projection.aggregates, begin, target):
        _apply(tx, _pool_of(projection), batch, forwards)
    tx.run(cypher.SET_AGGREGATED, {"id": projection.id, "to": target}).consume()


def _move_in_pieces(
    connection: Connection, circuit_id: str, pool: tuple[str, str], aggregates: list[Step], target: int
) -> None:
    progress = connection.write(lambda tx: _lock(tx, circuit_id))
    if progress is None:
        return
    for forwards, batch in moves(aggregates, progress["aggregated"], target):
        begin, end = (batch.begin, batch.end) if forwards else (batch.end, batch.begin)

        def step(tx: neo4j.Transaction, batch=batch, forwards=forwards, begin=begin, end=end) -> None:
            now = _lock(tx, circuit_id)
            if now is not None and now["aggregated"] == begin:
                _apply(tx, pool, batch, forwards)
                tx.run(cypher.SET_AGGREGATED, {"id": circuit_id, "to": end}).consume()

        connection.write(step)


def moves(aggregates: list[Step], begin: int, target: int) -> Iterable[tuple[bool, Batch]]:
    """The batches that bring the aggregates from `begin` rows to `target` rows: (forwards, batch)."""
    if begin <= target:
        return [(True, batch) for batch in batches(aggregates, BATCH_ROWS, begin, target)]
    return [(False, batch) for batch in reversed(list(batches(aggregates, BATCH_ROWS, target, begin)))]


def _apply(tx: neo4j.Transaction, pool: tuple[str, str], batch: Batch, forwards: bool) -> None:
    common = {"method": pool[0], "unit": pool[1]}
    changed = batch.rows if batch.name == "counts" else {row[0] for row in batch.rows}
    tx.run(cypher.LOCK_FEATURES, {"rows": sorted(changed)}).consume()
    if not forwards:
        tx.run(cypher.TAKE[batch.name], common | {"rows": batch.rows}).consume()
    elif batch.name == "influences":
        placed = [[*row, place] for place, row in enumerate(batch.rows)]
        found = {each["place"] for each in tx.run(cypher.ADD_TO_INFLUENCES, common | {"rows": placed}).data()}
        new = [row for place, row in enumerate(batch.rows) if place not in found]
        tx.run(cypher.NEW_INFLUENCES, common | {"rows": new}).consume()
    else:
        tx.run(cypher.PUT[batch.name], common | {"rows": batch.rows}).consume()


def _pool_of(projection: CircuitProjection) -> tuple[str, str]:
    method = projection.circuit.record.method
    return method.name, method.weight_unit


def _read_back(connection: Connection, circuit_id: str) -> list[Step]:
    """The aggregates of a circuit from its own nodes and edges: the same rows as `CircuitProjection.aggregates`."""
    features = [row["key"] for row in connection.read(cypher.FEATURES_OF_CIRCUIT, {"id": circuit_id})]
    edges = connection.read(cypher.INFLUENCES_OF_CIRCUIT, {"id": circuit_id})
    pairs = [(edge["source"], edge["target"]) for edge in edges]
    rows = pooled(pairs, [edge["share"] for edge in edges], [edge["weight"] for edge in edges])
    return [Step("counts", sorted(features)), Step("influences", rows)]
