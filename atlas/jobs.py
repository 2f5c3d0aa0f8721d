"""Work for the workers: asking for it, watching it, retrying and cancelling it.

These verbs only read and write rows of the catalog; they need neither torch nor dbos (docs/jobs.md). A worker does the work
in the name of who asked for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field
from sqlalchemy.orm import Session

from atlas import access, causal_requests
from atlas.base import AtlasBase
from atlas.catalog import annotations as notes
from atlas.catalog import circuits, job_times, workers
from atlas.catalog import jobs as rows
from atlas.catalog.jobs import Draft
from atlas.catalog.tables import Job
from atlas.catalog.values import clean
from atlas.causal_requests import SHIPPED
from atlas.circuit import Circuit
from atlas.errors import AccessDenied, UsageError
from atlas.group_records import Changed, JobDetail, JobRow, JobState, Queued, TraceRequest, WorkerRow
from atlas.records import ImportedSupernode, Record, RecordOrDict, Table, as_dict
from atlas.settings import Settings

FEW = 10  # so many prompts at once, or less, go before larger batches: somebody waits for them
TITLE = 100  # characters


class LabelRequest(Record):
    """Which features to label, as `atlas label` takes it."""

    model: str | None = None
    labeler: str = "tokens"
    limit: int | None = Field(None, ge=1)
    relabel: bool = False
    texts: list[str] | None = Field(None, max_length=100_000)


class RebuildRequest(Record):
    """How to rebuild the graph projection, as `atlas rebuild` takes it."""

    take_over: bool = False


QueuedKind = Literal["label", "rebuild", "patch", "components", "faithfulness", "intervene", "verify"]
_REQUESTS: dict[str, type[Record]] = {
    "label": LabelRequest,
    "rebuild": RebuildRequest,
    **causal_requests.REQUESTS,
}


class JobVerbs(AtlasBase):
    """Work for the workers: asking for it, watching it, retrying and cancelling it."""

    def enqueue_traces(self, requests: list[TraceRequest], batch: str | None = None) -> Queued:
        """Queue prompts to be traced, all or none; `batch` is a name to find them by.

        Raises UsageError for a request that no worker could do, StoreUnavailable when the queue is full.
        """
        if not requests:
            raise UsageError("There is nothing to queue.", "Pass at least one prompt.")
        for number, request in enumerate(requests, start=1):
            check_request(self.settings, request, f"Prompt {number}: " if len(requests) > 1 else "")
        priority = 1 if len(requests) <= FEW else 0
        drafts = [
            Draft(
                "trace",
                _title(request.prompt if request.prompt is not None else f"tokens {request.token_ids}"),
                request.model_dump(exclude_defaults=True),
                group_of(request),
                priority,
            )
            for request in requests
        ]
        return self._enqueue(drafts, batch)

    def enqueue(self, kind: QueuedKind, arguments: RecordOrDict) -> Queued:
        """Queue a labelling, patching, a component circuit, faithfulness curves, an intervention, a verification or (admins) a
        rebuild. `arguments`: the request, e.g. a VerifyRequest, or the same as a dict.

        Raises UsageError for a request that no worker could do, NotFound or Ambiguous for its circuit or a node, StoreUnavailable
        when the queue is full.
        """
        request = causal_requests.read(kind, as_dict(arguments), _REQUESTS)
        priority = 1
        if kind == "rebuild":
            title, group = "rebuild", job_times.group_of(kind)
        elif isinstance(request, LabelRequest):
            title, group = f"label features{' of ' + request.model if request.model else ''}", job_times.group_of(kind)
            priority = 0
        else:
            request, title, group = causal_requests.prepared(self.settings, request, self._circuit_of)
        given = request.model_dump(mode="json", exclude_defaults=True)
        draft = Draft(kind, _title(title), given, group, priority)
        return self._enqueue([draft], None, "admin" if kind == "rebuild" else "editor")

    def jobs(
        self,
        state: JobState | None = None,
        batch: str | None = None,
        author: str | None = None,
        limit: int | None = 100,
    ) -> Table[JobRow]:
        """Those that run first, then the newest first. Raises UsageError for an unknown state or a negative limit."""
        if state is not None and state not in (*rows.WAITING, *rows.ENDED):
            raise UsageError(f"There is no job state {state!r}.", f"States: {', '.join((*rows.WAITING, *rows.ENDED))}.")
        if limit is not None and limit < 0:
            raise UsageError(f"The limit is {limit}.", "Pass 0 or more.")
        with self.catalog.read() as session:
            found = rows.rows(session, state, batch, author, limit)
            left = job_times.seconds_left(session, found)
            return Table(rows.row(job, left.get(job.id)) for job in found)

    def job(self, job_id: str) -> JobDetail:
        """One job with what was asked and what came of it. `job_id`: the id, or a unique beginning or end of it.

        Raises NotFound, Ambiguous.
        """
        with self.catalog.read() as session:
            found = rows.resolve(session, job_id)
            return rows.detail(found, job_times.seconds_left(session, [found]).get(found.id))

    def job_counts(self, batch: str | None = None) -> dict[str, int]:
        """Jobs by state, of all or of one batch; states without any are left out."""
        with self.catalog.read() as session:
            return rows.counts(session, batch)

    def cancel_job(self, job_id: str) -> JobRow:
        """Cancel one's own job, or as an admin anybody's. A running one stops at its next report of progress.

        Raises JobEnded when it is done or has failed, NotFound, AccessDenied.
        """
        return self._change_job(job_id, rows.cancel)

    def retry_job(self, job_id: str) -> JobRow:
        """Queue one's own failed or cancelled job again, or as an admin anybody's. Raises JobEnded, NotFound."""
        return self._change_job(job_id, rows.retry)

    def cancel_batch(self, batch: str) -> Changed:
        """Cancel what waits or runs of a batch: one's own jobs, or as an admin all. Raises NotFound."""
        return self._change_batch(batch, rows.cancel_batch)

    def retry_batch(self, batch: str) -> Changed:
        """Queue the failed and cancelled jobs of a batch again: one's own, or as an admin all. Raises NotFound."""
        return self._change_batch(batch, rows.retry_batch)

    def workers(self) -> Table[WorkerRow]:
        """Every worker that ever ran, the living first."""
        with self.catalog.read() as session:
            return Table(workers.rows(session))

    def estimate_traces(self, requests: list[TraceRequest]) -> float | None:
        """Seconds that one worker needs for these alone, from traces of the same model that ended; None without any."""
        with self.catalog.read() as session:
            return _estimate(session, requests)

    # -- inside

    def _circuit_of(self, circuit: str) -> tuple[Circuit, str, list[ImportedSupernode]]:
        with self.catalog.read() as session:
            circuit_id = circuits.resolve(session, circuit)
            name, supernodes = circuits.get(session, circuit_id).name, notes.supernodes(session, circuit_id)
        return self._load(circuit_id), name, supernodes

    def _enqueue(self, drafts: list[Draft], batch: str | None, role: access.Role = "editor") -> Queued:
        if batch is not None and not (batch := clean(batch.strip())[:TITLE]):
            raise UsageError("The batch has no name.", "Pass a name that is not blank, or none.")

        def work(session: Session) -> Queued:
            ids = rows.put(session, drafts, batch, self.settings.queue_limit)
            session.flush()
            last = rows.resolve(session, ids[-1])
            seconds = job_times.seconds_left(session, [last]).get(last.id)
            return Queued(jobs=ids, batch=batch, waiting=rows.waiting(session), seconds=seconds)

        return self._write(work, role)

    def _change_job(self, job_id: str, change: Callable[[Session, Job], None]) -> JobRow:
        def work(session: Session) -> JobRow:
            found = rows.resolve(session, job_id)
            if found.author != self.actor and access.current_role(session, self.identity) != "admin":
                raise AccessDenied(f"The job {found.id[-rows.SHORT :]} is {found.author}'s.", "Ask them, or an admin.")
            change(session, found)
            session.refresh(found)
            return rows.row(found, job_times.seconds_left(session, [found]).get(found.id))

        return self._write(work)

    def _change_batch(self, batch: str, change: Callable[[Session, str, str | None], int]) -> Changed:
        def work(session: Session) -> Changed:
            rows.check_batch(session, batch)
            everybody = access.current_role(session, self.identity) == "admin"
            changed = change(session, batch, None if everybody else self.actor)
            return Changed(changed=changed, already=len(rows.rows(session, batch=batch, limit=None)) - changed)

        return self._write(work)


