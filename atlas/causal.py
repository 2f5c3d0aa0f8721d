"""Interventions in the real model and measurements of whole circuits: kept as evidence, counted, asked for."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema
from sqlalchemy.orm import Session

from atlas.base import AtlasBase
from atlas.catalog import circuits, interventions, measurements, outbox
from atlas.causal_records import (
    EdgeMark,
    InterventionRequest,
    InterventionResult,
    InterventionRow,
    MeasurementKind,
    MeasurementRow,
)
from atlas.circuit import Circuit
from atlas.errors import NotFound, UsageError
from atlas.records import ImportedSupernode, Record, Table


def _as_dict(value: Any) -> dict[str, Any]:
    if isinstance(value, Record):
        return value.model_dump(exclude_unset=True)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


# A record or the same as a dict; one as the other also over HTTP.
RecordOrDict = Annotated[dict[str, Any] | Record, PlainValidator(_as_dict), WithJsonSchema({"type": "object"})]


class CausalVerbs(AtlasBase):
    """What was done to a circuit's parts in the real model (docs/interventions.md)."""

    def add_intervention(self, result: InterventionResult, battery: str | None = None) -> InterventionRow:
        """Keep one intervention as evidence of its circuit; `battery`: what it is part of, to be found by.

        The circuit's verdict follows its evidence, and the graph is told the mark of a tested edge. Raises NotFound for a circuit
        or a node that is not there, InputRejected for a result without a measurement.
        """
        return self.add_interventions([result], battery)[0]

    def add_interventions(
        self, results: list[InterventionResult], battery: str | None = None
    ) -> Table[InterventionRow]:
        """Keep several interventions in one circuit, all or none, in their order. Raises as `add_intervention`, UsageError."""
        named = {result.request.circuit for result in results}
        ids = {self.resolve(name) for name in named}
        if len(ids) != 1:
            raise UsageError(f"The interventions are in {len(ids)} circuits.", "Keep those of one circuit at a time.")
        circuit_id = ids.pop()
        checked = [interventions.checked(result) for result in results]
        circuit = self._load(circuit_id)
        for result in checked:
            for key in result.nodes:
                circuit.row(key)

        def work(session: Session) -> tuple[list[InterventionRow], list[int]]:
            circuits.get(session, circuit_id)  # deleted meanwhile
            interventions.lock(session, circuit_id)
            made = interventions.put(session, circuit_id, checked, battery)
            interventions.settle(session, circuit_id)
            found = {row.id: row for row in interventions.rows(session, circuit_id, ids=made)}
            return [found[one] for one in made], [outbox.announce(session, "evidence", circuit_id, interventions=made)]

        rows, announced = self._write(work)
        self._project(announced)
        return Table(rows)

    def interventions(
        self, circuit: str, node: str | None = None, battery: str | None = None, limit: int | None = 100
    ) -> Table[InterventionRow]:
        """Those in one circuit, newest first; `node`: only those that changed this node. Raises NotFound, Ambiguous."""
        _check_limit(limit)
        circuit_id = self.resolve(circuit)
        if node is not None:
            self._load(circuit_id).row(node)
        with self.catalog.read() as session:
            return Table(interventions.rows(session, circuit_id, node, battery, limit))

    def intervention(self, intervention_id: str) -> InterventionRow:
        """One intervention by its id. Raises NotFound."""
        with self.catalog.read() as session:
            return interventions.get(session, intervention_id)

    def edge_marks(self, circuit: str) -> Table[EdgeMark]:
        """What the newest test of every tested edge said, newest first; an edge that is not here is untested."""
        circuit_id = self.resolve(circuit)
        with self.catalog.read() as session:
            return Table(interventions.edge_marks(session, circuit_id))

    def add_measurement(self, circuit: str, kind: MeasurementKind, document: RecordOrDict) -> MeasurementRow:
        """Keep a verification (VerifyResult) or faithfulness curves (FaithfulnessResult) of a circuit.

        A verification changes the circuit's verdict, which is kept in it. Raises NotFound, UsageError for an unknown kind,
        InputRejected for a document that is not of that kind.
        """
        circuit_id = self.resolve(circuit)
        checked = measurements.checked(kind, document)

        def work(session: Session) -> tuple[MeasurementRow, list[int]]:
            before = circuits.get(session, circuit_id).verdict
            interventions.lock(session, circuit_id)
            entry = measurements.put(session, circuit_id, kind, checked)
            if kind != "verification":
                return measurements.row(entry), []
            word = interventions.settle(session, circuit_id)
            entry.document = entry.document | {"verdict": word}
            announced = [outbox.announce(session, "evidence", circuit_id, interventions=[])] if word != before else []
            return measurements.row(entry), announced

        row, announced = self._write(work)
        self._project(announced)
        return row

    def measurements(
        self, circuit: str | None = None, kind: MeasurementKind | None = None, limit: int | None = 100
    ) -> Table[MeasurementRow]:
        """Verifications and faithfulness curves, newest first. Raises NotFound, Ambiguous."""
        _check_limit(limit)
        circuit_id = self.resolve(circuit) if circuit is not None else None
        with self.catalog.read() as session:
            return Table(measurements.rows(session, circuit_id, kind, limit))


def check_intervention(
    circuit: Circuit, supernodes: list[ImportedSupernode], request: InterventionRequest
) -> list[str]:
    """The keys of the nodes that a request means. Raises UsageError or NotFound for one that cannot be done in this circuit."""
    if bool(request.nodes) == (request.supernode is not None):
        raise UsageError("An intervention needs either nodes or a supernode.", "Pass one of the two.")
    for kind, field in (("scale", "factor"), ("steer", "value"), ("patch", "prompt")):
        given = getattr(request, field) is not None
        if given != (request.kind == kind):
            what = "needs" if request.kind == kind else "takes no"
            raise UsageError(f"To {request.kind} {what} {field}.", f"`{field}` is for the kind {kind}.")
    nodes = list(request.nodes)
    if request.supernode is not None:
        if request.kind == "cut":
            raise UsageError("A supernode cannot be cut.", "Name the nodes of an edge or a path.")
        found = [group for group in supernodes if group.name == request.supernode]
        if len(found) != 1:
            names = ", ".join(repr(group.name) for group in supernodes[:5]) or "none"
            raise NotFound(
                f"The circuit has {len(found) or 'no'} supernode{'s' * (len(found) > 1)} {request.supernode!r}.",
                f"It has: {names}. Nodes may be named by their keys instead.",
            )
        nodes = list(found[0].node_keys)
    for key in nodes:
        circuit.row(key)
    if len(set(nodes)) < len(nodes):
        raise UsageError("A node is named twice.", "Name each node once.")
    if request.kind == "cut" and len(nodes) < 2:
        raise UsageError("A cut needs two nodes or more.", "Name the source first and the target last.")
    if request.kind == "patch" and not (request.prompt or "").strip():
        raise UsageError("The prompt to take values from is blank.", "Pass some text.")
    if request.prompts is not None and not all(prompt.strip() for prompt in request.prompts):
        raise UsageError("One of the prompts is blank.", "Leave it out.")
    return nodes


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 0:
        raise UsageError(f"The limit is {limit}, which is below 0.", "Pass a limit of 0 or more.")
