"""Heat maps of an activation-patching circuit: layer by position for every site, layer by head. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlas.circuit import KIND, KINDS, SITES, Circuit
from ui import markup
from ui.charts import GREY, NEGATIVE, POSITIVE, Spec, shown

METHOD = "activation patching"
EFFECT, METRIC = "patching.effect", "patching.metric"
TITLES = {"resid": "Residual stream, before each layer", "attn": "Attention output", "mlp": "MLP output"}
SIGNED = 0.15  # of the largest effect: from there on a negative cell carries a minus
CELL = 17  # px, height
FEW = 12  # layers; of so few the cells are higher


@dataclass(frozen=True)
class Cell:
    """One patched place; `across` is what the column is called."""

    key: str
    across: str
    layer: int
    effect: float
    metric: float | None


def is_patching(circuit: Circuit) -> bool:
    return circuit.record.method.name == METHOD and len(circuit.extra.get(EFFECT, ())) == len(circuit.nodes) > 0


def largest(circuit: Circuit) -> float:
    """The largest absolute effect, 1 when there is none: the end of the colour scale of every map."""
    effect = circuit.extra[EFFECT]
    return float(np.abs(effect[np.isfinite(effect)]).max(initial=0.0)) or 1.0


def by_position(circuit: Circuit, kind: str) -> list[Cell]:
    """Cells of one site (`resid`, `attn`, `mlp`), by token and layer."""
    names = position_names(circuit)
    n = circuit.nodes
    rows = np.flatnonzero((n.kind == KIND[kind]) & np.isfinite(circuit.extra[EFFECT]))
    return [_cell(circuit, row, named(names, int(n.position[row]))) for row in rows.tolist()]


def head_positions(circuit: Circuit) -> list[int]:
    """Positions at which single heads were patched; -1 = over all positions at once."""
    n = circuit.nodes
    return sorted(set(n.position[n.is_kind("head")].tolist()))


def heads_at(circuit: Circuit, position: int | None) -> list[Cell]:
    """Cells by head and layer, at one position; None = for each head the position where it does most."""
    n, effect = circuit.nodes, circuit.extra[EFFECT]
    rows = np.flatnonzero(n.is_kind("head") & np.isfinite(effect))
    if position is not None:
        rows = rows[n.position[rows] == position]
    best: dict[tuple[int, int], int] = {}
    for row in rows.tolist():
        place = int(n.layer[row]), int(n.index[row])
        if place not in best or abs(effect[row]) > abs(effect[best[place]]):
            best[place] = row
    return [_cell(circuit, row, f"head {index}") for (_, index), row in sorted(best.items())]


def strongest(circuit: Circuit, most: int = 12) -> list[tuple[Cell, str]]:
    """Cells of the largest effect with what is patched, strongest first; `across` is where."""
    effect = np.nan_to_num(circuit.extra[EFFECT])
    order = np.argsort(-np.abs(effect), kind="stable")[:most].tolist()
    names = position_names(circuit)
    return [
        (_cell(circuit, row, named(names, int(circuit.nodes.position[row]))), name(circuit, row))
        for row in order
        if effect[row]
    ]


def name(circuit: Circuit, row: int) -> str:
    """`head 3.1`, `residual stream before layer 2`, without its position."""
    n = circuit.nodes
    kind, layer, index = KINDS[n.kind[row]], int(n.layer[row]), int(n.index[row])
    if kind == "head":
        return f"head {layer}.{index}"
    if kind == "resid":
        return f"residual stream {'before' if SITES[n.site[row]] == 'pre' else 'after'} layer {layer}"
    return {"attn": f"attention output {layer}", "mlp": f"MLP output {layer}"}.get(kind, circuit.keys[row])


def position_names(circuit: Circuit) -> list[str]:
    """By position: its number and token; three dots after the token where the cases differ there, from the first case."""
    examples = circuit.record.examples
    if not examples:
        return []
    return [
        f"{at} {markup.visible(token).strip() or '␣'}"
        + ("" if all(at < len(e.tokens) and e.tokens[at] == token for e in examples[1:]) else " …")
        for at, token in enumerate(examples[0].tokens)
    ]


def spec(cells: list[Cell], columns: list[str], most: float, what: str) -> Spec:
    """One heat map. `columns` in their order; `most` = end of the colour scale; `what` it is of, for screen readers."""
    values = [
        {
            "key": cell.key,
            "across": cell.across,
            "layer": cell.layer,
            "effect": cell.effect,
            "metric": cell.metric,
            "sign": "−" if cell.effect <= -SIGNED * most else "",
        }
        for cell in cells
    ]
    layers = sorted({cell.layer for cell in cells}, reverse=True)
    tiny = most * 1e-6
    x = {
        "field": "across",
        "type": "ordinal",
        "sort": columns,
        "title": None,
        "scale": {"domain": columns},
        "axis": {"labelAngle": -50, "labelLimit": 110, "ticks": False, "domain": False, "labelOverlap": False},
    }
    y = {
        "field": "layer",
        "type": "ordinal",
        "sort": layers,
        "title": "layer",
        "axis": {"ticks": False, "domain": False, "labelOverlap": False},
    }
    colour = {
        "field": "effect",
        "type": "quantitative",
        "legend": None,
        "scale": {
            "domain": [-most, -tiny, tiny, most],
            "range": [NEGATIVE, f"{NEGATIVE}00", f"{POSITIVE}00", POSITIVE],
        },
    }
    tooltip = [
        shown("across", "at", number=False),
        {"field": "layer", "title": "layer", "type": "ordinal"},
        shown("effect", "effect"),
        shown("metric", "metric"),
    ]
    return {
        "description": f"Heat map of patching effects: {what}, layers upwards.",
        "height": {"step": CELL if len(layers) > FEW else 1.4 * CELL},
        "data": {"values": values},
        "encoding": {"x": x, "y": y},
        "layer": [
            {
                "params": [{"name": "cell", "select": {"type": "point", "fields": ["key"], "on": "click"}}],
                "mark": {
                    "type": "rect",
                    "stroke": "#8b919a",
                    "strokeOpacity": 0.28,
                    "strokeWidth": 0.6,
                    "cursor": "pointer",
                },
                "encoding": {"color": colour, "tooltip": tooltip},
            },
            {
                "mark": {"type": "text", "fontSize": 12, "fontWeight": "bold", "tooltip": None},
                "encoding": {
                    "text": {"field": "sign"},
                    "color": {"condition": {"test": f"datum.effect < {-most / 2}", "value": "white"}, "value": GREY},
                },
            },
        ],
    }


def scale_line(most: float) -> markup.Safe:
    """The colour scale, once for all maps."""
    return markup.tag(
        "p",
        markup.number(-most, 2),
        markup.tag("span", cls="ca-scale", role="img", aria_label="orange below zero, blue above"),
        f"+{markup.number(most, 2)}",
        cls="ca-line ca-scale-line",
    )


def _cell(circuit: Circuit, row: int, across: str) -> Cell:
    metric = circuit.extra.get(METRIC)
    value = float(metric[row]) if metric is not None and len(metric) > row else float("nan")
    return Cell(
        circuit.keys[row],
        across,
        int(circuit.nodes.layer[row]),
        float(f"{float(circuit.extra[EFFECT][row]):.4g}"),
        float(f"{value:.4g}") if np.isfinite(value) else None,
    )


def named(names: list[str], position: int) -> str:
    """What the column of a position is called."""
    if position < 0:
        return "all positions"
    return names[position] if position < len(names) else f"{position}"
