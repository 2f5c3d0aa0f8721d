"""What people say about something: a part of a page with its list, its history, and the forms to add, change and undo.

The author is whoever is signed in; no form asks for it. Texts of people are shown by `markup` and as values of inputs only,
never in labels, which Streamlit reads as Markdown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import streamlit as st

from atlas.api import Atlas
from atlas.catalog.annotation_log import NAME_LIMIT, NOTE_LIMIT
from atlas.errors import AtlasError
from atlas.group_records import AnnotationKind, AnnotationRow
from ui import markup, work
from ui.listing import DEEDS, subject_link, when
from ui.markup import Safe
from ui.shared import fragment, get_atlas, guarded, heading, note, show, tell_once

MOST = 50
KIND_NAMES = {"note": "Note", "tag": "Tag", "name": "Name", "supernode": "Supernode"}
_SAID, _AGAIN = "annotations_said", "annotations_again"


@fragment
def panel(subjects: Mapping[str, str], pins: tuple[str, ...] = (), place: str = "") -> None:
    """Annotations of `subjects` (address by what the reader calls it), the first of which is the page's own.

    `pins`: nodes that can be made a supernode of the first subject. `place` tells two panels of one page apart.
    """
    if st.session_state.pop(_AGAIN, False):
        st.rerun()  # a name shows in other parts of the page too
    with guarded():
        atlas = get_atlas()
        may = work.may_write(atlas.whoami().role)
        rows = _rows(atlas, subjects, history=False)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
        heading(f"Notes and names ({len(rows)})" if rows else "Notes and names")
        history = st.toggle(
            "History", key=f"ca-history-{place}", help="Every entry: also what was changed, removed and undone."
        )
    if history:
        with guarded():
            rows = _rows(atlas, subjects, history=True)
    tell_once(_SAID)
    if not rows:
        note("Nobody has said anything here yet." if may else "Nobody has said anything here yet; editors can.")
    own = next(iter(subjects.values()))
    listed = st.container(gap=None)
    for row in rows[:MOST]:
        with listed, st.container(horizontal=True, vertical_alignment="top", key=f"ca-row-{place}{row.id}"):
            show(_card(row, own, history))
            if may and history:
                _undo_button(row, place)
            elif may:
                _edit(row, place)
    if len(rows) > MOST:
        note(f"The newest {MOST} of {len(rows):,}; `atlas notes` lists all.")
    if may:
        _add_form(subjects, pins, place)
    else:
        work.reader_note("reader")


def _rows(atlas: Atlas, subjects: Mapping[str, str], history: bool) -> list[AnnotationRow]:
    """Newest first, each once: a circuit lists its nodes' too."""
    found: dict[str, AnnotationRow] = {}
    for subject in subjects.values():
        found |= {row.id: row for row in atlas.annotations(subject, history=history, limit=200)}
    return sorted(found.values(), key=lambda row: row.id, reverse=True)


def _card(row: AnnotationRow, own: str, history: bool) -> Safe:
    pieces: list[object] = []
    if history:
        pieces.append(markup.chip(DEEDS[row.action] + ("" if row.holds else ", undone"), "" if row.holds else "lower"))
    if row.kind != "note":
        pieces.append(markup.chip(row.kind))
    text = row.text or "(taken away)"
    pieces.append(markup.tag("span", text, cls="ca-said" if row.kind == "note" else "ca-job-title"))
    meta: list[object] = [row.author, " · ", when(row.created_at)]
    if not history and row.action != "add":
        meta.append(", changed" if row.action == "change" else ", after an undo")
    if row.nodes:
        meta.append(f" · {markup.counted(len(row.nodes), 'node')}")
    if row.subject != own:
        meta += [" · ", _where(row)]
    return markup.tag(
        "div",
        markup.tag("div", *pieces, cls="ca-line"),
        markup.tag("p", *meta, cls="ca-meta"),
        cls="ca-job",
        data_annotation=row.id,
    )


