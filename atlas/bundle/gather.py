"""From the catalog to the lines and members of a bundle, in one read transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session

from atlas.bundle.archive import BundleWriter
from atlas.bundle.lines import (
    BACKUP_LINES,
    EXPORT_LINES,
    AnnotationLine,
    AuditLine,
    CircuitLine,
    CollectionLine,
    ConceptLine,
    FactLine,
    InterventionLine,
    JobLine,
    LabelLine,
    Line,
    MeasurementLine,
    MemberPart,
    ModelLine,
    NodeLabelPart,
    Part,
    PersonLine,
    PinPart,
    SupernodePart,
    TokenPart,
    TranscoderSet,
    Version,
)
from atlas.catalog import circuits
from atlas.catalog.audit_log import OF_PEOPLE
from atlas.catalog.tables import (
    AccessToken,
    Annotation,
    Audit,
    Base,
    CircuitEntry,
    CollectionRow,
    Concept,
    Intervention,
    Job,
    Label,
    Measurement,
    Membership,
    Meta,
    ModelAlias,
    ModelRow,
    ModelVersion,
    NodeLabel,
    Person,
    Pin,
    SetAlias,
    SetRow,
    SetVersion,
    Supernode,
)
from atlas.catalog.values import chunks

Report = Callable[[int, int, str], None]
_PART_BYTES = 8 * 2**20  # a member with records is closed when it is longer
_AT_ONCE = 200
# A restored atlas is another one: it must not touch the graph of the first, and its cookies are signed anew.
_OF_THIS_PLACE = {"catalog", "cookie_secret"}


def write_records(session: Session, writer: BundleWriter, report: Report) -> None:
    """All records of the catalog; for an export not those of people, jobs and settings, nor what was done to accounts."""
    whole = writer.manifest.kind == "backup"
    readers = _READERS | {AuditLine: _whole_audit} if whole else _READERS
    for kind in BACKUP_LINES if whole else EXPORT_LINES:
        report(0, 0, kind.kind)
        count = part = size = 0
        lines: list[bytes] = []
        for line in readers[kind](session):
            data = line.model_dump_json(warnings=False).encode()  # JSON columns are plain dicts
            lines.append(data)
            size += len(data)
            count += 1
            if size > _PART_BYTES:
                part += 1
                writer.add(_part_name(kind, part), b"\n".join(lines) + b"\n")
                lines, size = [], 0
        if lines:
            writer.add(_part_name(kind, part + 1), b"\n".join(lines) + b"\n")
        writer.manifest.counts[kind.kind] = count


def _part_name(kind: type[Line], number: int) -> str:
    return f"{kind.kind}/{number:06d}.jsonl"


def write_circuits(session: Session, writer: BundleWriter, report: Report) -> None:
    ids = sorted(circuits.ids(session))
    for number, circuit_id in enumerate(ids):
        report(number, len(ids), circuit_id)
        writer.add(f"circuits/{circuit_id}.safetensors", circuits.blob(session, circuit_id))
    report(len(ids), len(ids), "")


def _rows(session: Session, query: Select[Any]) -> Iterator[Row[Any]]:
    """Streamed: Postgres would otherwise send all of them at once."""
    return iter(session.execute(query.execution_options(yield_per=_AT_ONCE)))


def _columns(table: type[Base], **renamed: str) -> list[Any]:
    """All columns, `renamed` as {column: name in the line}."""
    return [
        getattr(table, column.key).label(renamed.get(column.key, column.key))
        for column in table.__mapper__.column_attrs
    ]


def _filled(line: type[Part], row: Row[Any], **more: Any) -> Any:
    """Not validated: what the catalog holds is written as it is; the reader validates."""
    values = dict(row._mapping) | more
    return line.model_construct(**{name: values[name] for name in line.model_fields})


def _grouped(
    session: Session, table: type[Base], by: InstrumentedAttribute[Any], order: Iterable[Any]
) -> dict[Any, list[Row[Any]]]:
    found: dict[Any, list[Row[Any]]] = defaultdict(list)
    for row in session.execute(select(*_columns(table)).order_by(by, *order)):
        found[row._mapping[by.key]].append(row)
    return found


def _models(session: Session) -> Iterator[ModelLine]:
    versions = _grouped(session, ModelVersion, ModelVersion.model_id, [ModelVersion.revision])
    aliases = _grouped(session, ModelAlias, ModelAlias.model_id, [])
    sets = _grouped(session, SetRow, SetRow.model_id, [SetRow.name])
    set_versions = _grouped(session, SetVersion, SetVersion.set_id, [SetVersion.revision])
    set_aliases = _grouped(session, SetAlias, SetAlias.set_id, [])
    for row in sorted(session.execute(select(*_columns(ModelRow))), key=lambda row: row.name):
        yield _filled(
            ModelLine,
            row,
            versions=[Version(revision=v.revision, hash=v.weights_hash) for v in versions[row.id]],
            aliases=sorted(a.alias for a in aliases[row.id]),
            sets=[
                _filled(
                    TranscoderSet,
                    part,
                    versions=[Version(revision=v.revision, hash=v.hash) for v in set_versions[part.id]],
                    aliases=sorted(a.alias for a in set_aliases[part.id]),
                )
                for part in sets[row.id]
            ],
        )


def _circuits(session: Session) -> Iterator[CircuitLine]:
    for ids in chunks(sorted(circuits.ids(session)), _AT_ONCE):
        labels = _of_circuits(session, NodeLabel, NodeLabelPart, ids, NodeLabel.id)
        groups = _of_circuits(session, Supernode, SupernodePart, ids, Supernode.id)
        pins = _of_circuits(session, Pin, PinPart, ids, Pin.ordinal)
        entries = {entry.id: entry for entry in session.scalars(select(CircuitEntry).where(CircuitEntry.id.in_(ids)))}
        for circuit_id in ids:
            entry = entries[circuit_id]
            yield CircuitLine.model_construct(
                id=circuit_id,
                verdict=entry.verdict,
                counted=entry.counted,
                created_at=entry.created_at,
                created_by=entry.created_by,
                node_labels=labels[circuit_id],
                supernodes=groups[circuit_id],
                pins=pins[circuit_id],
            )
        session.expunge_all()


def _of_circuits(
    session: Session, table: Any, part: type[Part], ids: Iterable[str], order: InstrumentedAttribute[Any]
) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for row in session.execute(select(*_columns(table)).where(table.circuit_id.in_(ids)).order_by(order)):
        found[row.circuit_id].append(_filled(part, row))
    return found


def _interventions(session: Session) -> Iterator[InterventionLine]:
    for row in _rows(session, select(*_columns(Intervention)).order_by(Intervention.id)):
        yield _filled(InterventionLine, row)


def _measurements(session: Session) -> Iterator[MeasurementLine]:
    for row in _rows(session, select(*_columns(Measurement, kind="measurement")).order_by(Measurement.id)):
        yield _filled(MeasurementLine, row)


def _labels(session: Session) -> Iterator[LabelLine]:
    for row in _rows(session, select(*_columns(Label)).order_by(Label.id)):
        yield _filled(LabelLine, row)


def _collections(session: Session) -> Iterator[CollectionLine]:
    members = _grouped(session, Membership, Membership.collection, [Membership.circuit_id])
    for row in sorted(session.execute(select(*_columns(CollectionRow))), key=lambda row: row.name):
        inside = [_filled(MemberPart, member, circuit=member.circuit_id) for member in members[row.name]]
        yield _filled(CollectionLine, row, members=inside)


def _concepts(session: Session) -> Iterator[ConceptLine]:
    for row in sorted(session.execute(select(*_columns(Concept))), key=lambda row: row.name):
        yield _filled(ConceptLine, row)


def _annotations(session: Session) -> Iterator[AnnotationLine]:
    for row in _rows(session, select(*_columns(Annotation, kind="annotation")).order_by(Annotation.id)):
        yield _filled(AnnotationLine, row)


def _audit(session: Session) -> Iterator[AuditLine]:
    return _audit_where(session, Audit.verb.not_in(OF_PEOPLE))


def _whole_audit(session: Session) -> Iterator[AuditLine]:
    return _audit_where(session, true())


def _audit_where(session: Session, kept: ColumnElement[bool]) -> Iterator[AuditLine]:
    for row in _rows(session, select(*_columns(Audit)).where(kept).order_by(Audit.id)):
        yield _filled(AuditLine, row)


def _people(session: Session) -> Iterator[PersonLine]:
    tokens = _grouped(session, AccessToken, AccessToken.person, [AccessToken.id])
    for row in sorted(session.execute(select(*_columns(Person))), key=lambda row: row.name):
        yield _filled(PersonLine, row, tokens=[_filled(TokenPart, token) for token in tokens[row.name]])


def _jobs(session: Session) -> Iterator[JobLine]:
    for row in _rows(session, select(*_columns(Job, kind="job")).order_by(Job.id)):
        yield _filled(JobLine, row)


def _facts(session: Session) -> Iterator[FactLine]:
    for row in sorted(session.execute(select(Meta.key.label("name"), Meta.value)), key=lambda row: row.name):
        if row.name not in _OF_THIS_PLACE and "secret" not in row.name:
            yield _filled(FactLine, row)


_READERS: dict[type[Line], Callable[[Session], Iterator[Line]]] = {
    ModelLine: _models,
    CircuitLine: _circuits,
    InterventionLine: _interventions,
    MeasurementLine: _measurements,
    LabelLine: _labels,
    CollectionLine: _collections,
    ConceptLine: _concepts,
    AnnotationLine: _annotations,
    AuditLine: _audit,
    PersonLine: _people,
    JobLine: _jobs,
    FactLine: _facts,
}
