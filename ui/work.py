"""Jobs and workers as the pages Trace and Jobs show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import streamlit as st

from atlas.group_records import JobRow, News, WorkerRow
from ui import markup
from ui.listing import when
from ui.markup import Safe
from ui.shared import show

STATES = {"queued": "waiting", "running": "running", "done": "done", "failed": "failed", "cancelled": "cancelled"}
KIND_NAMES = {
    "label": "labelling",
    "rebuild": "rebuilding the graph",
    "patch": "patching",
    "components": "finding components",
    "intervene": "intervention",
    "verify": "verification",
}
ENDED = frozenset({"done", "failed", "cancelled"})
ALIVE = frozenset({"idle", "busy"})
LOOKED = "2s"  # how often a page looks again


def span(seconds: float | None) -> str:
    """A length of time in words, '' for None."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    if seconds < 48 * 3600:
        return f"{round(seconds / 3600)} h"
    return f"{round(seconds / 86400)} days"


def age(moment: str | None) -> float | None:
    """Seconds since a time of the catalog."""
    if not moment:
        return None
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return max(0.0, (datetime.now(UTC) - then.astimezone(UTC)).total_seconds())


def state_chip(state: str) -> Safe:
    return markup.chip(STATES.get(state, state), f"state {state}")


def bar(done: int, total: int, what: str) -> Safe:
    """A progress bar; without a total one that only says that work goes on."""
    if total <= 0:
        return markup.tag("progress", aria_label=what)
    return markup.tag("progress", value=str(min(done, total)), max=str(total), aria_label=what)


def _meta(job: JobRow, brief: bool) -> Safe:
    pieces: list[object] = []
    if job.kind != "trace":
        pieces.append(KIND_NAMES.get(job.kind, job.kind))
    if job.state == "running":
        if job.total:
            pieces.append(f"{job.done:,} of {job.total:,}")
        if job.step:
            pieces.append(job.step)
    if job.state not in ENDED and job.seconds_left is not None:
        pieces.append(f"about {span(job.seconds_left)} left")
    if job.worker:
        pieces.append(f"worker {job.worker}")
    if job.attempts > 1:
        pieces.append(f"attempt {job.attempts}")
    if not brief:
        pieces.append(f"by {job.author}")
    if job.batch and not brief:
        pieces.append(markup.link("jobs", job.batch, batch=job.batch))
    took = None
    if job.finished_at and job.started_at:
        took = (age(job.started_at) or 0) - (age(job.finished_at) or 0)
    pieces.append(when(job.finished_at or job.created_at) + (f", took {span(took)}" if took is not None else ""))
    pieces.append(markup.link("jobs", "details", job=job.id))
    joined = [pieces[0], *(piece for rest in pieces[1:] for piece in (" · ", rest))]
    return markup.tag("p", *joined, cls="ca-meta")


def job_card(job: JobRow, brief: bool = False) -> Safe:
    """One job in a few lines: what it is, how far, why it failed, and its circuit. `brief`: without whose it is."""
    title = markup.visible(job.title)
    name = markup.link("circuit", title, circuit=job.circuit) if job.circuit else title
    return markup.tag(
        "div",
        markup.tag("p", state_chip(job.state), markup.tag("span", name, cls="ca-job-title"), cls="ca-line"),
        bar(job.done, job.total, f"progress of {title}") if job.state == "running" else "",
        markup.tag("p", markup.ticked(job.error), cls="ca-why") if job.error else "",
        _meta(job, brief),
        cls="ca-job",
        data_job=job.id,
        data_state=job.state,
    )


def counted_states(counts: dict[str, int]) -> str:
    """'2 waiting, 1 running', in the order of a job's life."""
    return ", ".join(f"{counts[state]:,} {word}" for state, word in STATES.items() if counts.get(state))


def worker_table(rows: Sequence[WorkerRow], titles: dict[str, str]) -> Safe:
    """`titles`: what the jobs are called, by id."""
    return markup.table(
        ["Worker", "State", "Works on", "Holds loaded", "Device", "Where", "Heard of", "Version"],
        [
            [
                row.name,
                state_chip(row.state),
                markup.link("jobs", markup.visible(titles.get(row.job, "a job"))[:80], job=row.job) if row.job else "–",
                row.model or "–",
                row.device or "–",
                f"{row.host}, process {row.pid}",
                f"{span(age(row.alive_at)) or '–'} ago",
                row.version,
            ]
            for row in rows
        ],
    )


def alive(rows: Iterable[WorkerRow]) -> int:
    return sum(row.state in ALIVE for row in rows)


def nobody_works() -> None:
    """What to do when no worker is alive."""
    show(
        markup.tag(
            "div",
            markup.tag("p", markup.tag("strong", "No worker is alive: what is enqueued waits until one starts.")),
            markup.tag("p", markup.ticked("On a machine with the model, run `atlas worker` and leave it running.")),
            cls="ca-alert",
            role="status",
        )
    )


def any_news(news: News) -> bool:
    return bool(news.circuit_count or news.labels or news.annotations or news.jobs)


def may_write(role: str) -> bool:
    """Whether the buttons are of use; the verbs check again, in their transaction."""
    return role in {"editor", "admin"}


def reader_note(role: str) -> None:
    if not may_write(role):
        st.caption("Your role is reader: you can look. An admin can make you an editor.")
