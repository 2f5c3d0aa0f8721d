"""Collections: named sets of circuits, to make, fill, rename and delete."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from atlas.catalog.annotation_log import NAME_LIMIT
from atlas.errors import AtlasError
from atlas.group_records import Changed, CollectionInfo
from atlas.records import CircuitRow
from ui import markup, work
from ui.annotation_panel import panel
from ui.listing import circuit_name, circuit_table, when
from ui.shared import asked, begin, get_atlas, guarded, note, remember, show, tell_once

MOST = 500  # circuits offered and listed
_SAID = "collections_said"
begin("Collections" if not asked("collection") else None)
with guarded():
    atlas = get_atlas()
    role = atlas.whoami().role


def do(said: str, verb: Callable[[], object], ok: Callable[[], None] | None = None) -> None:
    """Do it, and keep what to say about it for the next run."""
    try:
        made = verb()
    except AtlasError as error:
        st.session_state[_SAID] = error
        return
    if isinstance(made, Changed):
        said = said.format(markup.counted(made.changed, "circuit"))
    st.session_state[_SAID] = said
    if ok is not None:
        ok()


def value(key: str) -> str:
    return str(st.session_state.get(key) or "").strip()


def all_of_them() -> None:
    with guarded():
        rows = atlas.collections()
    if rows:
        show(
            markup.table(
                ["Name", "Circuits", "Note", "By", "Made"],
                [
                    [
                        markup.link("collections", row.name, collection=row.name),
                        f"{row.circuits:,}",
                        markup.tag("span", row.note[:300] + ("…" if len(row.note) > 300 else ""), cls="ca-said"),
                        row.author,
                        when(row.created_at),
                    ]
                    for row in rows
                ],
                numeric=[1],
            )
        )
    else:
        note("There is no collection yet. A collection is a named set of circuits, to list, search and compare within.")
    if work.may_write(role):
        with st.form("make", border=False):
            left, right = st.columns([3, 1], vertical_alignment="bottom")
            left.text_input("Name of a new collection", key="new_collection", max_chars=NAME_LIMIT)
            right.form_submit_button("Make it", on_click=make)


def make() -> None:
    name = value("new_collection")
    do(
        "Made. Now put circuits into it.",
        lambda: get_atlas().create_collection(name),
        lambda: remember(collection=name),
    )


def one(info: CollectionInfo) -> None:
    show(
        markup.tag("p", markup.link("collections", "All collections"), cls="ca-line"),
        markup.tag("h1", info.name, cls="ca-title"),
        markup.tag(
            "p",
            f"{markup.counted(info.circuits, 'circuit')} · made by {info.author} · {when(info.created_at)}",
            cls="ca-meta",
        ),
    )
    tell_once(_SAID)
    with guarded():
        rows = atlas.circuits(collection=info.name, limit=MOST)
    if rows:
        show(circuit_table(rows))
        if info.circuits > len(rows):
            note(f"The newest {MOST} of {info.circuits:,}; `atlas circuits --in NAME` lists all.")
    else:
        note("It is empty.")
    if work.may_write(role):
        forms(info, rows)
    panel({"this collection": f"collection:{info.name}"}, place="collection")


def forms(info: CollectionInfo, rows: list[CircuitRow]) -> None:
    inside = {row.id for row in rows}
    with guarded():
        outside = [row for row in atlas.circuits(limit=MOST) if row.id not in inside]
    put_in, take_out = st.columns(2, gap="large")
    with put_in, st.form("put", clear_on_submit=True, border=False):
        chosen("Put circuits in", outside, "put_in", new=True)
        st.form_submit_button("Put in", on_click=put, args=(info.name,))
    with take_out, st.form("take", clear_on_submit=True, border=False):
        chosen("Take circuits out", rows, "take_out", new=False)
        st.form_submit_button("Take out", on_click=take, args=(info.name,), disabled=not rows)
    with st.container(horizontal=True):
        with st.popover("Rename"), st.form("rename", border=False):
            st.text_input("New name", info.name, key="new_name", max_chars=NAME_LIMIT)
            st.form_submit_button("Rename", on_click=rename, args=(info.name,))
        if st.button("Delete"):
            confirm(info)


def chosen(label: str, rows: list[CircuitRow], key: str, new: bool) -> None:
    names = {row.id: f"{circuit_name(row)} · {row.model} · {row.id}" for row in rows}
    st.multiselect(
        label,
        list(names),
        format_func=lambda circuit: names.get(circuit, circuit),
        key=key,
        accept_new_options=new,
        placeholder="Choose, or write an id or a name" if new else "Choose",
    )


def put(name: str) -> None:
    circuits = list(st.session_state.get("put_in") or [])
    do("Put in: {}.", lambda: get_atlas().collect(name, circuits))


def take(name: str) -> None:
    circuits = list(st.session_state.get("take_out") or [])
    do("Taken out: {}.", lambda: get_atlas().uncollect(name, circuits))


def rename(name: str) -> None:
    new = value("new_name")
    do("Renamed.", lambda: get_atlas().rename_collection(name, new), lambda: remember(collection=new))


@st.dialog("Delete this collection?")
def confirm(info: CollectionInfo) -> None:
    show(
        markup.tag(
            "p",
            markup.tag("b", info.name),
            f" is deleted with its list of {markup.counted(info.circuits, 'circuit')}. The circuits themselves stay.",
        )
    )
    with st.container(horizontal=True):
        if st.button("Delete it", type="primary"):
            do("Deleted; its circuits stay.", lambda: get_atlas().delete_collection(info.name), remember)
            st.rerun()
        if st.button("Keep it"):
            st.rerun()


if asked("collection"):
    with guarded():
        found = [row for row in atlas.collections() if row.name == asked("collection")]
    if found:
        one(found[0])
    else:
        tell_once(_SAID)
        note("There is no collection of that name; it may have been renamed or deleted.")
        show(markup.tag("p", markup.link("collections", "All collections"), cls="ca-line"))
else:
    tell_once(_SAID)
    all_of_them()
