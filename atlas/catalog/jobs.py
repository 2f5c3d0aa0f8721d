"""The rows of `jobs`: what was asked of the workers, how far it is, how it ended. They are the truth about a job.

A worker owns a job by (name, attempt): everything it writes is conditional on both and on the state `running`, so a worker
that was given up for dead, or whose job was cancelled, can no longer change anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, case, func, insert, or_, select, update
from sqlalchemy.orm import Session

from atlas.catalog import audit
from atlas.catalog.tables import Job
from atlas.catalog.values import chunks, clean, new_id, now
from atlas.errors import Ambiguous, JobEnded, NotFound, StoreUnavailable
from atlas.group_records import JobDetail, JobRow

WAITING = ("queued", "running")
ENDED = ("done", "failed", "cancelled")
SHORT = 8  # the end of an id is random: so many digits of it are shown, and four or more name a job
_AN_ID = re.compile(r"[0-9a-f]{4,32}")


@dataclass(frozen=True)
class Draft:
    """A job to be queued. Jobs of one `group_key` need the same model; a higher priority is taken first."""

    kind: str
    title: str
    arguments: dict[str, Any]
    group_key: str
    priority: int = 0


@dataclass(frozen=True)
class Claim:
    """A job as the worker that owns it sees it."""

    id: str
    kind: str
    attempt: int
    author: str
    group_key: str
    worker: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def workflow(self) -> str:
        """Id of its durable workflow; another attempt after an end is another workflow."""
        return f"job-{self.id}-{self.attempt}"


def put(session: Session, drafts: Sequence[Draft], batch: str | None, limit: int) -> list[str]:
    """Queue all of them or none. Raises StoreUnavailable when more than `limit` jobs would wait."""
    there = waiting(session)
    if there + len(drafts) > limit:
        raise StoreUnavailable(
            f"The queue is full: {there:,} jobs wait, {len(drafts):,} more would pass the limit of {limit:,}.",
            "Wait, start more workers, cancel jobs, or raise ATLAS_QUEUE_LIMIT.",
        )
    at, author = now(), audit.actor(session)
    ids = [new_id() for _ in drafts]
    rows = [
        {
            "id": job_id,
            "kind": draft.kind,
            "arguments": draft.arguments,
            "title": clean(draft.title),
            "batch": batch,
            "group_key": clean(draft.group_key),
            "priority": draft.priority,
            "state": "queued",
            "attempts": 0,
            "done": 0,
            "total": 0,
            "step": "",
            "author": author,
            "created_at": at,
            "changed_at": at,
        }
        for job_id, draft in zip(ids, drafts, strict=True)
    ]
    for some in chunks(rows):
        session.execute(insert(Job), some)
    kinds = sorted({draft.kind for draft in drafts})
    audit.record(session, "enqueue", ids[0], jobs=len(ids), kinds=kinds, batch=batch)
    return ids


def waiting(session: Session) -> int:
    """Jobs that wait or run."""
    return session.scalar(select(func.count()).select_from(Job).where(Job.state.in_(WAITING))) or 0


def resolve(session: Session, job: str) -> Job:
    """The job of an id, or of a unique beginning or end of one (4 digits or more). Raises NotFound, Ambiguous."""
    text = job.strip().lower()
    if _AN_ID.fullmatch(text):
        found = session.get(Job, text)
        if found is not None:
            return found
        near = or_(Job.id.startswith(text), Job.id.endswith(text))
        rows = list(session.scalars(select(Job).where(near).limit(2)))
        if len(rows) == 1:
            return rows[0]
        if rows:
            raise Ambiguous(f"Several jobs have an id like {text}.", "Write more digits; `atlas jobs` lists them.")
    raise NotFound(f"There is no job {job[:80]!r}.", "`atlas jobs` lists them.")


def rows(
    session: Session,
    state: str | None = None,
    batch: str | None = None,
    author: str | None = None,
    limit: int | None = 100,
) -> list[Job]:
    """Those that run first, then the newest first."""
    query = select(Job).order_by(case((Job.state == "running", 0), else_=1), Job.id.desc())
    for column, value in ((Job.state, state), (Job.batch, batch), (Job.author, author)):
        if value is not None:
            query = query.where(column == value)
    return list(session.scalars(query if limit is None else query.limit(limit)))


def counts(session: Session, batch: str | None = None) -> dict[str, int]:
    """Jobs by state, of all or of one batch; the states without any left out."""
    query = select(Job.state, func.count()).group_by(Job.state)
    if batch is not None:
        query = query.where(Job.batch == batch)
    return {row.state: row[1] for row in session.execute(query)}


def cancel(session: Session, job: Job) -> None:
    """A running job is cancelled at once for everybody; its worker notices at its next report. Raises JobEnded."""
    at = now()
    values = {"state": "cancelled", "finished_at": at, "changed_at": at, "step": ""}
    if not _changed(session, [Job.id == job.id, Job.state.in_(WAITING)], values):
        state = session.scalar(select(Job.state).where(Job.id == job.id))
        raise JobEnded(f"The job {job.id[-SHORT:]} is {state} already and stays so.", _after(state or "", job))
    audit.record(session, "cancel job", job.id)


def retry(session: Session, job: Job) -> None:
    """Queue a failed or cancelled job again, at its old place. Raises JobEnded when it is done, waits or runs."""
    values = _again()
    if not _changed(session, [Job.id == job.id, Job.state.in_(("failed", "cancelled"))], values):
        state = session.scalar(select(Job.state).where(Job.id == job.id))
        hint = _after(state or "", job) if state == "done" else "Only failed and cancelled jobs are tried again."
        raise JobEnded(f"The job {job.id[-SHORT:]} is {state}.", hint)
    audit.record(session, "retry job", job.id)


def cancel_batch(session: Session, batch: str, author: str | None) -> int:
    """Cancel what waits or runs of a batch (only `author`'s, if given); returns how many."""
    at = now()
    values = {"state": "cancelled", "finished_at": at, "changed_at": at, "step": ""}
    changed = _changed(session, _of(batch, author, WAITING), values)
    audit.record(session, "cancel batch", batch, jobs=changed)
    return changed


def retry_batch(session: Session, batch: str, author: str | None) -> int:
    """Queue the failed and cancelled jobs of a batch again (only `author`'s, if given); returns how many."""
    changed = _changed(session, _of(batch, author, ("failed", "cancelled")), _again())
    audit.record(session, "retry batch", batch, jobs=changed)
    return changed


def check_batch(session: Session, batch: str) -> None:
    """Raises NotFound."""
    if session.scalar(select(Job.id).where(Job.batch == batch).limit(1)) is None:
        raise NotFound(f"There is no batch {batch[:80]!r}.", "`atlas jobs` shows the batch of each job.")


# -- what a worker does


def claim(session: Session, worker: str, kinds: Iterable[str], group: str | None = None) -> Claim | None:
    """Take the next queued job: the highest priority, of these one of `group` if given, then the oldest."""
    query = select(Job).where(Job.state == "queued", Job.kind.in_(list(kinds)))
    order: list[Any] = [Job.priority.desc()]
    if group is not None:
        order.append(case((Job.group_key == group, 0), else_=1))
    order.append(Job.id)
    job = session.scalar(query.order_by(*order).limit(1).with_for_update(skip_locked=True))
    if job is None:
        return None
    at = now()
    job.state, job.worker, job.attempts = "running", worker, job.attempts + 1
    job.started_at, job.changed_at, job.step = at, at, "starting"
    return claimed(job)


def any_queued(session: Session, kinds: Iterable[str]) -> bool:
    query = select(Job.id).where(Job.state == "queued", Job.kind.in_(list(kinds))).limit(1)
    return session.scalar(query) is not None


def claimed(job: Job) -> Claim:
    return Claim(job.id, job.kind, job.attempts, job.author, job.group_key, job.worker or "", dict(job.arguments))


def held_by(session: Session, worker: str) -> list[Claim]:
    """The jobs that run at that worker."""
    query = select(Job).where(Job.state == "running", Job.worker == worker).order_by(Job.id)
    return [claimed(job) for job in session.scalars(query)]


def held(session: Session, job_id: str, attempt: int, worker: str) -> Claim | None:
    """That attempt at the job, if it runs at that worker now."""
    query = select(Job).where(Job.id == job_id, Job.attempts == attempt, Job.worker == worker, Job.state == "running")
    job = session.scalar(query)
    return claimed(job) if job is not None else None


def holders(session: Session) -> list[str]:
    """Names of the workers that jobs run at."""
    return sorted(set(session.scalars(select(Job.worker).where(Job.state == "running", Job.worker.is_not(None)))))  # type: ignore[arg-type]


def report(session: Session, claim: Claim, done: int, total: int, step: str) -> bool:
    """Note how far it is. False: the job is not this worker's any more (cancelled, or taken over)."""
    values = {"done": done, "total": total, "step": clean(step)[:200], "changed_at": now()}
    return bool(_changed(session, _owned(claim), values))


def finish(session: Session, claim: Claim, result: dict[str, Any]) -> bool:
    """Done, exactly once. False: the job is not this worker's any more."""
    at = now()
    values = {"state": "done", "result": result, "error": None, "step": "", "finished_at": at, "changed_at": at}
    if not _changed(session, _owned(claim), values):
        return False
    audit.record(session, "job done", claim.id, worker=claim.worker)
    return True


def fail(session: Session, claim: Claim, error: dict[str, str]) -> bool:
    """Failed, with type, message and hint. False: the job is not this worker's any more."""
    at = now()
    values = {"state": "failed", "error": error, "step": "", "finished_at": at, "changed_at": at}
    if not _changed(session, _owned(claim), values):
        return False
    audit.record(session, "job failed", claim.id, worker=claim.worker, error=error["type"])
    return True


def hand_back(session: Session, claim: Claim) -> bool:
    """Queue it again for whoever comes next. False: the job is not this worker's any more."""
    return bool(_changed(session, _owned(claim), _again()))


def reclaim(session: Session, claim: Claim, most: int) -> bool:
    """Take a job from a worker that is dead: queue it again, or, after `most` attempts, let it fail."""
    if claim.attempt >= most:
        error = {
            "type": "WorkerLost",
            "message": f"{claim.attempt} workers in a row died while they did this job; the last was {claim.worker}.",
            "hint": "It may need more memory than they have. `atlas jobs retry` tries again.",
        }
        return fail(session, claim, error)
    if not hand_back(session, claim):
        return False
    audit.record(session, "reclaim job", claim.id, worker=claim.worker)
    return True


# -- as records


def row(job: Job, seconds_left: float | None = None) -> JobRow:
    return JobRow(**_columns(job, seconds_left))


def detail(job: Job, seconds_left: float | None = None) -> JobDetail:
    return JobDetail(**_columns(job, seconds_left), arguments=job.arguments, result=job.result)


def _columns(job: Job, seconds_left: float | None) -> dict[str, Any]:
    error = job.error or {}
    return {
        "id": job.id,
        "kind": job.kind,
        "title": job.title,
        "state": job.state,
        "batch": job.batch,
        "done": job.done,
        "total": job.total,
        "step": job.step,
        "seconds_left": seconds_left,
        "worker": job.worker,
        "attempts": job.attempts,
        "author": job.author,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "error": f"{error['message']} {error.get('hint', '')}".strip() if error else None,
        "circuit": (job.result or {}).get("circuit"),
    }


def _again() -> dict[str, Any]:
    return {
        "state": "queued",
        "worker": None,
        "error": None,
        "done": 0,
        "total": 0,
        "step": "",
        "started_at": None,
        "finished_at": None,
        "changed_at": now(),
    }


def _of(batch: str, author: str | None, states: Sequence[str]) -> list[ColumnElement[bool]]:
    conditions = [Job.batch == batch, Job.state.in_(states)]
    return conditions if author is None else [*conditions, Job.author == author]


def _owned(claim: Claim) -> list[ColumnElement[bool]]:
    return [Job.id == claim.id, Job.state == "running", Job.worker == claim.worker, Job.attempts == claim.attempt]


def _changed(session: Session, conditions: Sequence[ColumnElement[bool]], values: dict[str, Any]) -> int:
    query = update(Job).where(*conditions).values(**values).execution_options(synchronize_session=False)
    return session.execute(query).rowcount  # type: ignore[attr-defined,no-any-return]


def _after(state: str, job: Job) -> str:
    circuit = (job.result or {}).get("circuit")
    if state == "done":
        return f"Its circuit is {circuit}; `atlas delete` removes it." if circuit else "Its result is kept."
    return "`atlas jobs retry` queues it again."
