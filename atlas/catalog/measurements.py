"""What was measured of a whole circuit: verifications and faithfulness curves. Added, never changed; the newest counts."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from atlas.catalog import audit
from atlas.catalog.tables import Measurement
from atlas.catalog.values import jsonable, new_id, now
from atlas.causal_records import FaithfulnessResult, MeasurementKind, MeasurementRow, VerifyResult
from atlas.errors import InputRejected, UsageError

KINDS: tuple[MeasurementKind, ...] = get_args(MeasurementKind)
_RECORDS: dict[str, type[VerifyResult] | type[FaithfulnessResult]] = {
    "verification": VerifyResult,
    "faithfulness": FaithfulnessResult,
}


def checked(kind: str, document: Any) -> VerifyResult | FaithfulnessResult:
    """The document (a record, or one as a dict) as every database holds it. Raises UsageError, InputRejected."""
    if kind not in _RECORDS:
        raise UsageError(f"There is no kind of measurement {kind!r}.", f"Kinds: {', '.join(KINDS)}.")
    try:
        return _RECORDS[kind].model_validate(jsonable(document))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part)[:60] for part in fault["loc"])
        raise InputRejected(f"The {kind} cannot be kept: {place}: {fault['msg']}.", "Measure it again.") from None


def put(
    session: Session, circuit_id: str, kind: MeasurementKind, document: VerifyResult | FaithfulnessResult
) -> Measurement:
    """Keep a document that was `checked`."""
    entry = Measurement(
        id=new_id(),
        circuit_id=circuit_id,
        kind=kind,
        document=document.model_copy(update={"circuit": circuit_id}).model_dump(mode="json"),
        author=audit.actor(session),
        created_at=now(),
    )
    session.add(entry)
    session.flush()
    audit.record(session, "verify" if kind == "verification" else "measure", circuit_id, measurement=entry.id)
    return entry


def newest(session: Session, circuit_id: str, kind: MeasurementKind) -> MeasurementRow | None:
    return next(iter(rows(session, circuit_id, kind, 1)), None)


def rows(
    session: Session, circuit_id: str | None = None, kind: str | None = None, limit: int | None = None
) -> list[MeasurementRow]:
    """Newest first."""
    query = select(Measurement).order_by(Measurement.created_at.desc(), Measurement.id.desc())
    if circuit_id is not None:
        query = query.where(Measurement.circuit_id == circuit_id)
    if kind is not None:
        query = query.where(Measurement.kind == kind)
    return [row(entry) for entry in session.scalars(query if limit is None else query.limit(limit))]


def row(entry: Measurement) -> MeasurementRow:
    return MeasurementRow(
        id=entry.id,
        circuit=entry.circuit_id,
        kind=entry.kind,  # type: ignore[arg-type]
        document=dict(entry.document),
        author=entry.author,
        created_at=entry.created_at,
    )