def _where(row: AnnotationRow) -> Safe:
    """What it is about when that is not the page's own subject."""
    circuit, _, part = row.subject.partition("#")
    if row.subject_kind in ("node", "edge"):
        node, arrow, target = part.partition("->")
        return markup.link("circuit", f"{node} → {target}" if arrow else node, circuit=circuit, node=node)
    return subject_link(row)


def _edit(row: AnnotationRow, place: str) -> None:
    """Change, remove, undo, in a popover beside the text."""
    with st.popover("Edit", key=f"ca-edit-{place}{row.id}"):
        key = f"ca-text-{place}{row.id}"
        if row.kind == "note":
            st.text_area("Text", row.text, key=key, max_chars=NOTE_LIMIT, width=480, height=160)
        else:
            st.text_input("Text", row.text, key=key, max_chars=NAME_LIMIT, width=360)
        with st.container(horizontal=True):
            st.button("Save", key=f"ca-save-{place}{row.id}", type="primary", on_click=_change, args=(row, key))
            st.button("Remove", key=f"ca-remove-{place}{row.id}", on_click=_remove, args=(row,))
            if row.action != "add":
                st.button("Undo the last change", key=f"ca-last-{place}{row.id}", on_click=_undo, args=(row,))


def _undo_button(row: AnnotationRow, place: str) -> None:
    if row.holds:
        st.button("Undo", key=f"ca-undo-{place}{row.id}", on_click=_undo, args=(row,))


def _add_form(subjects: Mapping[str, str], pins: tuple[str, ...], place: str) -> None:
    own = next(iter(subjects))
    kinds: list[AnnotationKind] = ["note", "tag", "name"]
    if pins:
        kinds.append("supernode")
    with st.form(f"ca-say-{place}", clear_on_submit=True, border=False):
        with st.container(horizontal=True, gap="large"):
            if len(subjects) > 1:
                st.segmented_control("About", list(subjects), default=own, key=f"ca-about-{place}")
            st.segmented_control(
                "As",
                kinds,
                format_func=KIND_NAMES.__getitem__,
                default="note",
                key=f"ca-kind-{place}",
                help=_help(own, pins),
            )
        text_at, button_at = st.columns([8, 1], vertical_alignment="bottom")
        text_at.text_area(
            "Text", key=f"ca-new-{place}", height=68, max_chars=NOTE_LIMIT, placeholder="What should others know?"
        )
        button_at.form_submit_button("Add", width="stretch", on_click=_add, args=(dict(subjects), pins, place))


def _add(subjects: dict[str, str], pins: tuple[str, ...], place: str) -> None:
    given = st.session_state
    kind, text = given.get(f"ca-kind-{place}") or "note", given[f"ca-new-{place}"]
    own = next(iter(subjects))
    about = own if kind == "supernode" else given.get(f"ca-about-{place}") or own
    nodes = list(pins) if kind == "supernode" else None
    _do("Added.", lambda: get_atlas().annotate(subjects[about], kind, text, nodes=nodes), kind)


def _help(own: str, pins: tuple[str, ...]) -> str:
    said = f"A name is shown in place of the present one of {own}; a tag is one or a few words to find things by."
    return said + (f" A supernode groups the {len(pins)} pinned nodes under a name." if pins else "")


def _change(row: AnnotationRow, key: str) -> None:
    text = str(st.session_state.get(key, ""))
    _do("Changed.", lambda: get_atlas().change_annotation(row.id, text), row.kind)


def _remove(row: AnnotationRow) -> None:
    _do("Removed; the history keeps it and can undo that.", lambda: get_atlas().remove_annotation(row.id), row.kind)


def _undo(row: AnnotationRow) -> None:
    _do("Undone.", lambda: get_atlas().undo(row.id), row.kind)


def _do(said: str, verb: Callable[[], AnnotationRow], kind: AnnotationKind) -> None:
    """Do it, and keep what to say about it for the next run."""
    try:
        verb()
    except AtlasError as error:
        st.session_state[_SAID] = error
    else:
        st.session_state[_SAID] = said
        st.session_state[_AGAIN] = kind != "note"
