"""What others added since a time, and when somebody looked last."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from atlas.access import Identity
from atlas.catalog import circuits
from atlas.catalog.tables import Annotation, CircuitEntry, Job, Label, Meta, Person
from atlas.catalog.values import now
from atlas.errors import UsageError
from atlas.group_records import AnnotationRow, JobRow, News

MOST = 50  # rows of each kind; the counts are of all


def since(session: Session, actor: str, time: str | None) -> News:
    """Circuits, labels and annotations by others, own jobs that ended: after `time`, or ever when that is None."""
    asked = now()

    def after(column: Any) -> ColumnElement[bool]:
        return column > (time or "")

    new_circuits = after(CircuitEntry.created_at) & (CircuitEntry.created_by != actor)
    listed = select(CircuitEntry).where(new_circuits).order_by(CircuitEntry.created_at.desc(), CircuitEntry.id.desc())
    annotations = (
        select(Annotation)
        .where(after(Annotation.created_at), Annotation.author != actor)
        .order_by(Annotation.created_at.desc(), Annotation.id.desc())
    )
    jobs = (
        select(Job)
        .where(Job.author == actor, Job.finished_at.is_not(None), after(Job.finished_at))
        .order_by(Job.finished_at.desc(), Job.id.desc())
    )
    return News(
        since=time,
        until=asked,
        circuits=circuits.rows(session, listed.limit(MOST)),
        circuit_count=session.scalar(select(func.count()).select_from(CircuitEntry).where(new_circuits)) or 0,
        labels=session.scalar(
            select(func.count()).select_from(Label).where(after(Label.created_at), Label.author != actor)
        )
        or 0,
        annotations=[annotation_row(each) for each in session.scalars(annotations.limit(MOST))],
        jobs=[job_row(each) for each in session.scalars(jobs.limit(MOST))],
    )


def last_visit(session: Session, identity: Identity) -> str | None:
    """None: not here before."""
    if identity.person:
        person = session.get(Person, identity.name)
        return person.visited_at if person else None
    kept = session.get(Meta, _key(identity))
    return kept.value["at"] if kept else None


def visit(session: Session, identity: Identity, time: str | None = None) -> None:
    """Never in the future, which would hide what is yet to come, and never back."""
    at = max(min(time or now(), now()), last_visit(session, identity) or "")
    if identity.person:
        person = session.get(Person, identity.name)
        if person is not None:
            person.visited_at = at
    else:
        session.merge(Meta(key=_key(identity), value={"at": at}))


def checked_time(text: str) -> str:
    """A time as the catalog stores it, so that texts compare. Raises UsageError."""
    try:
        time = datetime.fromisoformat(text.strip())
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"{text[:40]!r} is not a time.", "Write it as 2026-08-31 or 2026-08-31T14:00 (UTC).") from None
    return time.isoformat(timespec="microseconds")


def checked_limit(limit: int) -> int:
    if not 0 <= limit <= 100_000:
        raise UsageError(f"The limit is {limit}.", "Pass one of 0 to 100,000.")
    return limit


def annotation_row(entry: Annotation) -> AnnotationRow:
    kept = ("id", "thread", "subject", "subject_kind", "kind", "action", "text", "undoes", "author", "created_at")
    return AnnotationRow(**{name: getattr(entry, name) for name in kept}, nodes=list(entry.members))


def job_row(job: Job) -> JobRow:
    kept = (
        "id", "kind", "title", "state", "batch", "done", "total", "step", "worker", "attempts", "author",
        "created_at", "started_at", "finished_at",
    )  # fmt: skip
    fault = job.error or {}
    told = f"{fault.get('message', '')} {fault.get('hint', '')}".strip() or None
    made = (job.result or {}).get("circuit")
    return JobRow(**{name: getattr(job, name) for name in kept}, error=told, circuit=made)


def _key(identity: Identity) -> str:
    return f"visited:{identity.name}"
