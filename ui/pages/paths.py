"""Paths between two ends."""

from __future__ import annotations

import streamlit as st

from atlas.records import PathHit, PathNode
from ui import markup
from ui.listing import circuit_name
from ui.shared import asked, begin, get_atlas, guarded, note, remember, show

HELP = (
    "Plain text finds labelled features. Or say what is meant: token:TEXT is an input token, logit:TEXT an output, "
    "feature:KEY one feature, concept:NAME a named group."
)
begin("Paths")
with guarded():
    atlas = get_atlas()
    rows = {row.id: row for row in atlas.circuits(limit=1000)}

with st.form("ends", border=False):
    left, right = st.columns(2)
    source = left.text_input("From", value=asked("from"), placeholder="token:Dallas", help=HELP).strip()
    target = right.text_input("To", value=asked("to"), placeholder="logit:Austin", help=HELP).strip()
    left, right = st.columns([3, 1])
    ids = ["", *rows]
    wanted = asked("circuit")
    circuit = left.selectbox(
        "Circuit",
        ids,
        index=ids.index(wanted) if wanted in ids else 0,
        format_func=lambda i: f"{circuit_name(rows[i])} — {rows[i].prompt}" if i else "every circuit",
    )
    limit = right.number_input("At most", 1, 100, 10)
    st.form_submit_button("Find paths", type="primary")

remember(**{"from": source, "to": target, "circuit": circuit})
if not (source and target):
    note("Say where paths start and where they end; the strongest are listed with their share of the target's input.")
    st.stop()
with guarded(), st.spinner("Looking for paths ..."):
    hits = atlas.paths(source, target, circuit=circuit or None, limit=int(limit))
if not hits:
    note("No path connects these ends in the circuits looked at.")
    st.stop()


def step(node: PathNode) -> markup.Safe:
    name = node.label or markup.visible(node.token) or node.key
    where = (
        node.kind
        if node.kind in {"token", "logit"}
        else f"{node.kind}, layer {node.layer}, at {markup.visible(node.token)}"
    )
    return markup.tag("span", name, markup.tag("small", where), cls="step")


def chain(hit: PathHit) -> markup.Safe:
    pieces: list[markup.Safe] = []
    for node in hit.nodes:
        if pieces:
            pieces.append(markup.tag("span", "→", cls="arrow", aria_label="feeds"))
        pieces.append(step(node))
    return markup.tag("div", *pieces, cls="ca-chain")


show(markup.tag("p", f"{len(hits)} paths, strongest share first.", cls="ca-line"))
for hit in hits:
    row = rows.get(hit.circuit)
    keys = ",".join(node.key for node in hit.nodes)
    opened = markup.link("circuit", circuit_name(row) if row else hit.circuit, circuit=hit.circuit, path=keys)
    with st.container(border=True):
        show(
            chain(hit),
            markup.tag(
                "p",
                f"share {markup.share(hit.share)}{'' if hit.shares_known else ' (of kept edges)'}"
                f" · effect {markup.number(hit.effect)} · p {markup.p_value(hit.p_value, hit.n_null)} · shown in ",
                opened,
                cls="ca-line",
            ),
        )
note(
    "Share: the product over the path's edges of each edge's part of its target's total input. Effect: signed, in the unit of "
    "the target. p: how often a graph whose links are shuffled between the same layers and positions has as strong a path; n is the "
    "number of such graphs, and 1 / (n + 1) the smallest p that they can show. Read the p-values of many paths with care: the best of many looks good."
)
