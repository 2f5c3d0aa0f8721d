"""Interventions in the real model and measurements of whole circuits: kept as evidence, counted, asked for."""

from __future__ import annotations

from sqlalchemy.orm import Session

from atlas.base import AtlasBase
from atlas.catalog import circuits, interventions, measurements, outbox
from atlas.causal_records import (
    EdgeMark,
    InterventionResult,
    InterventionRow,
    MeasurementKind,
    MeasurementRow,
)
from atlas.errors import UsageError
from atlas.records import RecordOrDict, Table


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
        with self.catalog.read() as session:
            ids = {circuits.resolve(session, name) for name in {result.request.circuit for result in results}}
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
        with self.catalog.read() as session:
            circuit_id = circuits.resolve(session, circuit)
            if node is not None:
                self._load(circuit_id).row(node)
            return Table(interventions.rows(session, circuit_id, node, battery, limit))

    def intervention(self, intervention_id: str) -> InterventionRow:
        """One intervention by its id. Raises NotFound."""
        with self.catalog.read() as session:
            return interventions.get(session, intervention_id)

    def edge_marks(self, circuit: str) -> Table[EdgeMark]:
        """What the newest test of every tested edge said, newest first; an edge that is not here is untested."""
        with self.catalog.read() as session:
            return Table(interventions.edge_marks(session, circuits.resolve(session, circuit)))

    def add_measurement(self, circuit: str, kind: MeasurementKind, document: RecordOrDict) -> MeasurementRow:
        """Keep a verification (VerifyResult) or faithfulness curves (FaithfulnessResult) of a circuit.

        A verification changes the circuit's verdict, which is kept in it. Raises NotFound, UsageError for an unknown kind,
        InputRejected for a document that is not of that kind.
        """
        with self.catalog.read() as session:
            circuit_id = circuits.resolve(session, circuit)
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
        with self.catalog.read() as session:
            circuit_id = circuits.resolve(session, circuit) if circuit is not None else None
            return Table(measurements.rows(session, circuit_id, kind, limit))


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 0:
        raise UsageError(f"The limit is {limit}, which is below 0.", "Pass a limit of 0 or more.")
