"""How long jobs will take, from like jobs that ended."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from sqlalchemy import select
from sqlalchemy.orm import Session

from atlas.catalog import workers
from atlas.catalog.tables import Job

RECENT = 50  # ended jobs that an estimate is made from


@dataclass(frozen=True)
class Speed:
    """What jobs of one group took: seconds a job, and for traces seconds a token and tokens a character of a prompt."""

    per_job: float
    per_token: float | None = None
    tokens_per_character: float | None = None

    def of(self, prompt: str | None, token_ids: list[int] | None) -> float:
        """Seconds for one prompt."""
        if self.per_token is None:
            return self.per_job
        if token_ids is not None:
            return self.per_token * len(token_ids)
        if prompt is None or self.tokens_per_character is None:
            return self.per_job
        return self.per_token * max(1.0, self.tokens_per_character * len(prompt))


def speed(session: Session, kind: str, group_key: str) -> Speed | None:
    """None when no job of this kind and group has ended yet. Traces that were in the atlas already do not count."""
    like = (Job.kind == kind, Job.group_key == group_key, Job.state == "done")
    query = select(Job).where(*like).order_by(Job.finished_at.desc())
    took: list[float] = []
    per_token: list[float] = []
    tokens = characters = 0
    for job in session.scalars(query.limit(RECENT)):
        result = job.result or {}
        if result.get("already") or job.started_at is None or job.finished_at is None:
            continue
        seconds = (datetime.fromisoformat(job.finished_at) - datetime.fromisoformat(job.started_at)).total_seconds()
        took.append(seconds)
        number = (result.get("settings") or {}).get("tokens")
        if number:
            per_token.append(seconds / number)
            if job.arguments.get("prompt"):
                tokens += number
                characters += len(job.arguments["prompt"])
    if not took:
        return None
    return Speed(  # medians: the first job of a worker also loads the model
        per_job=median(took),
        per_token=median(per_token) if per_token else None,
        tokens_per_character=tokens / characters if characters else None,
    )


def speeds(session: Session, likes: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Speed | None]:
    """By (kind, group)."""
    return {like: speed(session, *like) for like in set(likes)}


def seconds_left(session: Session, jobs: Iterable[Job]) -> dict[str, float]:
    """Seconds until each of these is done, by id, as far as it can be told; the workers that run now share the work."""
    wanted = [job for job in jobs if job.state in ("queued", "running")]
    if not wanted:
        return {}
    hands = max(1, workers.alive(session))
    ahead = list(
        session.execute(
            select(Job.id, Job.kind, Job.group_key).where(Job.state == "queued").order_by(Job.priority.desc(), Job.id)
        )
    )
    running = list(session.scalars(select(Job).where(Job.state == "running")))
    known = speeds(session, [(kind, key) for _, kind, key in ahead] + [(job.kind, job.group_key) for job in running])
    left: dict[str, float] = {}
    total = 0.0
    for job in running:
        rest = _rest(job, known[job.kind, job.group_key])
        if rest is not None:
            left[job.id] = rest
            total += rest
    for job_id, kind, key in ahead:
        its = known[kind, key]
        if its is None:
            break  # nothing can be said about those behind it either
        total += its.per_job
        left[job_id] = total / hands
    ids = {job.id for job in wanted}
    return {job_id: round(seconds, 1) for job_id, seconds in left.items() if job_id in ids}


def _rest(job: Job, like: Speed | None) -> float | None:
    """Seconds that a running job still needs: by its progress when that says something, else by like jobs."""
    began = datetime.fromisoformat(job.started_at) if job.started_at else datetime.now(UTC)
    spent = (datetime.now(UTC) - began).total_seconds()
    if job.total > 0 and job.done > 0:
        return max(0.0, spent * (job.total - job.done) / job.done)
    if like is None:
        return None
    return max(0.0, like.of(job.arguments.get("prompt"), job.arguments.get("token_ids")) - spent)


def group_of(*parts: str) -> str:
    """The group key of jobs that need the same model and set."""
    return json.dumps(parts, ensure_ascii=False)
