"""Whether this atlas can do its work: for container engines, load balancers and monitoring. Cheap, and nothing is started.

Alive: this process answers. Ready: the catalog can be read and the graph server answers (an embedded one that sleeps is
ready: the first use wakes it).
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from sqlalchemy import func, select

from atlas.catalog import circuits, workers
from atlas.catalog import jobs as job_store
from atlas.catalog import labels as label_store
from atlas.catalog.tables import OutboxEntry
from atlas.errors import AccessDenied, AtlasError
from atlas.records import Record

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from atlas.api import Atlas
    from atlas.settings import Settings

ANSWER_SECONDS = 3.0  # how long a graph server may take to answer
KEPT_SECONDS = 2.0  # how long an answer is given again: anybody may ask, so asking must cost the servers nothing
_STATES = ("queued", "running", "done", "failed", "cancelled")


class Health(Record):
    """`ready`: catalog and graph can be used now. Nothing here names an address or a person."""

    ready: bool
    catalog: Literal["ok", "down"]
    graph: Literal["ok", "asleep", "down"] = Field(
        description="asleep: the embedded server, which the first use starts"
    )
    queue: int = Field(0, description="jobs that wait or run")
    workers_alive: int = 0
    outbox: int = Field(0, description="changes that the graph server has not been told yet")
    outbox_seconds: float = Field(0.0, description="age of the oldest of them")
    worker_here: bool | None = Field(None, description="whether a worker of this machine lives; None = not asked")
    version: str = ""


@dataclass(frozen=True)
class Figures:
    """What monitoring reads from the catalog."""

    circuits: int
    features: int
    labels: int
    jobs: dict[str, int]
    workers_alive: int
    outbox: int
    outbox_seconds: float


def health(atlas: Atlas, worker_here: bool = False) -> Health:
    """Looks at both stores, and for a living worker of this machine if asked to; never raises."""
    graph = graph_state(atlas.settings)
    try:
        jobs, alive, outbox, lag = _queues(atlas)
        here = _worker_here(atlas) if worker_here else None
    except AtlasError:
        return Health(ready=False, catalog="down", graph=graph, version=version("circuit-atlas"))
    return Health(
        ready=graph != "down" and here is not False,
        catalog="ok",
        graph=graph,
        queue=jobs["queued"] + jobs["running"],
        workers_alive=alive,
        outbox=outbox,
        outbox_seconds=lag,
        worker_here=here,
        version=version("circuit-atlas"),
    )


def _worker_here(atlas: Atlas) -> bool:
    with atlas.catalog.read() as session:
        return any(row.host == socket.gethostname() and row.state in ("idle", "busy") for row in workers.rows(session))


def figures(atlas: Atlas) -> Figures:
    """Counts of what the catalog holds. Raises StoreUnavailable."""
    jobs, alive, outbox, lag = _queues(atlas)
    with atlas.catalog.read() as session:
        count, _, features = circuits.counts(session)
        labels = label_store.count(session)
    return Figures(count, features, labels, jobs, alive, outbox, lag)


def _queues(atlas: Atlas) -> tuple[dict[str, int], int, int, float]:
    with atlas.catalog.read() as session:
        jobs = dict.fromkeys(_STATES, 0)
        jobs.update(job_store.counts(session))
        alive = workers.alive(session)
        waiting, oldest = session.execute(select(func.count(OutboxEntry.seq), func.min(OutboxEntry.created_at))).one()
    return jobs, alive, waiting, _age(oldest) if oldest else 0.0


def _age(moment: str) -> float:
    return max(0.0, round((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds(), 3))


def graph_state(settings: Settings) -> Literal["ok", "asleep", "down"]:
    """Whether the graph server answers within seconds; an embedded one is not started for it."""
    from atlas.graph import embedded
    from atlas.graph.ping import answers

    if settings.graph_url:
        return "ok" if answers(settings, ANSWER_SECONDS) else "down"
    return "ok" if embedded.status(settings.home).running else "asleep"


class _Kept:
    """The last health, asked for anew when it is older than KEPT_SECONDS."""

    def __init__(self, ask: Callable[[], Health]) -> None:
        self._ask, self._guard = ask, threading.Lock()
        self._value: Health | None = None
        self._until = 0.0

    def get(self) -> Health:
        with self._guard:
            if self._value is None or time.monotonic() >= self._until:
                self._value = self._ask()
                self._until = time.monotonic() + KEPT_SECONDS
            return self._value


def ops_routes(atlas: Atlas) -> list[Route]:
    """`/healthz` (alive) and `/readyz` (ready, else 503), open to all; `/metrics` for a bearer token: a person's, or the
    setting metrics_token. To be mounted beside the pages and the verbs. Counts the verbs of this process from now on."""
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    from atlas import metrics

    metrics.count_verbs()
    metrics.watch(atlas)
    kept = _Kept(lambda: health(atlas))

    async def alive(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        found = await run_in_threadpool(kept.get)
        body = {"status": "ready" if found.ready else "not ready", "catalog": found.catalog, "graph": found.graph}
        return JSONResponse(body, status_code=200 if found.ready else 503)

    async def scrape(request: Request) -> Response:
        try:
            await run_in_threadpool(_may_scrape, atlas, request.headers.get("authorization", ""))
        except AccessDenied as error:
            told: dict[str, Any] = {"error": {"type": "AccessDenied", "message": error.message, "hint": error.hint}}
            return JSONResponse(told, status_code=401, headers={"www-authenticate": "Bearer"})
        return Response(await run_in_threadpool(metrics.render), media_type=metrics.CONTENT_TYPE)

    return [Route("/healthz", alive), Route("/readyz", ready), Route("/metrics", scrape)]


def _may_scrape(atlas: Atlas, authorization: str) -> None:
    kind, _, secret = authorization.partition(" ")
    if kind.lower() != "bearer" or not secret.strip():
        raise AccessDenied("The metrics need a bearer token.", "Send ATLAS_METRICS_TOKEN or the token of a person.")
    wanted = atlas.settings.metrics_token.get_secret_value()
    if wanted and secrets.compare_digest(secret.strip().encode(), wanted.encode()):
        return
    from atlas.authentication import with_token

    with_token(atlas, secret.strip())
