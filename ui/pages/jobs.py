"""The queue: what waits, runs and ended, who does it, and taking jobs back or trying them again."""

from __future__ import annotations

import json
import time

import streamlit as st

from atlas.errors import AtlasError
from atlas.group_records import JobRow, PersonRow
from ui import markup, work
from ui.listing import when
from ui.shared import asked, begin, fragment, get_atlas, guarded, heading, note, problem, remember, show

PAGE = 25
SAID_SECONDS = 30.0  # what a button did is shown for so long
BATCHES_FROM = 500  # jobs looked through for names of batches
begin("Jobs" if not asked("job") else None)
with guarded():
    atlas = get_atlas()
    me = atlas.whoami()


def act(what: str, verb: str, ids: list[str]) -> None:
    """A button: do it for each, note how many were done and why others were not."""
    changed, refused = 0, []
    at = get_atlas()
    for job_id in ids:
        try:
            made = getattr(at, verb)(job_id)
        except AtlasError as error:
            refused.append(error)
        else:
            changed += getattr(made, "changed", 1)
    st.session_state.jobs_said = (f"{what}: {markup.counted(changed, 'job')}.", refused, time.monotonic())


def said() -> None:
    """What the last button did, if it was a moment ago."""
    text, refused, at = st.session_state.get("jobs_said", ("", [], -SAID_SECONDS))
    if time.monotonic() - at >= SAID_SECONDS:
        return
    show(markup.tag("p", text, cls="ca-line", role="status"))
    for error in refused[:3]:
        problem(error)
    if len(refused) > 3:
        note(f"So it was for {len(refused) - 3:,} more.")


def mine(job: JobRow, person: PersonRow) -> bool:
    return work.may_write(person.role) and (job.author == person.name or person.role == "admin")


def button(job: JobRow, person: PersonRow) -> None:
    """What can be done with a job in its state, if anything."""
    if job.state == "done" or not work.may_write(person.role):
        st.empty()
        return
    name, what, verb = ("Retry", "Queued again", "retry_job")
    if job.state not in work.ENDED:
        name, what, verb = ("Cancel", "Cancelled", "cancel_job")
    allowed = mine(job, person)
    st.button(
        name,
        key=f"{name}-{job.id}",
        on_click=act,
        args=(what, verb, [job.id]),
        disabled=not allowed,
        help=None if allowed else "Only who asked for it, or an admin, may do this.",
    )


@fragment(run_every=work.LOOKED)
def one_job(job_id: str) -> None:
    with guarded():
        job = get_atlas().job(job_id)
        person = get_atlas().whoami()
    said()
    with st.container(horizontal=True, vertical_alignment="center"):
        show(work.job_card(job))
        button(job, person)
    left, right = st.columns(2, gap="large")
    with left:
        heading("What was asked")
        show(markup.facts((name.replace("_", " "), told(value)) for name, value in job.arguments.items()))
    with right:
        heading("Times")
        times = (("Asked", job.created_at), ("Begun", job.started_at), ("Ended", job.finished_at))
        show(markup.facts([*((name, when(at)) for name, at in times if at), ("Job", markup.tag("code", job.id))]))
        if job.result:
            heading("What came of it")
            show(markup.facts((name.replace("_", " "), told(value)) for name, value in job.result.items()))


