"""The rows of `workers`: who takes jobs, on which device, and when it was last alive."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from atlas.catalog.tables import Worker
from atlas.catalog.values import now
from atlas.group_records import WorkerRow

HEARTBEAT_SECONDS = 5.0
LOST_SECONDS = 60.0  # without a sign of life for so long a worker is given up, whatever else speaks for it


def rows(session: Session) -> list[WorkerRow]:
    """All that ever ran, the living first, each by name."""
    found = [_record(row) for row in session.scalars(select(Worker).order_by(Worker.name))]
    return sorted(found, key=lambda worker: worker.state in ("lost", "stopped"))


def alive(session: Session) -> int:
    """Workers that run now."""
    return sum(worker.state in ("idle", "busy") for worker in rows(session))


def get(session: Session, name: str) -> Worker | None:
    return session.get(Worker, name)


def start(session: Session, name: str, instance: str, host: str, pid: int, device: str, version: str) -> None:
    """Sign in; the row of an earlier worker of that name is taken over."""
    row = session.get(Worker, name)
    if row is None:
        row = Worker(name=name)
        session.add(row)
    row.instance, row.host, row.pid, row.device, row.version = instance, host, pid, device, version
    row.model, row.job, row.started_at, row.alive_at, row.stopped_at = "", None, now(), now(), None


def beat(session: Session, name: str, instance: str, model: str, job: str | None) -> bool:
    """A sign of life. False: another process goes by this name now."""
    values = {"alive_at": now(), "model": model, "job": job, "stopped_at": None}
    query = update(Worker).where(Worker.name == name, Worker.instance == instance).values(**values)
    return bool(session.execute(query).rowcount)  # type: ignore[attr-defined]


def stop(session: Session, name: str, instance: str) -> None:
    query = update(Worker).where(Worker.name == name, Worker.instance == instance)
    session.execute(query.values(stopped_at=now(), job=None))


def silent_for(row: Worker) -> timedelta:
    """How long ago the last sign of life is. Clocks of the hosts are taken to agree to a few seconds."""
    return datetime.now(UTC) - datetime.fromisoformat(row.alive_at)


def _record(row: Worker) -> WorkerRow:
    if row.stopped_at is not None:
        state = "stopped"
    elif silent_for(row).total_seconds() > LOST_SECONDS / 2:
        state = "lost"
    else:
        state = "busy" if row.job else "idle"
    return WorkerRow(
        name=row.name,
        host=row.host,
        pid=row.pid,
        device=row.device,
        model=row.model,
        job=row.job,
        state=state,  # type: ignore[arg-type]
        version=row.version,
        started_at=row.started_at,
        alive_at=row.alive_at,
    )
