"""Work that a page queued: asked for by a button, followed without reloading, and shown when it has ended."""

from __future__ import annotations

import streamlit as st

from atlas.errors import AtlasError
from atlas.group_records import JobRow
from atlas.jobs import QueuedKind
from atlas.records import Record
from ui import work
from ui.shared import fragment, get_atlas, guarded, problem, show

FOLLOWED = 3  # jobs of a place, the newest


def _jobs(place: str) -> list[str]:
    return st.session_state.setdefault(f"queued-{place}", [])


def enqueue(kind: QueuedKind, place: str, request: Record) -> None:
    """Queue it; a refusal is shown where the button is."""
    try:
        queued = get_atlas().enqueue(kind, request)
    except AtlasError as error:
        problem(error)
    else:
        _jobs(place).extend(queued.jobs)


def follow(place: str) -> None:
    """What was queued at this place of a page in this session, as it goes on; the page is drawn anew when all of it has ended."""
    ids = _jobs(place)[-FOLLOWED:]
    if not ids:
        return
    if all(job.state in work.ENDED for job in _rows(ids)):
        _cards(ids)
    else:
        _live(place, ids)


@fragment(run_every=work.LOOKED)
def _live(_place: str, ids: list[str]) -> None:
    with st.container(key=f"ca-live-{_place}"):
        _cards(ids)
    if all(job.state in work.ENDED for job in _rows(ids)):
        st.rerun()


def _rows(ids: list[str]) -> list[JobRow]:
    with guarded():
        atlas = get_atlas()
        return [atlas.job(job_id) for job_id in reversed(ids)]


def _cards(ids: list[str]) -> None:
    rows = _rows(ids)
    show(*(work.job_card(row, brief=True) for row in rows))
    with guarded():
        waiting = any(row.state == "queued" for row in rows)
        if waiting and not work.alive(get_atlas().workers()):
            work.nobody_works()