def told(value: object) -> object:
    return markup.visible(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def filters() -> tuple[str | None, str | None, bool]:
    """(state, batch, only one's own), kept in the address."""
    line = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
    state = line.segmented_control(
        "State",
        list(work.STATES),
        format_func=lambda name: work.STATES[name],
        default=asked("state") if asked("state") in work.STATES else None,
        help="None chosen: all.",
    )
    names = dict.fromkeys(row.batch for row in atlas.jobs(limit=BATCHES_FROM) if row.batch)
    if asked("batch"):
        names[asked("batch")] = None
    batches = ["", *names]
    batch = line.selectbox(
        "Batch", batches, index=batches.index(asked("batch")), format_func=lambda name: name or "every batch", width=320
    )
    own = line.checkbox("Mine only", value=asked("mine") == "yes")
    remember(state=state, batch=batch, mine="yes" if own else "")
    return state, batch or None, own


def chosen(rows: list[JobRow]) -> list[JobRow]:
    return [row for row in rows if row.state != "done" and st.session_state.get(f"pick-{row.id}")]


def together(rows: list[JobRow], batch: str | None, person: PersonRow) -> None:
    """Buttons for several jobs at once."""
    picked = chosen(rows)
    cancel = [row.id for row in picked if row.state not in work.ENDED]
    retry = [row.id for row in picked if row.state in {"failed", "cancelled"}]
    with st.container(horizontal=True):
        for name, what, verb, ids in (
            ("Cancel chosen", "Cancelled", "cancel_job", cancel),
            ("Retry chosen", "Queued again", "retry_job", retry),
        ):
            st.button(name, on_click=act, args=(what, verb, ids), disabled=not ids, key=name)
        if batch:
            for name, what, whole in (
                ("Cancel the batch", "Cancelled", "cancel_batch"),
                ("Retry the batch", "Queued again", "retry_batch"),
            ):
                st.button(name, on_click=act, args=(what, whole, [batch]), key=name)
    if batch and person.role != "admin":
        st.caption("Of a batch, your own jobs.")


def more() -> None:
    st.session_state.jobs_shown = st.session_state.get("jobs_shown", PAGE) + PAGE


@fragment(run_every=work.LOOKED)
def listing(state: str | None, batch: str | None, own: bool) -> None:
    most = st.session_state.get("jobs_shown", PAGE)
    with guarded():
        at = get_atlas()
        person = at.whoami()
        found = at.jobs(state, batch, person.name if own else None, most + 1)  # type: ignore[arg-type]
        counts, workers = at.job_counts(), at.workers()
    rows = found[:most]
    alive = work.alive(workers)
    # every part and row keeps its place, or half of an older list would show beside the newer one while it is drawn
    with st.container(key="ca-live"):
        head, jobs, foot = st.container(), st.container(gap=None), st.container()
    with head:
        show(
            markup.tag(
                "p",
                work.counted_states(counts) or "No job was ever enqueued",
                f" · {markup.counted(alive, 'worker')} alive",
                cls="ca-line",
            )
        )
        if not alive and counts.get("queued"):
            work.nobody_works()
        said()
        if not rows:
            nothing(bool(state or batch or own), bool(counts))
        elif work.may_write(person.role):
            together(rows, batch, person)
    for row in rows:
        with jobs, st.container(horizontal=True, vertical_alignment="center", key=f"ca-row-{row.id}"):
            if work.may_write(person.role):
                name, able = f"Choose job {row.id[-8:]}", row.state != "done" and mine(row, person)
                st.checkbox(name, key=f"pick-{row.id}", label_visibility="collapsed", disabled=not able)
            show(work.job_card(row))
            button(row, person)
    with foot:
        if len(found) > most:
            st.button("Show more", on_click=more)
        heading("Workers")
        if workers:
            show(work.worker_table(workers, {row.id: row.title for row in found}))
        else:
            note("No worker has ever run here. On a machine with the model: `atlas worker`.")


def nothing(filtered: bool, any_job: bool) -> None:
    if filtered and any_job:
        note("No job fits these filters.")
    else:
        show(markup.tag("p", "Nothing is queued. ", markup.link("trace", "Trace prompts"), cls="ca-line"))


if asked("job"):
    show(
        markup.tag("h1", "Job", cls="ca-title"),
        markup.tag("p", markup.link("jobs", "All jobs"), cls="ca-line"),
    )
    one_job(asked("job"))
else:
    with guarded():
        asked_for = filters()
    work.reader_note(me.role)
    listing(*asked_for)
