"""What the charts of the pages have in common: colours that read on light and dark, and small Vega-Lite pieces. Pure.

A specification is a plain dictionary with its data inside; Streamlit gives it the theme's text colours and fonts. Colour never
carries a meaning alone: marks have shapes too, lines have dashes, negative cells a sign.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from atlas.causal_records import Mark

POSITIVE, NEGATIVE, GREY = "#2f7de1", "#e2711d", "#8b919a"
MARKS: tuple[Mark, ...] = ("confirmed", "refuted", "inconclusive", "untested")
MARK_COLOURS = {"confirmed": "#2a9158", "refuted": "#c22f55", "inconclusive": "#8b919a", "untested": "#2f7de1"}
MARK_SHAPES = {"confirmed": "circle", "refuted": "cross", "inconclusive": "square", "untested": "diamond"}
GLYPHS = {"confirmed": "✓", "refuted": "✗", "inconclusive": "?", "untested": "–"}
Spec = dict[str, Any]


def finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def extent(values: Iterable[float | None], room: float = 0.06) -> list[float]:
    """[low, high] of the finite values and 0, with some room; never empty."""
    known = [0.0, *(float(value) for value in values if value is not None and math.isfinite(value))]
    low, high = min(known), max(known)
    margin = (high - low) * room or 1.0
    return [low - margin, high + margin]


def rule(axis: str, at: float, dashed: bool = False) -> Spec:
    """A grey line across the chart at one value of `axis`."""
    mark = {"type": "rule", "color": GREY, "opacity": 0.6, "strokeDash": [4, 4] if dashed else []}
    return {"data": {"values": [{"at": at}]}, "mark": mark, "encoding": {axis: {"field": "at", "type": "quantitative"}}}


def numeric(field: str, title: str, domain: list[float] | None = None, **more: Any) -> Spec:
    """A quantitative axis."""
    scale = {"domain": domain, "nice": False, "zero": False} if domain else {}
    axis = {"tickCount": 6}
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, "axis": axis, **more}


def shown(field: str, title: str, number: bool = True) -> Spec:
    """A line of a tooltip."""
    return {"field": field, "title": title} | (
        {"type": "quantitative", "format": ".3~g"} if number else {"type": "nominal"}
    )
