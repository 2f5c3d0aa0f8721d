"""Effects that the graph predicted against effects that were measured, as charts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from atlas.causal_records import InterventionRow, Mark, Moved
from ui.charts import (
    GREY,
    MARK_COLOURS,
    MARK_SHAPES,
    MARKS,
    NEGATIVE,
    POSITIVE,
    Spec,
    extent,
    finite,
    numeric,
    rule,
    shown,
)

HEIGHT = 340  # px


@dataclass(frozen=True)
class Point:
    """One tested thing: effects on the first target; `quantile` of the absolute effects of its controls."""

    name: str
    predicted: float
    measured: float
    mark: Mark = "untested"
    quantile: float | None = None


def effects(points: Sequence[Point]) -> Spec:
    """Predicted against measured with a grey bar for what 95% of each one's controls stay within; the line is y = x."""
    known = [p for p in points if finite(p.predicted) and finite(p.measured)]
    values = [
        {
            "name": p.name,
            "predicted": p.predicted,
            "measured": p.measured,
            "mark": p.mark,
            "low": -(p.quantile or 0.0),
            "high": p.quantile or 0.0,
        }
        for p in known
    ]
    present = [mark for mark in MARKS if any(p.mark == mark for p in known)]
    across = extent(p.predicted for p in known)
    up = extent(v for p in known for v in (p.measured, p.quantile, -(p.quantile or 0.0)))
    x, y = numeric("predicted", "predicted by the graph", across), numeric("measured", "measured in the model", up)
    scale = {"domain": present, "range": [MARK_COLOURS[mark] for mark in present]}
    shapes = {"domain": present, "range": [MARK_SHAPES[mark] for mark in present]}
    legend = {"orient": "top", "title": None, "symbolSize": 110}
    bars = {
        "mark": {"type": "rule", "strokeWidth": 7, "color": GREY, "opacity": 0.28, "clip": True},
        "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
    }
    dots = {
        "mark": {"type": "point", "filled": True, "size": 90, "opacity": 0.95, "clip": True},
        "encoding": {
            "x": x,
            "y": y,
            "color": {"field": "mark", "type": "nominal", "scale": scale, "legend": legend},
            "shape": {"field": "mark", "type": "nominal", "scale": shapes, "legend": legend},
            "tooltip": [
                shown("name", "what", number=False),
                shown("predicted", "predicted"),
                shown("measured", "measured"),
                shown("high", "95% of its controls within ±"),
                shown("mark", "mark", number=False),
            ],
        },
    }
    return {
        "description": "Scatter of effects on the target: predicted by the graph across, measured in the model upwards.",
        "height": HEIGHT,
        "data": {"values": values},
        "layer": [rule("x", 0.0), rule("y", 0.0), _same(across, up, x, y), bars, dots],
    }


def moved(row: InterventionRow, name: Callable[[Moved], str]) -> Spec:
    """Every node downstream of one intervention; targets are diamonds. `name`: what a node is called."""
    targets = {target.node for target in row.targets}
    by_node = {m.node: m for m in [*row.moved, *row.targets]}
    known = [m for m in by_node.values() if finite(m.predicted) and finite(m.measured)]
    values = [
        {"name": name(m), "predicted": m.predicted, "measured": m.measured, "is": _kind(m, targets)} for m in known
    ]
    across, up = extent(m.predicted for m in known), extent(m.measured for m in known)
    x, y = numeric("predicted", "predicted by the graph", across), numeric("measured", "measured in the model", up)
    order = [name for name in ("node", "target") if any(value["is"] == name for value in values)]
    legend = {"orient": "top", "title": None, "symbolSize": 110}
    colours = {"domain": order, "range": [{"node": POSITIVE, "target": NEGATIVE}[name] for name in order]}
    shapes = {"domain": order, "range": [{"node": "circle", "target": "diamond"}[name] for name in order]}
    dots = {
        "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.8, "clip": True},
        "encoding": {
            "x": x,
            "y": y,
            "color": {"field": "is", "type": "nominal", "scale": colours, "legend": legend},
            "shape": {"field": "is", "type": "nominal", "scale": shapes, "legend": legend},
            "tooltip": [
                shown("name", "node", number=False),
                shown("predicted", "predicted"),
                shown("measured", "measured"),
            ],
        },
    }
    return {
        "description": "Scatter over the nodes downstream: predicted change across, measured change upwards.",
        "height": HEIGHT - 60,
        "data": {"values": values},
        "layer": [rule("x", 0.0), rule("y", 0.0), _same(across, up, x, y), dots],
    }


def beside_controls(row: InterventionRow) -> Spec:
    """One line: what the controls did to the first target as ticks, and where the prediction and the measurement lie."""
    first = row.targets[0]
    values = [
        {"effect": value, "what": what}
        for what, value in (("predicted", first.predicted), ("measured", first.measured))
        if finite(value)
    ]
    ticks = [{"effect": effect, "what": "a control"} for effect in row.controls.effects if finite(effect)]
    quantile = row.controls.quantile
    x = numeric(
        "effect",
        "effect on the target",
        extent([*row.controls.effects, first.predicted, first.measured, quantile, -(quantile or 0.0)]),
    )
    tooltip = [shown("what", "what", number=False), shown("effect", "effect")]
    order = [str(value["what"]) for value in values]
    legend = {"orient": "top", "title": None, "symbolSize": 110}
    layers: list[Spec] = [rule("x", 0.0)]
    if quantile:
        band = {
            "data": {"values": [{"low": -quantile, "high": quantile}]},
            "mark": {"type": "rect", "color": GREY, "opacity": 0.18},
            "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}},
        }
        layers.insert(0, band)
    if ticks:
        mark = {"type": "tick", "color": GREY, "thickness": 2, "size": 26}
        layers.append({"data": {"values": ticks}, "mark": mark, "encoding": {"x": x, "tooltip": tooltip}})
    dots = {
        "x": x,
        "color": _scale("what", order, {"predicted": NEGATIVE, "measured": POSITIVE}, legend),
        "shape": _scale("what", order, {"predicted": "diamond", "measured": "circle"}, legend),
        "tooltip": tooltip,
    }
    layers.append({"mark": {"type": "point", "filled": True, "size": 130, "opacity": 1}, "encoding": dots})
    return {
        "description": "Effects on the target: the controls as ticks, the prediction as a diamond, the measurement as a dot.",
        "height": 140,
        "data": {"values": values},
        "layer": layers,
    }


def _scale(field: str, order: list[str], by: dict[str, str], legend: Spec) -> Spec:
    return {
        "field": field,
        "type": "nominal",
        "legend": legend,
        "scale": {"domain": order, "range": [by[name] for name in order]},
    }


def _kind(m: Moved, targets: set[str]) -> str:
    return "target" if m.node in targets else "node"


def _same(across: list[float], up: list[float], x: Spec, y: Spec) -> Spec:
    """The line on which measured = predicted, as far as both axes go."""
    low, high = max(across[0], up[0]), min(across[1], up[1])
    ends = [{"predicted": low, "measured": low}, {"predicted": high, "measured": high}]
    return {
        "data": {"values": ends},
        "mark": {"type": "line", "color": GREY, "strokeDash": [5, 4], "opacity": 0.8},
        "encoding": {"x": x, "y": y},
    }
