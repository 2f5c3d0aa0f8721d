"""Faithfulness curves of a circuit as charts, and what they say in sentences. Pure.

f(k) = (m(C_k) - m(empty)) / (m(full) - m(empty)) over the fraction of edges kept (Mueller et al. 2025, MIB).
"""

from __future__ import annotations

from collections.abc import Sequence

from atlas.causal_records import Curve, FaithfulnessResult
from ui import markup
from ui.charts import GREY, NEGATIVE, POSITIVE, Spec, finite, numeric, rule, shown

HEIGHT = 320  # px
OWN = ("by signed score", "by absolute score")
DASHES: tuple[list[int], ...] = ([], [7, 4], [2, 3], [9, 3, 2, 3], [1, 5], [12, 4])
ENOUGH = 0.85  # of the metric
STAR = "M0,-1L0.29,-0.4L0.95,-0.31L0.48,0.15L0.59,0.81L0,0.5L-0.59,0.81L-0.48,0.15L-0.95,-0.31L-0.29,-0.4Z"
COLOURS = (POSITIVE, "#9265d0", GREY, NEGATIVE, "#2a9158", "#c22f55")


def kept(result: FaithfulnessResult) -> Spec:
    """f over the fraction of edges kept: this circuit's two rankings, and the baselines with the band of the random ones."""
    named = [(OWN[0], result.signed), (OWN[1], result.absolute), *((curve.name, curve) for curve in result.baselines)]
    made = _chart(result.fractions, named, f"fraction of the {result.unit} kept", "faithfulness f")
    if result.circuit_size and result.total and finite(result.circuit_faithfulness):
        stored = {"fraction": result.circuit_size / result.total, "value": result.circuit_faithfulness}
        made["layer"].append(_stored(stored, made["layer"][-1]["encoding"], result.circuit_size))
    return made


def removed(result: FaithfulnessResult) -> Spec:
    """Damage over the fraction of edges removed, strongest first."""
    return _chart(
        result.fractions,
        [(f"top {result.unit} removed", result.damage)],
        f"fraction of the {result.unit} removed",
        "damage",
    )


def _chart(fractions: Sequence[float], named: Sequence[tuple[str, Curve]], across: str, up: str) -> Spec:
    names = [name for name, _ in named]
    lines, bands = [], []
    for name, curve in named:
        # 0 has no place on a logarithmic axis
        for at, fraction in enumerate(fractions):
            if fraction <= 0 or at >= len(curve.values) or not finite(curve.values[at]):
                continue
            lines.append({"fraction": fraction, "value": curve.values[at], "name": name})
            if curve.low and curve.high and finite(curve.low[at]) and finite(curve.high[at]):
                bands.append({"fraction": fraction, "low": curve.low[at], "high": curve.high[at], "name": name})
    x = numeric("fraction", across)
    x["scale"] = {"type": "log", "nice": False}
    x["axis"] = {"format": "~%", "tickCount": 4, "labelFlush": True, "grid": False}
    y = numeric("value", up)
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    colour = {
        "field": "name",
        "type": "nominal",
        "scale": {"domain": names, "range": colours},
        "legend": {
            "orient": "top",
            "title": None,
            "columns": 2,
            "symbolSize": 300,
            "symbolStrokeWidth": 2,
            "symbolType": "stroke",
            "symbolOpacity": 1,
            "labelLimit": 240,
        }
        if len(names) > 1
        else None,
    }
    dash = {**colour, "scale": {"domain": names, "range": [DASHES[i % len(DASHES)] for i in range(len(names))]}}
    layers: list[Spec] = [rule("y", 0.0), rule("y", 1.0, dashed=True)]
    if bands:
        layers.append(
            {
                "data": {"values": bands},
                "mark": {"type": "area", "opacity": 0.25},
                "encoding": {
                    "x": x,
                    "y": {**y, "field": "low"},
                    "y2": {"field": "high"},
                    "color": colour,
                },
            }
        )
    layers += [
        {
            "mark": {"type": "line", "strokeWidth": 2.2},
            "encoding": {"x": x, "y": y, "color": colour, "strokeDash": dash},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 36},
            "encoding": {
                "x": x,
                "y": y,
                "color": colour,
                "tooltip": [
                    shown("name", "edges", number=False),
                    {**shown("fraction", "fraction"), "format": ".2~%"},
                    shown("value", up),
                ],
            },
        },
    ]
    return {
        "description": f"Curves: {up} over the {across}.",
        "height": HEIGHT,
        "data": {"values": lines},
        "layer": layers,
    }


def _stored(point: Spec, encoding: Spec, size: int) -> Spec:
    """A star where the circuit as stored lies."""
    return {
        "data": {"values": [{**point, "name": f"the circuit as stored ({size:,})"}]},
        "mark": {"type": "point", "shape": STAR, "filled": True, "size": 150, "color": NEGATIVE},
        "encoding": {name: encoding[name] for name in ("x", "y", "tooltip")},
    }


def area_rows(result: FaithfulnessResult) -> list[tuple[str, float | None, float | None]]:
    """(what ranked the edges, CPR, CMD): this circuit first, then the baselines."""
    others = dict.fromkeys([*result.baseline_cpr, *result.baseline_cmd])
    rows: list[tuple[str, float | None, float | None]] = [("this circuit", result.cpr, result.cmd)]
    return rows + [(name, result.baseline_cpr.get(name), result.baseline_cmd.get(name)) for name in others]


def sentences(result: FaithfulnessResult) -> list[str]:
    """What the curves are of, and how to read the areas."""
    first = next(
        (
            fraction
            for fraction, value in zip(result.fractions, result.signed.values, strict=False)
            if finite(value) and value >= ENOUGH
        ),
        None,
    )
    said = [
        f"f is 1 when the {result.unit} kept give the whole model's {result.metric} ({markup.number(result.full)}) and 0 when nothing is kept "
        f"({markup.number(result.empty)}). Over {result.cases} case{'' if result.cases == 1 else 's'}."
    ]
    if first is not None:
        said.append(f"{markup.share(first)} of the {result.unit}, by signed score, are enough for {ENOUGH:.0%} of it.")
    if (
        result.circuit_size
        and result.total
        and result.circuit_faithfulness is not None
        and finite(result.circuit_faithfulness)
    ):
        said.append(
            f"The circuit as stored (the star) keeps {result.circuit_size:,} of {result.total:,} {result.unit} and reaches "
            f"{result.circuit_faithfulness:.2f}."
        )
    said.append(
        f"CPR is the area under f, {result.unit} ranked by signed score: higher is better. CMD is the area of |1 − f|, ranked by "
        "absolute score: lower is better. Both mean something only beside random circuits of the same size and plain gradients."
    )
    return said
