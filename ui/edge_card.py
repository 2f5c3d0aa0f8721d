"""The card of the chosen edge: its weight, the heads that carried it, and what interventions said of it; and of a node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import streamlit as st

from atlas.causal_records import EdgeMark
from atlas.circuit import SLOTS, Circuit
from atlas.edges import SEPARATOR
from atlas.errors import AtlasError
from ui import markup
from ui.evidence_words import MEANINGS, Names, deed, mark_chip
from ui.listing import when
from ui.opened_edges import opened_edge
from ui.shared import get_atlas, heading, note, problem, show

ON_A_NODE = 4  # interventions listed


def edge_rows(circuit: Circuit, edge: str) -> list[int]:
    """Rows of the edges between the two nodes of source->target (several where they enter by slots), strongest first."""
    source, _, target = edge.partition(SEPARATOR)
    ends = circuit.row_of_key.get(source), circuit.row_of_key.get(target)
    if None in ends:
        return []
    rows = np.flatnonzero((circuit.edges.source == ends[0]) & (circuit.edges.target == ends[1]))
    return rows[np.argsort(-np.abs(circuit.edges.weight[rows]), kind="stable")].tolist()


def edge_card(circuit: Circuit, names: Names, edge: str, marks: Sequence[EdgeMark]) -> None:
    source, _, target = edge.partition(SEPARATOR)
    rows = edge_rows(circuit, edge)
    left, right = st.columns([2, 3], gap="large")
    with left:
        show(
            markup.tag("h2", names.link(source), " → ", names.link(target), cls="ca-head"),
            markup.facts(_facts(circuit, rows)),
        )
        _evidence(circuit, next((m for m in marks if (m.source, m.target) == (source, target)), None))
    with right:
        opened = opened_edge(circuit, rows[0])
        if opened is None and circuit.nodes.is_kind("head").any():
            return  # of components: heads are nodes there
        if opened is None:
            note("This circuit does not store through which attention heads this edge travelled.")
        else:
            heading("How its effect travelled")
            show(opened)


def node_evidence(circuit: Circuit, key: str) -> None:
    """The newest interventions on one node, in a line each."""
    try:
        rows = get_atlas().interventions(circuit.id, node=key, limit=ON_A_NODE)
    except AtlasError as error:
        problem(error)
        return
    for row in rows:
        first = row.targets[0]
        done = "part of a cut" if row.request.kind == "cut" else deed(row)
        show(
            markup.tag(
                "p",
                markup.link("circuit", mark_chip(row.mark), circuit=circuit.id, node=key, intervention=row.id),
                f" {done}: predicted {markup.number(first.predicted)}, measured {markup.number(first.measured)}",
                cls="ca-line",
            )
        )


def _facts(circuit: Circuit, rows: list[int]) -> list[tuple[object, object]]:
    facts: list[tuple[object, object]] = []
    for row in rows:
        slot = SLOTS[circuit.edges.slot[row]]
        weight, share = float(circuit.edges.weight[row]), float(circuit.edge_shares[row])
        facts.append(
            (
                "Weight" if slot == "direct" else f"Weight into {slot}",
                f"{markup.number(weight)}, {markup.share(share)} of what the target receives",
            )
        )
    return [*facts, ("Unit", circuit.record.method.weight_unit)]


def _evidence(circuit: Circuit, mark: EdgeMark | None) -> None:
    if mark is None or mark.mark == "untested":
        show(markup.tag("p", mark_chip("untested"), " No intervention has cut this edge.", cls="ca-line"))
        return
    try:
        found = get_atlas().intervention(mark.intervention)
    except AtlasError as error:
        problem(error)
        return
    show(
        markup.tag("p", mark_chip(mark.mark, title=MEANINGS[mark.mark]), " ", found.reason, cls="ca-line"),
        markup.tag(
            "p",
            f"{found.author} · {when(found.created_at)} · ",
            markup.link("circuit", "all about this test", circuit=circuit.id, intervention=found.id),
            cls="ca-meta",
        ),
    )
