"""The form that queues an intervention in the real model on what is chosen on the canvas."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import streamlit as st

from atlas.causal_records import InterventionRequest
from atlas.circuit import Circuit
from ui import markup, work
from ui.evidence_words import Names
from ui.queued import enqueue, follow
from ui.shared import get_atlas, guarded, note, show
from ui.view import View

PLACE = "intervene"
KINDS = {
    "ablate": "ablate: to 0",
    "scale": "scale: times a factor",
    "steer": "steer: add a number",
    "patch": "patch: its value on another prompt",
}
SUPERNODE = "a supernode"
TESTABLE = ("feature", "error", "token", "head", "mlp", "neuron")


def subjects(circuit: Circuit, view: View, path: Sequence[str]) -> dict[str, list[str]]:
    """What can be tested now: node keys by what the reader calls it. Of edges and paths the nodes are in order."""
    found: dict[str, list[str]] = {}
    testable = circuit.nodes.is_kind(*TESTABLE)
    if view.click and testable[circuit.row(view.click)]:
        found["the chosen node"] = [view.click]
    if view.edge:
        found["the chosen edge"] = view.edge.split("->")
    pinned = [key for key in view.pins if testable[circuit.row(key)]]
    if pinned:
        found["the pinned nodes"] = pinned
    if chain := pinned_path(circuit, view.pins):
        found["the path of the pinned nodes"] = chain
    if len(lit := [key for key in path if key in circuit.row_of_key]) > 1:
        found["the path that is lit"] = lit
    return found


def pinned_path(circuit: Circuit, pins: Sequence[str]) -> list[str]:
    """The pinned nodes from the input up, if edges lead from each to the next; else []."""
    if len(pins) < 2:
        return []
    edges = set(zip(circuit.edges.source.tolist(), circuit.edges.target.tolist(), strict=True))
    n = circuit.nodes
    after = n.is_kind("mlp", "neuron")  # they read what the heads of their layer wrote
    rows = sorted((circuit.row(key) for key in pins), key=lambda row: (int(n.layer[row]), bool(after[row])))
    return [circuit.keys[row] for row in rows] if all(p in edges for p in itertools.pairwise(rows)) else []


def form(circuit: Circuit, names: Names, view: View, path: Sequence[str], supernodes: Sequence[str]) -> None:
    """In an expander, because most readers only look."""
    found = subjects(circuit, view, path)
    with st.expander("Intervene: change it in the real model, and look", key="ca-intervene"):
        with guarded():
            may = work.may_write(get_atlas().whoami().role)
        options = [*found, *([SUPERNODE] if supernodes else [])]
        if not options:
            note(
                "Choose a node or a link above, or pin several nodes. The model then runs with that part changed and everything else "
                "free, beside up to 20 like parts as controls, and what moved is compared with what the graph predicts."
            )
            follow(PLACE)
            return
        left, right = st.columns(2, gap="large")
        with left:
            # a key by what can be chosen: a new choice on the canvas is the new default
            what = st.selectbox("What", options, key=f"ca-what-{'-'.join(options)}") if len(options) > 1 else options[0]
            group = st.selectbox("Supernode", supernodes, key="ca-group") if what == SUPERNODE else None
            keys = found.get(what, [])
            cut = what in ("the chosen edge", "the path of the pinned nodes", "the path that is lit")
            if keys:
                _said(keys, names, cut)
            kind = "cut" if cut else st.selectbox("How", list(KINDS), format_func=KINDS.__getitem__, key="ca-how")
            given = _values(kind)
        with right:
            prompts = st.text_area(
                "On other prompts, one a line",
                key="ca-prompts",
                height=100,
                placeholder="the circuit's own prompt",
                help="Then the effect is measured on each of them, and the mark is of their mean.",
            )
            controls = st.number_input(
                "Controls", 0, 200, 20, key="ca-controls", help="With fewer than 8 there is no mark but inconclusive."
            )

        if st.button("Queue the intervention", type="primary", key="ca-queue-intervention", disabled=not may):
            request = InterventionRequest(
                circuit=circuit.id,
                kind=kind,
                nodes=[] if group else keys,
                supernode=group,
                prompts=[line for line in prompts.split("\n") if line.strip()] or None,
                controls=int(controls),
                **given,
            )
            enqueue("intervene", PLACE, request)
        work.reader_note("editor" if may else "reader")
        follow(PLACE)


def _said(keys: list[str], names: Names, cut: bool) -> None:
    text = (" → " if cut else ", ").join(names.text(key) for key in keys)
    show(markup.tag("p", markup.tag("strong", text), cls="ca-line"))
    if cut:
        note("The effect of each on the next is taken away by path patching; everything else stays.")


def _values(kind: str) -> dict[str, object]:
    if kind == "scale":
        return {"factor": st.number_input("Factor", value=2.0, key="ca-factor")}
    if kind == "steer":
        return {"value": st.number_input("Add", value=1.0, key="ca-value", help="In the unit of its activation.")}
    if kind == "patch":
        return {
            "prompt": st.text_input("Prompt to take values from", key="ca-other", help="As many tokens as this one.")
        }
    return {}
