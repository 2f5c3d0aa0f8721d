"""The heat maps of an activation-patching circuit on its page, in place of a graph that it does not have."""

from __future__ import annotations

import streamlit as st

from atlas.circuit import Circuit
from ui import heat_map, markup
from ui.heat_map import Cell
from ui.shared import fragment, heading, note, show

ANYWHERE = -2  # the choice "where each head does most"


@fragment
def maps(circuit: Circuit) -> None:
    """One map for each site, heads apart, and the strongest cells as a table."""
    parameters = circuit.record.method.parameters
    direction = str(parameters.get("direction", ""))
    most = heat_map.largest(circuit)
    note(_said(direction, len(circuit.record.examples)))
    show(heat_map.scale_line(most))
    drawn = [
        (title, heat_map.by_position(circuit, kind), _columns(circuit, kind))
        for kind, title in heat_map.TITLES.items()
        if circuit.nodes.is_kind(kind).any()
    ]
    places = [st.columns(2, gap="large") for _ in range((len(drawn) + 2) // 2)]
    cells = [column for pair in places for column in pair]
    for (title, found, columns), place in zip(drawn, cells, strict=False):
        with place:
            heading(title)
            _draw(found, columns, most, title)
    if circuit.nodes.is_kind("head").any():
        with cells[len(drawn)]:
            _heads(circuit, most)
    _table(circuit)


def _said(direction: str, cases: int) -> str:
    over = f"Mean of {cases:,} cases; tokens are those of the first, … where others differ. " if cases > 1 else ""
    if direction == "noise":
        how = "the clean run with one part from the corrupted run: 1 = the corrupted run's metric, 0 = nothing lost"
    elif direction == "denoise":
        how = "the corrupted run with one part from the clean run: 1 = the clean run's metric, 0 = nothing restored"
    else:
        how = "one part patched: 1 = the whole difference between the two runs, 0 = none of it"
    return f"{over}Each cell is {how}. Hover for numbers, click a cell to keep them."


def _columns(circuit: Circuit, kind: str) -> list[str]:
    names = heat_map.position_names(circuit)
    present = sorted(set(circuit.nodes.position[circuit.nodes.is_kind(kind)].tolist()))
    return [heat_map.named(names, position) for position in present]


def _heads(circuit: Circuit, most: float) -> None:
    positions = heat_map.head_positions(circuit)
    names = heat_map.position_names(circuit)
    options = [*([-1] if -1 in positions else [ANYWHERE]), *(p for p in positions if p >= 0)]
    titles = {-1: "all positions at once", ANYWHERE: "where each does most"}
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        heading("Attention heads")
        chosen = (
            st.selectbox(
                "Heads at",
                options,
                format_func=lambda p: titles.get(p) or heat_map.named(names, p),
                label_visibility="collapsed",
                width=240,
            )
            if len(options) > 1
            else options[0]
        )
    found = heat_map.heads_at(circuit, None if chosen == ANYWHERE else chosen)
    indices = sorted({int(cell.across.split()[-1]) for cell in found})
    _draw(found, [f"head {index}" for index in indices], most, "attention heads")


def _draw(cells: list[Cell], columns: list[str], most: float, what: str) -> None:
    state = st.vega_lite_chart(
        spec=heat_map.spec(cells, columns, most, what), width="stretch", on_select="rerun", key=f"ca-map-{what}"
    )
    picked = [point.get("key") for point in state["selection"].get("cell", [])]
    cell = next((cell for cell in cells if cell.key in picked), None)
    if cell is not None:
        metric = "" if cell.metric is None else f", metric {markup.number(cell.metric)}"
        show(
            markup.tag(
                "p",
                markup.tag("strong", f"layer {cell.layer}, {cell.across}: "),
                f"effect {markup.number(cell.effect)}{metric} · ",
                markup.tag("code", cell.key),
                cls="ca-line",
                role="status",
            )
        )


def _table(circuit: Circuit) -> None:
    heading("Largest effects")
    rows = heat_map.strongest(circuit)
    show(
        markup.table(
            ["What", "At", "Effect", "Metric"],
            [
                [
                    markup.link("circuit", name, circuit=circuit.id, node=cell.key),
                    cell.across,
                    markup.number(cell.effect),
                    markup.number(cell.metric),
                ]
                for cell, name in rows
            ],
            numeric=[2, 3],
        )
    )
