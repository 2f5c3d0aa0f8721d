"""`atlas worker` and `atlas jobs`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live

from atlas.cli.main import extra, opened
from atlas.cli.nouns import LIST, noun
from atlas.cli.output import Json, emit, stderr, table
from atlas.errors import AtlasError, UsageError
from atlas.group_records import Changed, JobDetail, JobRow, Queued
from atlas.settings import load_settings

if TYPE_CHECKING:
    from atlas.api import Atlas

WATCH_SECONDS = 0.5
Ids = Annotated[
    list[str] | None,
    typer.Argument(help="Job ids, or unique beginnings or ends of them.", metavar="JOB...", show_default=False),
]
Batch = Annotated[str | None, typer.Option(help="All jobs of this batch.")]

worker = noun("worker", "Do the jobs of the queue, or list who does.", default="run")
jobs = noun("jobs", "The jobs of the queue: how far they are, why they failed.")


@worker.command("run")
def run_worker(
    name: Annotated[
        str | None, typer.Option(help="Name, unique among the workers of this atlas; default: host and device.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, cuda:1 ..., auto: spread over all GPUs; default: the GPU if there is one."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float64, bfloat16 or float16; default float32.")] = None,
    kinds: Annotated[
        str, typer.Option(help="Which kinds of jobs to do, comma-separated; default: all.")
    ] = "trace,label,rebuild,patch,components,faithfulness,intervene,verify",
    drain: Annotated[bool, typer.Option("--drain", help="Stop when no job waits.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Stop after one job, or when none waits.")] = False,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Serve Prometheus metrics on this port.")
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address for them; who reaches it needs no token.")] = "127.0.0.1",
    json: Json = False,
) -> None:
    """Do the jobs of the queue one after the other, until SIGTERM or Ctrl-C: then the current one ends or is handed back."""
    from atlas import logs, memory

    memory.limit_fragmentation(memory.LARGE_WHEN_TRACING)
    logs.setup_from(load_settings(), "info")
    with extra("ingest", "`atlas worker`"):
        from ingest.models.devices import SPREAD, choose_device
        from ingest.worker.names import default_name, full_device
        from ingest.worker.worker import Worker
    where = SPREAD if device == SPREAD else full_device(choose_device(device))
    with opened() as atlas:
        made = Worker(
            atlas,
            name=name or default_name(where),
            device=where,
            dtype=dtype,
            kinds=[kind.strip() for kind in kinds.split(",") if kind.strip()],
        )
        _stop_on_signals(made.stop)
        if metrics_port is not None:
            from atlas.metrics import start_metrics_server

            start_metrics_server(metrics_port, metrics_host)
        stderr().print(f"The worker {made.name} takes {', '.join(made.kinds)} jobs on {where} (Ctrl-C stops it).")
        ended = made.run(drain=drain or once, most=1 if once else None)
    emit(
        {"worker": made.name, "device": where, "jobs": ended},
        json,
        lambda console: console.print(f"{ended} jobs ended at the worker {made.name}"),
    )
    if made.hangs:  # a thread that does not come back must not keep the process
        sys.stdout.flush()
        os._exit(0)


@worker.command(LIST)
def list_workers(json: Json = False) -> None:
    """List the workers, the living first."""
    with opened() as atlas:
        rows = atlas.workers()

    def show_text(console):
        if not rows:
            console.print("No worker has run here. Start one with `atlas worker`.")
            return
        cells = [[r.name, r.state, r.device, r.model, short(r.job), f"{r.host} {r.pid}", r.alive_at[:19]] for r in rows]
        console.print(table(["name", "state", "device", "model", "job", "process", "last sign of life"], cells))

    emit(list(rows), json, show_text)


@jobs.command(LIST)
def list_jobs(
    state: Annotated[str | None, typer.Option(help="Only queued, running, done, failed or cancelled ones.")] = None,
    batch: Annotated[str | None, typer.Option(help="Only those of this batch.")] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Only one's own.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="At most this many.")] = 100,
    json: Json = False,
) -> None:
    """List jobs: those that run first, then the newest."""
    with opened() as atlas:
        author = atlas.whoami().name if mine else None
        rows = atlas.jobs(state=state, batch=batch, author=author, limit=limit)  # type: ignore[arg-type]
        counts = atlas.job_counts(batch)

    def show_text(console):
        if not rows:
            console.print("No such jobs. `atlas trace ... --queue` queues one.")
            return
        console.print(_table(rows))
        console.print(_summary(counts))

    emit(list(rows), json, show_text)


@jobs.command("show")
def show(ids: Ids = None, json: Json = False) -> None:
    """Show jobs with what was asked and what came of it."""
    if not ids:
        raise UsageError("There is no job id.", "`atlas jobs` lists them.")
    with opened() as atlas:
        found = [atlas.job(job) for job in ids]

    def show_text(console):
        for job in found:
            _show_one(console, job)

    emit(found if len(found) > 1 else found[0], json, show_text)


@jobs.command("cancel")
def cancel(ids: Ids = None, batch: Batch = None, json: Json = False) -> int:
    """Cancel jobs that wait or run. A running one stops at its next report of progress."""
    with opened() as atlas:
        return _change(atlas.cancel_job, atlas.cancel_batch, ids, batch, "cancelled", json)


@jobs.command("retry")
def retry(ids: Ids = None, batch: Batch = None, json: Json = False) -> int:
    """Queue failed or cancelled jobs again."""
    with opened() as atlas:
        return _change(atlas.retry_job, atlas.retry_batch, ids, batch, "queued again", json)


@jobs.command("watch")
def watch(
    batch: Annotated[str | None, typer.Option(help="Only those of this batch.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many.")] = 20,
    json: Json = False,
) -> int:
    """Show the jobs as they go on, until none waits or runs. Exit 1 when one of the batch failed."""
    console = stderr()
    with opened() as atlas:
        if json or not console.is_terminal:
            counts = _watch_quietly(atlas, batch, None if json else console.print)
        else:
            with Live(console=console, refresh_per_second=4, transient=True) as live:
                counts = _watch_live(atlas, batch, limit, live)
        rows = atlas.jobs(batch=batch, limit=None if batch else limit)

    def show_text(out):
        out.print(_table(rows[:limit]))
        out.print(_summary(counts))

    emit(list(rows), json, show_text)
    return 1 if batch and counts.get("failed") else 0


# -- for the verbs that queue


def show_queued(atlas: Atlas, queued: Queued) -> Callable[[Any], None]:
    """What `--queue` prints for people."""
    hands = sum(row.state in ("idle", "busy") for row in atlas.workers())

    def show_text(console):
        number = len(queued.jobs)
        what = f"job {short(queued.jobs[0])}" if number == 1 else f"{number} jobs"
        batch = f" as the batch {queued.batch}" if queued.batch else ""
        when = f", about {duration(queued.seconds)} until done" if queued.seconds is not None else ""
        console.print(f"queued {what}{batch}; {queued.waiting} wait or run{when}")
        if not hands:
            console.print("No worker runs: start one with `atlas worker`.")

    return show_text


def short(job: str | None) -> str | None:
    """The end of a job id: its random part."""
    return job[-8:] if job else None


def duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# -- inside


def _change(
    one: Callable[[str], JobRow],
    whole: Callable[[str], Changed],
    ids: list[str] | None,
    batch: str | None,
    done: str,
    json: bool,
) -> int:
    if bool(ids) == (batch is not None):
        raise UsageError("Pass either job ids or --batch.", "`atlas jobs` lists both.")
    if batch is not None:
        changed = whole(batch)
        emit(
            changed,
            json,
            lambda console: console.print(
                f"{changed.changed} jobs of {batch} {done}, {changed.already} left as they are"
            ),
        )
        return 0
    assert ids
    if len(ids) == 1:
        row = one(ids[0])
        emit(row, json, lambda console: console.print(f"job {short(row.id)} {done}"))
        return 0
    changed_rows, refused = [], []
    for job in ids:
        try:
            changed_rows.append(one(job))
        except AtlasError as error:
            refused.append({"job": job, "reason": str(error)})

    def show_text(console):
        for row in changed_rows:
            console.print(f"job {short(row.id)} {done}")
        for entry in refused:
            console.print(entry["reason"])

    emit({"jobs": changed_rows, "refused": refused}, json, show_text)
    return 1 if refused else 0


def _table(rows: list[JobRow]) -> Any:
    cells = [
        [
            short(r.id),
            r.state,
            r.kind,
            r.title[:60],
            _progress(r),
            duration(r.seconds_left),
            r.author,
            r.worker,
            r.batch,
            r.error or r.circuit,
        ]
        for r in rows
    ]
    heads = ["job", "state", "kind", "what", "progress", "left", "by", "worker", "batch", "outcome"]
    filled = [n for n in range(len(heads)) if n < 4 or any(row[n] for row in cells)]
    return table([heads[n] for n in filled], [[row[n] for n in filled] for row in cells])


def _progress(row: JobRow) -> str:
    if row.state != "running":
        return ""
    share = f"{100 * row.done // row.total} %" if row.total else ""
    return f"{row.step} {share}".strip()


def _summary(counts: dict[str, int]) -> str:
    states = ("running", "queued", "done", "failed", "cancelled")
    return ", ".join(f"{counts[state]} {state}" for state in states if counts.get(state)) or "no jobs"


def _show_one(console: Any, job: JobDetail) -> None:
    console.print(f"job {job.id} ({job.kind}): {job.title}")
    times = (
        f"queued {job.created_at[:19]}, started {(job.started_at or '-')[:19]}, ended {(job.finished_at or '-')[:19]}"
    )
    console.print(f"{job.state} by {job.author}, {times}")
    rows = [
        ("progress", _progress(job)),
        ("left", duration(job.seconds_left)),
        ("worker", job.worker),
        ("attempts", job.attempts),
        ("batch", job.batch),
        ("circuit", job.circuit),
        ("error", job.error),
    ]
    console.print(table(["", ""], [row for row in rows if row[1]]))
    console.print(table(["asked", ""], job.arguments.items()))
    if job.result:
        console.print(table(["result", ""], job.result.items()))


def _watch_live(atlas: Atlas, batch: str | None, limit: int, live: Live) -> dict[str, int]:
    while True:
        counts = atlas.job_counts(batch)
        live.update(_table(atlas.jobs(batch=batch, limit=limit)))
        if not _waiting(counts):
            return counts
        time.sleep(WATCH_SECONDS)


def _watch_quietly(atlas: Atlas, batch: str | None, say: Callable[[str], None] | None) -> dict[str, int]:
    told: dict[str, int] = {}
    while True:
        counts = atlas.job_counts(batch)
        if say and counts != told:
            say(_summary(counts))
        told = counts
        if not _waiting(counts):
            return counts
        time.sleep(WATCH_SECONDS)


def _waiting(counts: dict[str, int]) -> int:
    return counts.get("queued", 0) + counts.get("running", 0)


def _stop_on_signals(stop: Callable[[], None]) -> None:
    """The first signal asks the worker to stop; the second ends it at once, as a kill would."""

    def handler(number: int, _frame: Any) -> None:
        for name in names:
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        stop()

    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    for name in names:
        signal.signal(getattr(signal, name), handler)
