"""A node's inputs, or one edge, opened: how much went straight through the residual stream, how much by which attention head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atlas.circuit import Circuit
from atlas.edges import stored_parts
from atlas.records import EdgePart
from ui import markup
from ui.markup import Safe

INPUTS = 6  # strongest edges shown
HEADS = 4  # strongest heads of an edge shown
NOTHING = 0.005  # of the edge: a smaller share would be rounded to 0%


def opened_inputs(circuit: Circuit, names: Sequence[str], row: int) -> Safe | None:
    """Of the node in `row`; None where the circuit stores no edge into it opened. `names`: of the nodes, by row."""
    if "heads.edge" not in circuit.extra:
        return None
    e = circuit.edges
    inputs = np.flatnonzero(e.target == row)
    opened = inputs[np.isin(inputs, circuit.extra["heads.edge"]) & (e.weight[inputs] != 0)]
    opened = opened[np.argsort(-np.abs(e.weight[opened]), kind="stable")]
    if not len(opened):
        return None
    shown = opened[:INPUTS].tolist()
    table = markup.table(
        ["Strongest inputs", "Weight", "Straight", "Through heads", "Other"],
        [_cells(circuit, names, edge) for edge in shown],
        numeric=[1, 2, 4],
        cls="ca-opened",
    )
    said = (
        f"{len(shown)} of {markup.counted(len(inputs), 'input')}. Shares are of the input's weight and sum to 100%: straight "
        "through the residual stream, or by the last attention head on the way (`layer.head`, from token → to token)."
    )
    return Safe(table + markup.tag("p", markup.ticked(said), cls="ca-note"))


def opened_edge(circuit: Circuit, edge: int) -> Safe | None:
    """All parts of one edge, strongest first; None where the circuit does not store them."""
    weight = float(circuit.edges.weight[edge])
    parts = stored_parts(circuit, edge)
    if not parts or not weight:
        return None
    ways = {"straight": "straight through the residual stream", "skip": "by the transcoder's skip", "rest": "the rest"}
    rows = []
    for part in parts:
        way: object = ways.get(part.way, part.way)
        if part.way == "head":
            way = Safe("head " + markup.tag("code", f"{part.layer}.{part.head}"))
        moved = part.way == "head"
        where = f"{_token(circuit, part.from_position)} → {_token(circuit, part.to_position)}" if moved else ""
        rows.append([way, where, markup.number(part.weight), _share(part.weight, weight)])
    return markup.table(["How it travelled", "From → to", "Weight", "Share"], rows, numeric=[2, 3], cls="ca-opened")


def _cells(circuit: Circuit, names: Sequence[str], edge: int) -> list[object]:
    source, weight = int(circuit.edges.source[edge]), float(circuit.edges.weight[edge])
    parts = stored_parts(circuit, edge)
    straight = sum(part.weight for part in parts if part.way == "straight")
    heads = [part for part in parts if part.way == "head" and abs(part.weight / weight) >= NOTHING][:HEADS]
    other = weight - straight - sum(part.weight for part in heads)
    return [
        markup.link("circuit", markup.visible(names[source]), circuit=circuit.id, node=circuit.keys[source]),
        markup.number(weight),
        _share(straight, weight),
        Safe("".join(_head(circuit, part, weight) for part in heads)) or "–",
        _share(other, weight),
    ]


def _head(circuit: Circuit, part: EdgePart, weight: float) -> Safe:
    return markup.tag(
        "span",
        markup.tag("code", f"{part.layer}.{part.head}"),
        f" {_token(circuit, part.from_position)} → {_token(circuit, part.to_position)} ",
        markup.tag("b", _share(part.weight, weight)),
        cls="ca-part",
        title=f"weight {part.weight:.3g}",
    )


def _share(part: float, weight: float) -> str:
    share = part / weight
    return "–" if abs(share) < NOTHING else f"{'−' if share < 0 else ''}{abs(share):.0%}"


def _token(circuit: Circuit, position: int | None) -> str:
    if position is None or not 0 <= position < len(circuit.tokens):
        return "–" if position is None else str(position)
    return markup.visible(circuit.tokens[position]).strip() or "␣"
