"""One circuit: its attribution graph, the card of the chosen node, scores and origin."""

from __future__ import annotations

import hashlib
import json

import streamlit as st

from atlas.circuit import KINDS
from atlas.errors import NotFound
from ui import cards, explain, heat_map, markup, view
from ui.annotation_panel import panel
from ui.canvas import contract
from ui.canvas.component import bridge, canvas
from ui.causal_panel import evidence_tab
from ui.edge_card import edge_card, edge_rows, node_evidence
from ui.evidence_words import Names
from ui.intervene_form import form
from ui.listing import circuit_name, circuit_table, when
from ui.opened_edges import opened_inputs
from ui.patching_maps import maps
from ui.shared import asked, begin, fragment, get_atlas, guarded, heading, note, problem, remember, show

SLOT = "circuit"
NODES_LISTED = 100
begin("" if asked("circuit") else "Circuits")
with guarded():
    atlas = get_atlas()


def choose_circuit() -> None:
    """Without a circuit in the address: all of them, to pick from."""
    left, middle, right = st.columns([3, 1, 1])
    text = left.text_input("Filter by name or prompt", value=asked("text")).strip()
    tag = middle.text_input("Tag", value=asked("tag")).strip()
    models = ["", *atlas.overview().models]
    model = right.selectbox("Model", models, format_func=lambda m: m or "every model")
    rows = atlas.circuits(text=text or None, model=model or None, tag=tag or None, limit=200)
    if rows:
        show(circuit_table(rows))
    else:
        note(
            "No circuit fits."
            if text or model or tag
            else "The atlas holds no circuit yet; run `atlas demo` or `atlas import PATH`."
        )


if not asked("circuit"):
    with guarded():
        choose_circuit()
    st.stop()

with guarded():
    circuit_id = atlas.resolve(asked("circuit"))
    detail = atlas.show(circuit_id)
    circuit = atlas.load(circuit_id)
    labels = atlas.node_labels(circuit_id)
    marks = atlas.edge_marks(circuit_id)
record = detail.record
known = circuit.row_of_key
names = Names(circuit, contract.node_names(circuit, labels))
patched = heat_map.is_patching(circuit)


@st.cache_resource(show_spinner="Drawing ...", max_entries=8)
def payload(circuit_id: str, content_digest: str, path: str) -> dict:
    """Read-only; one per circuit, labels and marks, and path, so that reruns send nothing new to the browser."""
    made = contract.single(circuit, labels, slot=SLOT, path=view.split_keys(path), marks=marks)
    contract.check(made)
    return made


def has_edge(edge: str) -> bool:
    return bool(edge_rows(circuit, edge))


def current_view() -> view.View:
    last = st.session_state.get("circuit_view")
    now = view.from_address(circuit_id, asked("node"), asked("pins"), last, known, detail.pins, asked("edge"), has_edge)
    st.session_state.circuit_view = now
    return now


def on_selection() -> None:
    """The canvas chose: write the address. What came is checked, because it came from a browser."""
    chosen = view.from_canvas(st.session_state.bridge.get("selection"), circuit_id, known, has_edge)
    if chosen is None:
        return
    st.session_state.circuit_view = chosen
    pins = view.address_pins(chosen, detail.pins)
    kept = {name: asked(name) for name in ("path", "intervention", "tab")}
    remember(circuit=circuit_id, node=chosen.click, edge=chosen.edge, pins=pins, **kept)


@fragment
def chosen_card() -> None:
    now = current_view()
    if not patched:
        bridge(SLOT, now.to_data(), "bridge", on_selection)
    subjects = {"this circuit": circuit_id}
    about_node, said = st.container(), st.container()  # so that the form below stays where it is while nodes are chosen
    if now.edge:
        with about_node:
            edge_card(circuit, names, now.edge, marks)
        subjects["the chosen link"] = f"{circuit_id}#{now.edge}"
    if now.click:
        with about_node:
            card(known[now.click])
            node_evidence(circuit, now.click)
            opened = opened_inputs(circuit, names.names, known[now.click])
            if opened is not None:
                show(opened)
        subjects["the chosen node, here"] = f"{circuit_id}#{now.click}"
        feature = circuit.feature_key(known[now.click])
        if feature is not None:
            subjects["its feature, everywhere"] = f"feature:{feature}"
    with said:
        if not patched:
            form(circuit, names, now, view.split_keys(asked("path")), [group.name for group in detail.supernodes])
        panel(subjects, now.pins, SLOT)


def card(row: int) -> None:
    """What is known of the chosen node."""
    feature = circuit.feature_key(row)
    if feature is None:
        show(markup.tag("h2", markup.visible(names.names[row]), cls="ca-head"))
        note(
            EXPLAINED.get(KINDS[circuit.nodes.kind[row]], "A component of the model; it has no label and no examples.")
        )
        return
    try:
        cards.brief(atlas.feature(feature))
    except NotFound as error:
        problem(error)


EXPLAINED = {
    "token": "An input token: its embedding is where the graph begins.",
    "logit": "An output: one of the next tokens whose probability this circuit explains.",
    "error": "What the transcoder of this layer misses at this position. Influence through it is not explained.",
}