def check_request(settings: Settings, request: TraceRequest, where: str = "") -> None:
    """Raises UsageError for a request that no worker could do; `where` begins its sentence."""
    if (request.prompt is None) == (request.token_ids is None):
        raise UsageError(f"{where}A trace needs either a prompt or token ids.", "Pass one of the two.")
    if request.prompt is not None and not request.prompt.strip():
        raise UsageError(f"{where}The prompt is blank.", "Pass some text.")
    if request.token_ids is not None and not request.token_ids:
        raise UsageError(f"{where}There are no token ids.", "Pass at least one.")
    if request.at == 0:
        raise UsageError(f"{where}The token at position 0 has nothing before it.", "Pass a position from 1 on.")
    if any(target.startswith("direction:") for target in request.targets or []):
        raise UsageError(
            f"{where}A direction is a file of one machine, so it cannot be queued.", "Trace it without the queue."
        )
    if request.profile is not None:
        if request.model or request.transcoders:
            raise UsageError(
                f"{where}The profile names the model and its transcoders already.",
                "Leave the model and the transcoders out, or the profile.",
            )
        if request.profile != SHIPPED and not settings.profile(request.profile).transcoders:
            raise UsageError(
                f"{where}The profile {request.profile} names no transcoders, and a trace needs them.",
                "Name them in atlas.toml, or use `atlas components`.",
            )
    elif not request.model or not request.transcoders:
        raise UsageError(
            f"{where}A trace needs a model and its transcoders.", f"Name both, or a profile such as {SHIPPED}."
        )


def group_of(request: TraceRequest) -> str:
    """Requests of one group need the same model and transcoder set."""
    if request.profile is not None:
        return job_times.group_of("profile", request.profile)
    return job_times.group_of("model", request.model or "", request.transcoders or "")


def _estimate(session: Session, requests: list[TraceRequest]) -> float | None:
    known = job_times.speeds(session, [("trace", group_of(request)) for request in requests])
    total = 0.0
    for request in requests:
        like = known["trace", group_of(request)]
        if like is None:
            return None
        total += like.of(request.prompt, request.token_ids)
    return round(total, 1)


def _title(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TITLE else line[: TITLE - 1] + "…"
