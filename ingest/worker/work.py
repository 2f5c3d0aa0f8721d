"""Does one job, in the name of who asked for it, and says how it ended."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from typing import Any

from atlas import access
from atlas.access import Identity, Role
from atlas.api import Atlas
from atlas.catalog import jobs as rows
from atlas.catalog.jobs import Claim
from atlas.catalog.tables import Person
from atlas.errors import AtlasError, StoreUnavailable
from atlas.group_records import TraceRequest
from atlas.jobs import LabelRequest, RebuildRequest
from ingest.worker import causal
from ingest.worker.models import LoadedModels, trace_arguments

LOG = logging.getLogger("ingest.worker")
REPORT_SECONDS = 0.5  # at most so often the row is told how far a job is
STORING = "storing"  # the report before a circuit is written, at which a job that was cancelled meanwhile stops
PAUSES = (
    1,
    2,
    4,
    8,
    15,
    30,
    30,
    30,
    30,
    30,
)  # seconds between tries while a store is down; a Neo4j takes up to a minute


class JobLost(BaseException):
    """The job is not this worker's any more: cancelled, handed back, or taken over. No fault, so not an Exception."""


class Report:
    """The progress callback of a job. Raises JobLost once the job is not this worker's any more."""

    def __init__(self, atlas: Atlas, claim: Claim) -> None:
        self._atlas, self._claim = atlas, claim
        self._next = 0.0
        self._step = ""

    def __call__(self, done: int, total: int, step: str = "") -> None:
        if step == self._step and time.monotonic() < self._next and done < total:
            return
        self._step, self._next = step, time.monotonic() + REPORT_SECONDS
        claim = self._claim
        try:
            ours = self._atlas.catalog.write(
                claim.author, lambda session: rows.report(session, claim, done, total, step)
            )
        except StoreUnavailable:
            if step == STORING:
                raise
            return  # the work goes on; the next report may get through
        if not ours:
            raise JobLost


def perform(atlas: Atlas, claim: Claim, models: LoadedModels, stopping: Callable[[], bool]) -> dict[str, Any]:
    """`{"result": ...}` or `{"error": {type, message, hint}}`. Raises JobLost.

    While a store is down it waits and tries again: what was written already is found again.
    """
    report = Report(atlas, claim)
    for pause in (*PAUSES, None):
        try:
            return {"result": _do(atlas, claim, models, report)}
        except JobLost:
            raise
        except StoreUnavailable as error:
            if pause is None:
                return _failed(error)
            LOG.warning("job %s waits %d s: %s", claim.id, pause, error)
            wait(pause, stopping)
        except AtlasError as error:
            return _failed(error)
        except Exception as error:  # a fault of this program must end the job, not the worker
            LOG.error("job %s met an unexpected fault", claim.id, exc_info=error)
            models.drop()
            what = " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
            return _failed(
                AtlasError(f"An unexpected fault stopped it: {what}.", "The worker's log says where; please report it.")
            )
    raise AssertionError("unreachable")


def _do(atlas: Atlas, claim: Claim, models: LoadedModels, report: Report) -> dict[str, Any]:
    match claim.kind:
        case "trace":
            author = as_author(atlas, claim.author, "editor")
            return _trace(author, claim, models, report)
        case "label":
            author = as_author(atlas, claim.author, "editor")
            return _label(author, claim, models, report)
        case "rebuild":
            author = as_author(atlas, claim.author, "admin")
            asked = RebuildRequest.model_validate(claim.arguments)
            return author.rebuild(progress=report, take_over=asked.take_over).model_dump(mode="json")
        case "patch" | "components" | "faithfulness" | "intervene" | "verify":
            author = as_author(atlas, claim.author, "editor")
            return causal.perform(author, claim, models, report)
        case _:
            raise AtlasError(f"This worker does not know the kind of job {claim.kind!r}.", "Upgrade the worker.")


def as_author(atlas: Atlas, name: str, role: Role) -> Atlas:
    """The atlas of who queued the job. Raises AccessDenied when that account is disabled or may not do it any more."""
    with atlas.catalog.read() as session:
        person = session.get(Person, name) is not None
        identity = Identity(name, person=person)
        access.check(session, identity, role)
    other = copy.copy(atlas)
    other.identity = identity
    return other


def _trace(atlas: Atlas, claim: Claim, models: LoadedModels, report: Report) -> dict[str, Any]:
    from ingest.trace import trace

    request = TraceRequest.model_validate(claim.arguments)
    report(0, 0, "loading the model")
    model, transcoders = models.get(request)
    report(0, 0, "tracing")
    result = trace(
        atlas,
        request.prompt,
        model=model,
        transcoders=transcoders,
        **trace_arguments(request),
        origin={"job": claim.id, "worker": claim.worker},
        progress=report,
    )
    return result.model_dump(mode="json")


def _label(atlas: Atlas, claim: Claim, models: LoadedModels, report: Report) -> dict[str, Any]:
    from ingest.labels import label_features

    request = LabelRequest.model_validate(claim.arguments)
    report(0, 0, "labelling")
    result = label_features(
        atlas,
        model=request.model,
        labeler=request.labeler,
        limit=request.limit,
        relabel=request.relabel,
        texts=request.texts,
        models=models.loaded,
        progress=report,
    )
    return result.model_dump(mode="json")


def _failed(error: AtlasError) -> dict[str, Any]:
    return {"error": {"type": type(error).__name__, "message": error.message, "hint": error.hint}}


def wait(seconds: float, stopping: Callable[[], bool]) -> None:
    """Raises JobLost when the worker is to stop meanwhile."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if stopping():
            raise JobLost
        time.sleep(0.1)
