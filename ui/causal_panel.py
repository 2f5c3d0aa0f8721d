"""The tab Evidence: what interventions in the real model said of this circuit, and queueing more of them."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from pydantic import ValidationError

from atlas.causal_records import (
    CircuitFaithfulnessRequest,
    FaithfulnessResult,
    InterventionRow,
    MeasurementRow,
    VerifyRequest,
    VerifyResult,
)
from atlas.circuit import Circuit
from atlas.errors import AtlasError
from atlas.records import CircuitDetail
from ui import curves, evidence_words, heat_map, markup, scatter, work
from ui.evidence_words import Names
from ui.listing import when
from ui.queued import enqueue, follow
from ui.scatter import Point
from ui.shared import asked, fragment, get_atlas, guarded, heading, note, problem, show

LISTED = 25
MOST = 500  # interventions looked through
PLACE = "evidence"
WHAT_COUNTS = (
    "Marks come from the real model with everything free. A run with attention and norms frozen equals the graph by construction "
    "and is no evidence."
)


@fragment
def evidence_tab(circuit: Circuit, detail: CircuitDetail, names: Names) -> None:
    if heat_map.is_patching(circuit):
        note(
            "Each cell of the maps above was itself measured in the real model, one part at a time; there is no graph whose predictions "
            "could be tested. A circuit of components of the same pairs (`atlas components`) has one."
        )
        return
    with guarded():
        atlas = get_atlas()
        may = work.may_write(atlas.whoami().role)
        rows = atlas.interventions(circuit.id, limit=MOST)
        measured = atlas.measurements(circuit.id)
    if asked("intervention"):
        _one(asked("intervention"), names)
    verifications = [row for row in measured if row.kind == "verification"]
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
        heading("Verification")
        if may:
            _queue_buttons(circuit)
    work.reader_note("editor" if may else "reader")
    follow(PLACE)
    if verifications:
        _verification(verifications, rows, names)
    else:
        note(
            "Nobody has verified this circuit. A verification ablates its strongest parts, cuts its strongest paths, does the same "
            "to matched controls, and says how well the graph foretold what happened."
        )
    _interventions(rows, names, detail)
    _faithfulness([row for row in measured if row.kind == "faithfulness"])


# -- queueing


def _queue_buttons(circuit: Circuit) -> None:
    with st.container(horizontal=True, width="content"):
        with st.popover("Verify ..."):
            features = st.number_input("Features, one by one", 1, 500, 20, key="ca-verify-features")
            paths = st.number_input("Paths, every edge cut", 0, 200, 10, key="ca-verify-paths")
            controls = st.number_input("Controls for each", 0, 200, 20, key="ca-verify-controls")
            permuted = st.number_input(
                "Permuted graphs",
                0,
                50,
                3,
                key="ca-verify-permuted",
                help="Graphs of permuted transcoders, as a baseline. Each is a trace.",
            )
            prompts = st.text_area("On other prompts, one a line", key="ca-verify-prompts", height=80)
            if st.button("Queue the verification", type="primary", key="ca-queue-verify"):
                request = VerifyRequest(
                    circuit=circuit.id,
                    features=int(features),
                    paths=int(paths),
                    controls=int(controls),
                    permuted=int(permuted),
                    prompts=[line for line in prompts.split("\n") if line.strip()] or None,
                )
                enqueue("verify", PLACE, request)
        with st.popover("Faithfulness ..."):
            count = st.number_input("Random circuits", 1, 100, 5, key="ca-faithfulness-random")
            note(
                "How much of the metric remains when only a part of the edges is kept, beside random circuits of that size."
            )
            if st.button("Queue the curves", type="primary", key="ca-queue-faithfulness"):
                enqueue(
                    "faithfulness", PLACE, CircuitFaithfulnessRequest(circuit=circuit.id, random_circuits=int(count))
                )


# -- verification


def _verification(found: Sequence[MeasurementRow], rows: Sequence[InterventionRow], names: Names) -> None:
    newest = found[0]
    try:
        result = VerifyResult.model_validate(newest.document)
    except ValidationError:
        note("The newest verification was written by a version that this one does not read.")
        return
    left, right = st.columns([1, 1], gap="large")
    with left:
        show(evidence_words.score_numbers(result), evidence_words.marks_line(result))
        show(evidence_words.baseline_table(result))
        over = {"prompts": "prompts of a set", "nodes": "nodes, of one prompt"}[result.interval_over]
        note(
            f"{result.tested} things tested beside {result.controls:,} controls in {work.span(result.seconds) or 'no time'}; interval over "
            f"{over}. By {newest.author}, {when(newest.created_at)}. {WHAT_COUNTS}"
        )
    with right:
        points = battery_points(result, rows, names)
        if points:
            st.vega_lite_chart(spec=scatter.effects(points), width="stretch", key="ca-scatter")
            note(
                "Effect on the target. Grey: what 95% of that thing's controls stay within. Dashed: measured as predicted."
            )
    if len(found) > 1:
        earlier = []
        for row in found[1:6]:
            value = row.document.get("spearman")
            earlier.append([when(row.created_at), row.author, markup.number(value, 2), row.document.get("tested", "–")])
        show(markup.table(["Earlier", "By", "Spearman", "Tested"], earlier, numeric=[2, 3]))


def battery_points(result: VerifyResult, rows: Sequence[InterventionRow], names: Names) -> list[Point]:
    """The points of a verification with the mark and the controls of their interventions."""
    battery = set(result.interventions)
    by_subject: dict[str, InterventionRow] = {}
    for row in rows:
        if row.id in battery and row.request.kind != "cut":
            by_subject.setdefault(row.request.supernode or (row.nodes[0] if len(row.nodes) == 1 else ""), row)
    points = []
    for moved in result.points:
        if moved.predicted is None:
            continue
        found = by_subject.get(moved.node)
        mark, quantile = (found.mark, found.controls.quantile) if found else ("untested", None)
        points.append(Point(names.moved(moved), moved.predicted, moved.measured, mark, quantile))
    return points


# -- interventions


def _interventions(rows: Sequence[InterventionRow], names: Names, detail: CircuitDetail) -> None:
    line = st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom")
    with line:
        heading(f"Interventions ({len(rows)})" if rows else "Interventions")
    if not rows:
        note(
            "Nothing of this circuit was changed in the model yet: every edge is untested. Choose a node or a link above and open "
            "`Intervene`, or verify the whole."
        )
        return
    counts = [
        (what, evidence_words.counted_marks(c))
        for what, c in (
            ("Nodes", detail.evidence.nodes),
            ("edges", detail.evidence.edges),
            ("paths", detail.evidence.paths),
        )
    ]
    said = "; ".join(f"{what}: {count}" for what, count in counts if count)
    if said:
        note(f"By the newest test of each. {said}.")
    present = [mark for mark in ("confirmed", "refuted", "inconclusive") if any(row.mark == mark for row in rows)]
    chosen = None
    if len(present) > 1:
        with line:
            chosen = st.segmented_control("Mark", present, key="ca-marks", label_visibility="collapsed")
    fitting = [row for row in rows if chosen is None or row.mark == chosen]
    alone = [p for row in fitting if row.battery is None and (p := _point(row, names)) is not None]
    whole = st.session_state.get("ca-all-interventions", False)
    shown = fitting if whole else fitting[:LISTED]
    show(evidence_words.intervention_table(shown, names, names.circuit.id))
    if len(fitting) > len(shown):
        st.button(f"Show all {len(fitting)}", key="ca-all-button", on_click=_show_all)
    if len(alone) > 2:
        heading("Interventions outside a verification")
        left, _ = st.columns([3, 2])
        with left:
            st.vega_lite_chart(spec=scatter.effects(alone), width="stretch", key="ca-scatter-alone")


def _show_all() -> None:
    st.session_state["ca-all-interventions"] = True


def _point(row: InterventionRow, names: Names) -> Point | None:
    first = row.targets[0] if row.targets else None
    if first is None or first.predicted is None:
        return None
    said = f"{evidence_words.deed(row)} {evidence_words.subject_text(row, names)}"
    return Point(said, first.predicted, first.measured, row.mark, row.controls.quantile)


def _one(intervention: str, names: Names) -> None:
    """Everything about one intervention, chosen in the address."""
    try:
        row = get_atlas().intervention(intervention)
    except AtlasError as error:
        problem(error)
        return
    if row.circuit != names.circuit.id:
        note("That intervention is of another circuit.")
        return
    with st.container(border=True):
        show(
            markup.tag(
                "h3",
                f"{evidence_words.deed(row).capitalize()} ",
                evidence_words.subject(row, names, most=8),
                cls="ca-sub",
            ),
            markup.tag("p", evidence_words.mark_chip(row.mark), " ", row.reason, cls="ca-line"),
        )
        left, right = st.columns(2, gap="large")
        with left:
            if row.targets:
                heading(f"Effect on {names.moved(row.targets[0])}, beside the controls")
                st.vega_lite_chart(spec=scatter.beside_controls(row), width="stretch", key="ca-beside")
                if row.controls.count:
                    note("Ticks: the controls. Grey: what 95% of them stay within.")
            show(markup.facts(_facts(row, names)))
        with right:
            known = [m for m in row.moved if m.predicted is not None]
            if known:
                correlation = "" if row.spearman is None else f": Spearman {markup.number(row.spearman, 2)}"
                heading(f"{markup.counted(len(known), 'node')} downstream{correlation}")
                st.vega_lite_chart(spec=scatter.moved(row, names.moved), width="stretch", key="ca-moved")
            if row.prompts:
                heading("By prompt")
                show(
                    markup.table(
                        ["Prompt", "Predicted", "Measured"],
                        [[m.node, markup.number(m.predicted), markup.number(m.measured)] for m in row.prompts[:LISTED]],
                        numeric=[1, 2],
                    )
                )
        show(markup.tag("p", markup.link("circuit", "Close", circuit=row.circuit, tab="evidence"), cls="ca-line"))


def _facts(row: InterventionRow, names: Names) -> list[tuple[object, object]]:
    c = row.controls
    if not c.count:
        controls = "none"
    elif names.circuit.nodes.is_kind("feature").any():
        controls = f"{c.count} active features of the same layer, {c.same_position} of them at the same position"
    else:
        controls = f"{c.count} other parts"
    facts: list[tuple[object, object]] = [
        ("Target", f"{names.moved(m)}: {_change(m.before, m.measured)}") for m in row.targets[:5]
    ]
    facts += [("Controls", controls)]
    if row.prompt:
        facts.append(("On", markup.visible(row.prompt)))
    facts += [("By", f"{row.author}, {when(row.created_at)}")]
    if row.battery:
        facts.append(("Part of", "a verification"))
    facts += [(name, str(value)) for name, value in row.provenance.items() if isinstance(value, str | int | float)]
    return facts


def _change(before: float, measured: float) -> str:
    return f"{markup.number(before)} → {markup.number(before + measured)}"


# -- faithfulness


def _faithfulness(found: Sequence[MeasurementRow]) -> None:
    heading("Faithfulness")
    if not found:
        note("No faithfulness curves were measured. `Faithfulness ...` above queues them.")
        return
    try:
        result = FaithfulnessResult.model_validate(found[0].document)
    except ValidationError:
        note("The newest curves were written by a version that this one does not read.")
        return
    left, right = st.columns(2, gap="large")
    with left:
        st.vega_lite_chart(spec=curves.kept(result), width="stretch", key="ca-kept")
    with right:
        st.vega_lite_chart(spec=curves.removed(result), width="stretch", key="ca-removed")
    left, right = st.columns(2, gap="large")
    with left:
        show(
            markup.table(
                ["Edges ranked by", "CPR", "CMD"],
                [[name, markup.number(cpr, 3), markup.number(cmd, 3)] for name, cpr, cmd in curves.area_rows(result)],
                numeric=[1, 2],
            )
        )
    with right:
        note(" ".join(curves.sentences(result)))
        note(f"By {found[0].author}, {when(found[0].created_at)}.")
