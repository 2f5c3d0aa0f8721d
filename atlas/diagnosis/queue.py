"""Jobs and workers: jobs that nobody works at any more, and clocks that disagree."""

from __future__ import annotations

import os
import socket
import time
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version

import psutil
from sqlalchemy import text
from sqlalchemy.orm import Session

from atlas.api import Atlas
from atlas.catalog import audit, jobs, workers
from atlas.catalog.jobs import Claim
from atlas.catalog.tables import Worker
from atlas.catalog.workers import HEARTBEAT_SECONDS, LOST_SECONDS
from atlas.diagnosis.check import MEND, Check, told
from atlas.errors import AtlasError
from atlas.group_records import WorkerRow

CLOCK_SECONDS = 5.0  # hosts that agree to this are said to agree
_RECENT = 86_400.0  # a worker silent for longer is not waited for


def examine(atlas: Atlas, mend: bool) -> list[Check]:
    try:
        slow = _slow_clocks(atlas)
        return [_clocks(atlas, slow), _orphans(atlas, mend, alive=set(slow))]
    except AtlasError as error:
        return [told("jobs", error)]


def _clocks(atlas: Atlas, slow: dict[str, float]) -> Check:
    wrong = []
    with atlas.catalog.read() as session:
        found = workers.rows(session)
        if not atlas.catalog.is_sqlite:
            there = session.scalar(text("SELECT clock_timestamp()"))
            skew = (there - datetime.now(UTC)).total_seconds() if there is not None else 0.0
            if abs(skew) > CLOCK_SECONDS:
                wrong.append(
                    f"the database's is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
                )
        for worker in found:
            row = workers.get(session, worker.name)
            skew = -workers.silent_for(row).total_seconds() if row is not None and row.stopped_at is None else 0.0
            if skew > CLOCK_SECONDS:
                wrong.append(
                    f"that of the worker {worker.name} on {worker.host} is {skew:.0f} s ahead of this machine's"
                )
    for name, silent in slow.items():
        wrong.append(f"that of the worker {name} is {silent:.0f} s behind this machine's")
    alive = [worker for worker in found if worker.state in ("idle", "busy") or worker.name in slow]
    if not wrong:
        return _versions(alive, len(found) - len(alive))
    hint = (
        "Set the clocks of these machines by a time server: a worker whose clock is wrong is taken for dead or alive."
    )
    return Check(name="workers", ok=False, found="clocks disagree: " + "; ".join(wrong), hint=hint)


def _versions(alive: list[WorkerRow], gone: int) -> Check:
    ours = version("circuit-atlas")
    other = [f"{worker.name} ({worker.version})" for worker in alive if worker.version != ours]
    if other:
        what = f"{', '.join(other)} of another version than this program ({ours})"
        return Check(name="workers", ok=False, found=what, hint="Upgrade and restart them; their jobs are handed back.")
    return Check(name="workers", ok=True, found=f"{len(alive)} alive, {gone} not")


def _slow_clocks(atlas: Atlas) -> dict[str, float]:
    """Workers that look dead by their stamps but go on giving signs of life, with how far their clocks are behind."""

    def stamps() -> dict[str, tuple[str, float]]:
        with atlas.catalog.read() as session:
            rows = [session.get_one(Worker, worker.name) for worker in workers.rows(session) if worker.state == "lost"]
            found = {row.name: (row.alive_at, workers.silent_for(row).total_seconds()) for row in rows}
        return {name: seen for name, seen in found.items() if seen[1] < _RECENT}

    before = stamps()
    if not before:
        return {}
    time.sleep(HEARTBEAT_SECONDS + 1)
    return {name: silent for name, (at, silent) in stamps().items() if name in before and before[name][0] != at}


def _orphans(atlas: Atlas, mend: bool, alive: set[str]) -> Check:
    """Jobs that run at a worker that is dead or unknown: a living worker would take them over; none may come."""
    found: dict[str, int] = {}
    with atlas.catalog.read() as session:
        holders = set(jobs.holders(session)) - alive
    for name in sorted(holders):
        with atlas.catalog.lock(f"worker-{name}", 0) as free:  # a living worker holds it; none can start meanwhile
            with atlas.catalog.read() as session:
                orphans = jobs.held_by(session, name) if _is_dead(workers.get(session, name), free) else []
            if orphans:
                found[name] = len(orphans)
            if orphans and mend:
                atlas._write(partial(_queue_again, orphans=orphans), "admin")
    if not found:
        return Check(name="jobs", ok=True, found="none without its worker")
    what = f"{sum(found.values())} run at workers that are gone: {', '.join(found)}"
    if not mend:
        return Check(
            name="jobs", ok=False, found=what, hint=f"{MEND} It queues them again; so does a worker that starts."
        )
    return Check(name="jobs", ok=True, found=f"{what}; queued again", mended=True)


def _queue_again(session: Session, orphans: list[Claim]) -> None:
    for held in orphans:
        if jobs.hand_back(session, held):
            audit.record(session, "mend", held.id, queued_again=True)


def _is_dead(row: Worker | None, free: bool) -> bool:
    """`free`: nobody holds the lock of its name."""
    if row is None:
        return True
    silent = workers.silent_for(row).total_seconds()
    if not free:
        return silent > LOST_SECONDS  # a host that hangs or was cut off
    gone = row.host == socket.gethostname() and row.pid != os.getpid() and not psutil.pid_exists(row.pid)
    return row.stopped_at is not None or gone or silent > 3 * HEARTBEAT_SECONDS
