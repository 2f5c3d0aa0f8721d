"""Interventions and measurements of a bundle into the catalog; the verdicts of their circuits follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from atlas.bundle.lines import InterventionLine, MeasurementLine
from atlas.bundle.merge import Signer, Tally, signed_by
from atlas.catalog import interventions, measurements, outbox
from atlas.catalog.tables import Intervention, Measurement


def merge_interventions(session: Session, batch: Sequence[InterventionLine], sign: Signer) -> Tally:
    known = set(session.scalars(select(Intervention.id).where(Intervention.id.in_([line.id for line in batch]))))
    fresh = [line for line in batch if line.id not in known]
    tally = Tally(added=Counter(interventions=len(fresh)), known=Counter(interventions=len(known)))
    rows = []
    for line in fresh:
        result = interventions.checked(line.document)
        rows.append(
            {"id": line.id} | interventions.columns(result, line.circuit_id, line.battery) | signed_by(line, sign)
        )
    if rows:
        session.execute(insert(Intervention), rows)
    _settle(session, fresh, tally)
    return tally


def merge_measurements(session: Session, batch: Sequence[MeasurementLine], sign: Signer) -> Tally:
    known = set(session.scalars(select(Measurement.id).where(Measurement.id.in_([line.id for line in batch]))))
    fresh = [line for line in batch if line.id not in known]
    tally = Tally(added=Counter(measurements=len(fresh)), known=Counter(measurements=len(known)))
    rows = []
    for line in fresh:
        document = measurements.checked(line.measurement, line.document).model_dump(mode="json")
        row = {"id": line.id, "circuit_id": line.circuit_id, "kind": line.measurement, "document": document}
        rows.append(row | signed_by(line, sign))
    if rows:
        session.execute(insert(Measurement), rows)
    _settle(session, fresh, tally)
    return tally


def _settle(session: Session, fresh: Iterable[InterventionLine | MeasurementLine], tally: Tally) -> None:
    """Evidence that comes in counts as what was there; the graph is told what is new."""
    for circuit_id in sorted({line.circuit_id for line in fresh}):
        interventions.lock(session, circuit_id)
        interventions.settle(session, circuit_id)
        ids = [line.id for line in fresh if line.circuit_id == circuit_id and isinstance(line, InterventionLine)]
        tally.announced.append(outbox.announce(session, "evidence", circuit_id, interventions=ids))