targets = ", ".join(
    f"{markup.visible(t.what)}" + (f" {t.probability:.0%}" if t.probability is not None else "")
    for t in record.targets[:6]
)
show(
    markup.tag("h1", circuit_name(detail), cls="ca-title"),
    markup.prompt(circuit.tokens) if circuit.tokens else markup.tag("p", record.prompt),
    markup.tag(
        "p",
        *(
            markup.chip(piece)
            for piece in (
                f"answers: {targets}" if targets else "",
                detail.model,
                f"{len(circuit.nodes):,} nodes, {len(circuit.edges):,} edges",
                f"replacement {markup.number(record.scores.replacement, 2)}"
                if record.scores.replacement is not None
                else "",
                f"completeness {markup.number(record.scores.completeness, 2)}"
                if record.scores.completeness is not None
                else "",
                f"verdict: {detail.verdict}",
            )
            if piece
        ),
        *(markup.link("circuit", markup.chip(f"# {tag}", "tag"), tag=tag) for tag in detail.tags),
        cls="ca-line",
    ),
)
if asked("path"):
    show(
        markup.tag(
            "p",
            "A path is lit up. ",
            markup.link("circuit", "Show the circuit without it", circuit=circuit_id),
            cls="ca-line",
        )
    )
with guarded():
    if patched:
        maps(circuit)
    else:
        content = [sorted(labels.items()), [mark.model_dump() for mark in marks]]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        canvas(payload(circuit_id, digest, asked("path")), key="canvas")
    chosen_card()


def scores_tab() -> None:
    left, right = st.columns([2, 3], gap="large")
    with left:
        show(
            markup.table(
                ["Score", "Full", "Pruned", "Claimed by the file"],
                [[name, *(markup.number(v, 3) for v in values)] for name, *values in explain.score_rows(record.scores)],
                numeric=[1, 2, 3],
            )
        )
    with right:
        said = explain.score_sentences(record.scores, detail.verdict, detail.verdict_reasons)
        show(*(markup.tag("p", sentence, cls="ca-note") for sentence in said))


def origin_tab() -> None:
    left, right = st.columns(2, gap="large")
    with left:
        heading("Targets")
        show(
            markup.table(
                ["What", "Kind", "Read at", "Probability"],
                [
                    [
                        markup.visible(t.what),
                        t.kind,
                        t.position if t.position >= 0 else "–",
                        markup.number(t.probability),
                    ]
                    for t in record.targets
                ],
                numeric=[2, 3],
            )
        )
        heading("Nodes")
        show(markup.facts(sorted(detail.kinds.items())))
        if detail.supernodes:
            heading("Supernodes")
            show(markup.table(["Name", "Nodes"], [[s.name, len(s.node_keys)] for s in detail.supernodes], numeric=[1]))
    with right:
        heading("Origin")
        pairs = [*explain.origin(record, detail.created_by), ("Id", circuit_id), ("Added", when(detail.created_at))]
        if detail.collections:
            links = [markup.link("collections", name, collection=name) for name in detail.collections]
            pairs.append(("Collections", markup.tag("span", *(piece for each in links for piece in (each, " ")))))
        show(markup.facts(pairs))
        if detail.replicates:
            heading("Other traces of the same question")
            show(
                *(
                    markup.tag(
                        "p",
                        markup.link("circuit", other, circuit=other),
                        " · ",
                        markup.link("compare", "compare", a=circuit_id, b=other),
                        cls="ca-line",
                    )
                    for other in detail.replicates
                )
            )


def token_at(position: int) -> str:
    if position < 0:
        return "all"
    return markup.visible(circuit.tokens[position]) if position < len(circuit.tokens) else str(position)


@fragment
def nodes_tab() -> None:
    left, right = st.columns([3, 1])
    text = left.text_input("Filter nodes by name, token or key", key="node_filter").strip().casefold()
    present = ["", *sorted({KINDS[code] for code in circuit.nodes.kind.tolist()})]
    kind = right.selectbox("Kind", present, format_func=lambda k: k or "every kind")
    n = circuit.nodes
    rows = [
        row
        for row, key in enumerate(circuit.keys)
        if (not kind or KINDS[n.kind[row]] == kind)
        and (not text or text in f"{names.names[row]} {circuit.node_tokens[row]} {key}".casefold())
    ]
    # strongest influence first, unknown last
    rows.sort(key=lambda row: -float(n.influence[row]) if n.influence[row] == n.influence[row] else 1.0)
    show(
        markup.table(
            ["Node", "Kind", "Layer", "At token", "Activation", "Influence", "Key"],
            [
                [
                    markup.link(
                        "circuit", markup.visible(names.names[row]), circuit=circuit_id, node=circuit.keys[row]
                    ),
                    KINDS[n.kind[row]],
                    int(n.layer[row]),
                    token_at(int(n.position[row])),
                    *(
                        markup.number(v if v == v else None)
                        for v in (float(n.activation[row]), float(n.influence[row]))
                    ),
                    circuit.keys[row],
                ]
                for row in rows[:NODES_LISTED]
            ],
            numeric=[2, 4, 5],
        )
    )
    note(f"{len(rows):,} nodes fit" + (f"; the first {NODES_LISTED} are listed." if len(rows) > NODES_LISTED else "."))


EVIDENCE = "Evidence"
first = EVIDENCE if asked("intervention") or asked("tab") == "evidence" else None
scores, evidence, origin, nodes = st.tabs(["Scores", EVIDENCE, "Targets and origin", "Nodes as a table"], default=first)
with scores:
    scores_tab()
with evidence:
    evidence_tab(circuit, detail, names)
with origin:
    origin_tab()
with nodes:
    nodes_tab()
