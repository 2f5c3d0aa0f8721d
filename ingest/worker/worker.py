"""The loop of a worker: claim a job, let it run, give signs of life, take back the jobs of dead workers."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, TypeVar

from atlas.api import Atlas
from atlas.catalog import jobs as rows
from atlas.catalog import workers
from atlas.catalog.jobs import Claim
from atlas.catalog.values import new_id
from atlas.errors import AtlasError, SchemaMismatch, StoreUnavailable, UsageError
from ingest.worker import figures, names
from ingest.worker.durable import MAX_RECOVERIES, Durable
from ingest.worker.models import LoadedModels
from ingest.worker.work import JobLost, perform, wait

T = TypeVar("T")
LOG = logging.getLogger("ingest.worker")
KINDS = ("trace", "label", "rebuild", "patch", "components", "faithfulness", "intervene", "verify")
STREAK = 20  # jobs of one model in a row before an older job of another gets its turn
GRACE_SECONDS = 8.0  # a job may go on for so long after SIGTERM before it is handed back; Docker allows 10
_TICK = 0.05
_IDLE = 0.5  # seconds between looks for a new job


class Worker:
    """One process, one device, one job at a time. `run` returns when `stop` was called, or when the queue is empty."""

    def __init__(
        self,
        atlas: Atlas,
        *,
        name: str,
        device: str,
        dtype: str | None = None,
        kinds: Sequence[str] = KINDS,
        grace: float = GRACE_SECONDS,
    ) -> None:
        """device: as torch names it. Raises UsageError for a name or kind that cannot be used."""
        unknown = sorted(set(kinds) - set(KINDS))
        if unknown:
            raise UsageError(f"There is no kind of job {unknown[0]!r}.", f"Kinds: {', '.join(KINDS)}.")
        self.name = names.checked(name)
        self.device = device
        self.kinds = tuple(kinds)
        self.done = 0
        self.hangs = False
        self._atlas = atlas
        self._catalog = atlas.catalog
        self._models = LoadedModels(atlas.settings, device, dtype)
        self._instance = new_id()
        figures.watch_device(device)
        self._grace = grace
        locks = [names.lock_name(name)]
        if device != "cpu":
            locks.append(f"device-{socket.gethostname()}-{device.replace(':', '-')}")
        self._lock = names.NameLock(self._catalog, *locks)
        self._others = names.Others(self._catalog)
        self._stop_at: float | None = None
        self._active: Claim | None = None
        self._ended = threading.Event()
        self._group: str | None = None
        self._streak = 0
        self._durable: Durable | None = None

    def stop(self) -> None:
        """Claim nothing more; the job that runs is handed back unless it ends soon. May be called from a signal handler."""
        self._stop_at = time.monotonic() + self._grace

    def run(self, *, drain: bool = False, most: int | None = None) -> int:
        """Do jobs; returns how many ended here. drain: return when none waits. most: return after so many.

        Raises UsageError when another process goes by this name or works on this device, StoreUnavailable when the catalog
        cannot be reached at the start; later on it waits for it.
        """
        taken = self._lock.acquire()
        if taken is not None:
            raise self._refusal(taken)
        try:
            self._sign_in()
            self._durable = Durable(self._catalog, self.name, self._do, self._end)
            try:
                self._loop(drain, most)
            finally:
                self._durable.close()
                self._sign_out()
        finally:
            self._lock.release()
        return self.done

    # -- the loop, in the main thread

    def _loop(self, drain: bool, most: int | None) -> None:
        beat = look = 0.0
        while True:
            now = time.monotonic()
            try:
                if now >= beat:
                    beat = now + workers.HEARTBEAT_SECONDS
                    self._beat()
                if self._active is not None:
                    self._watch()
                elif self._stop_at is not None or (most is not None and self.done >= most):
                    return
                elif now >= look and not self._claim():
                    if drain and not self._others_wait():
                        return
                    look = now + _IDLE
            except (StoreUnavailable, SchemaMismatch) as error:
                LOG.warning("%s", error)
                self._pause(2.0)
            if self._active is not None:
                self._ended.wait(_TICK)
            else:
                time.sleep(_TICK if look <= now else min(_IDLE, _TICK * 2))

    def _sign_in(self) -> None:
        self._write(
            lambda session: workers.start(
                session,
                self.name,
                self._instance,
                socket.gethostname(),
                os.getpid(),
                self.device,
                version("circuit-atlas"),
            )
        )

    def _sign_out(self) -> None:
        try:
            self._write(lambda session: workers.stop(session, self.name, self._instance))
        except AtlasError as error:  # the silence will say it
            LOG.warning("%s", error)

    def _beat(self) -> None:
        self._lock.keep()
        job = self._active.id if self._active else None
        model = self._models.name
        if not self._write(lambda session: workers.beat(session, self.name, self._instance, model, job)):
            raise UsageError(
                f"Another process goes by the worker name {self.name!r} now.", "Give one of them another --name."
            )
        self._reclaim()
        if self._active is None:
            self._resume()
        else:
            self._check_workflow(self._active)

    def _reclaim(self) -> None:
        """Queue again what runs at workers that are dead."""
        with self._catalog.read() as session:
            others = [name for name in rows.holders(session) if name != self.name]
        for name in others:
            with self._others.if_dead(name) as dead:
                if not dead:
                    continue
                with self._catalog.read() as session:
                    claims = rows.held_by(session, name)
                for claim in claims:
                    if self._write_as(claim.author, lambda s, c=claim: rows.reclaim(s, c, MAX_RECOVERIES)):
                        LOG.warning("job %s is taken from the worker %s, which is dead", claim.id, name)

    def _resume(self) -> None:
        """Go on with a job that the process before this one, of the same name, was at."""
        with self._catalog.read() as session:
            left = rows.held_by(session, self.name)
        if left:
            self._start(left[0])

    def _claim(self) -> bool:
        with self._catalog.read() as session:  # the usual answer is no: a look does not take the write lock
            if not rows.any_queued(session, self.kinds):
                return False
        group = self._group if self._streak < STREAK else None
        claim = self._write(lambda session: rows.claim(session, self.name, self.kinds, group))
        if claim is None:
            return False
        self._streak = self._streak + 1 if claim.group_key == self._group and group is not None else 0
        self._group = claim.group_key
        self._start(claim)
        return True

    def _start(self, claim: Claim) -> None:
        assert self._durable is not None
        LOG.info("job %s (%s of %s), attempt %d", claim.id, claim.kind, claim.author, claim.attempt)
        self._ended.clear()
        self._durable.begin(claim)
        self._active = claim

    def _check_workflow(self, claim: Claim) -> None:
        """Take back a job that runs although DBOS has ended its workflow.

        Its worker died too often, which lets it fail; or the worker stopped while the catalog was down, or DBOS met a fault.
        """
        assert self._durable is not None
        state = self._durable.ended_as(claim)
        if state is None or self._ended.is_set():
            return
        if state == "MAX_RECOVERY_ATTEMPTS_EXCEEDED":
            error = {
                "type": "WorkerLost",
                "message": f"The worker {self.name} died {MAX_RECOVERIES} times while it did this job.",
                "hint": "It may need more memory than there is. `atlas jobs retry` tries again.",
            }
            self._write_as(claim.author, lambda session: rows.fail(session, claim, error))
        else:
            self._write_as(claim.author, lambda session: rows.reclaim(session, claim, MAX_RECOVERIES))
        self._active = None

    def _watch(self) -> None:
        """Look after the job that runs."""
        claim = self._active
        assert claim is not None
        if self._ended.is_set():
            self._active = None
        elif self._stop_at is not None and time.monotonic() >= self._stop_at:
            if self._write_as(claim.author, lambda session: rows.hand_back(session, claim)):
                LOG.info("job %s is handed back", claim.id)
            self.hangs = not self._ended.wait(5.0)  # it ends at its next report
            self._active = None

    def _others_wait(self) -> bool:
        with self._catalog.read() as session:
            return rows.any_queued(session, self.kinds)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._stop_at is None:
            time.sleep(_TICK)

    # -- the steps, in a thread of DBOS

    def _do(self, job_id: str, attempt: int) -> dict[str, Any]:
        try:
            claim = self._patiently(lambda: self._held(job_id, attempt))
            if claim is None:
                return {"lost": True}
            began = time.monotonic()
            outcome = perform(self._atlas, claim, self._models, self._must_stop)
            figures.count(self._atlas, claim, outcome, time.monotonic() - began)
            return outcome
        except JobLost:
            return {"lost": True}

    def _end(self, job_id: str, attempt: int, outcome: dict[str, Any]) -> None:
        try:
            self._patiently(lambda: self._write_end(job_id, attempt, outcome))
        except JobLost:
            pass
        finally:
            if self._active is not None and self._active.id == job_id:
                self._ended.set()

    def _write_end(self, job_id: str, attempt: int, outcome: dict[str, Any]) -> None:
        claim = self._held(job_id, attempt)
        if claim is None or "lost" in outcome:
            LOG.info("job %s is not this worker's any more", job_id)
            return
        if "error" in outcome:
            ended = self._write_as(claim.author, lambda session: rows.fail(session, claim, outcome["error"]))
        else:
            ended = self._write_as(claim.author, lambda session: rows.finish(session, claim, outcome["result"]))
        if ended:
            self.done += 1
            LOG.info("job %s %s", job_id, "failed: " + outcome["error"]["message"] if "error" in outcome else "done")

    def _held(self, job_id: str, attempt: int) -> Claim | None:
        with self._catalog.read() as session:
            return rows.held(session, job_id, attempt, self.name)

    def _patiently(self, work: Callable[[], T]) -> T:
        """Wait for a catalog that is down. Raises JobLost when the worker is to stop."""
        while True:
            try:
                return work()
            except StoreUnavailable as error:
                LOG.warning("%s", error)
                wait(1.0, self._must_stop)

    def _must_stop(self) -> bool:
        return self._stop_at is not None and time.monotonic() >= self._stop_at

    # -- small things

    def _write(self, work: Any) -> Any:
        return self._catalog.write(f"worker {self.name}", work)

    def _write_as(self, author: str, work: Any) -> Any:
        return self._catalog.write(author, work)

    def _refusal(self, taken: str) -> UsageError:
        with self._catalog.read() as session:
            row = workers.get(session, self.name)
        if taken == names.lock_name(self.name):
            where = f" on {row.host} (pid {row.pid})" if row is not None else ""
            return UsageError(f"A worker named {self.name!r} runs already{where}.", "Stop it, or pass another --name.")
        return UsageError(f"A worker uses the device {self.device} of this host already.", "Pass another --device.")
