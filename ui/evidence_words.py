"""Interventions and marks in words and small pieces of HTML. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from atlas.causal_records import InterventionRow, Mark, Moved, VerifyResult
from atlas.circuit import Circuit
from atlas.records import EvidenceCounts
from ui import markup
from ui.charts import GLYPHS
from ui.markup import Safe

MEANINGS = {
    "confirmed": "moved as the graph predicted, and more than its controls",
    "refuted": "the graph predicted more than what controls do; the model did not do it",
    "inconclusive": "neither, or fewer than 8 controls",
}


def mark_chip(mark: Mark, **attributes: str) -> Safe:
    return markup.tag("span", f"{GLYPHS[mark]} {mark}", cls=f"ca-chip mark {mark}", **attributes)


class Names:
    """What the nodes of one circuit are called, as links that choose them."""

    def __init__(self, circuit: Circuit, names: Sequence[str]) -> None:
        self.circuit = circuit
        self.names = names

    def text(self, key: str) -> str:
        row = self.circuit.row_of_key.get(key)
        if row is None:
            return key
        position = int(self.circuit.nodes.position[row])
        token = self.circuit.tokens[position] if 0 <= position < len(self.circuit.tokens) else ""
        name = markup.visible(self.names[row])
        beside = markup.visible(token).strip()
        return f"{name} at “{beside}”" if beside and beside not in name else name

    def moved(self, found: Moved) -> str:
        """What something measured is called: nodes as everywhere, others (a metric, a prompt) by their text."""
        return (
            self.text(found.node) if found.node in self.circuit.row_of_key else markup.visible(found.text or found.node)
        )

    def link(self, key: str) -> Safe:
        if key not in self.circuit.row_of_key:
            return markup.tag("code", key)
        return markup.link("circuit", self.text(key), circuit=self.circuit.id, node=key)


def deed(row: InterventionRow) -> str:
    """What was done, without to whom."""
    request = row.request
    return {
        "ablate": "ablate",
        "scale": f"scale by {markup.number(request.factor)}",
        "steer": f"add {markup.number(request.value)} to",
        "patch": f"take from “{request.prompt}”",
        "cut": "cut",
    }[request.kind]


def subject(row: InterventionRow, names: Names, most: int = 3) -> Safe:
    """What was changed, as links."""
    if row.request.supernode is not None:
        return markup.tag("span", f"supernode {row.request.supernode} ({markup.counted(len(row.nodes), 'node')})")
    if row.request.kind == "cut":
        return _joined([names.link(key) for key in row.nodes], " → ")
    more = len(row.nodes) - most
    pieces = [names.link(key) for key in row.nodes[:most]]
    return Safe(_joined(pieces, ", ") + (markup.esc(f" and {more} more") if more > 0 else ""))


def subject_text(row: InterventionRow, names: Names, most: int = 3) -> str:
    """The same for a chart."""
    if row.request.supernode is not None:
        return row.request.supernode
    if row.request.kind == "cut":
        return " → ".join(names.text(key) for key in row.nodes)
    return ", ".join(names.text(key) for key in row.nodes[:most]) + (" …" if len(row.nodes) > most else "")


def _joined(pieces: Sequence[Safe], between: str) -> Safe:
    return Safe(markup.esc(between).join(pieces))


def counted_marks(counts: EvidenceCounts) -> str:
    """'3 confirmed, 1 refuted', '' when nothing was tested."""
    found = {"confirmed": counts.confirmed, "refuted": counts.refuted, "inconclusive": counts.inconclusive}
    return ", ".join(f"{count:,} {word}" for word, count in found.items() if count)


def intervention_table(rows: Sequence[InterventionRow], names: Names, circuit: str) -> Safe:
    """One line for each, with what it says and why."""
    return markup.table(
        ["Mark", "What was done", "Target", "Predicted", "Measured", "Controls", "By"],
        [_line(row, names, circuit) for row in rows],
        numeric=[3, 4, 5],
        cls="ca-evidence",
    )


def _line(row: InterventionRow, names: Names, circuit: str) -> list[object]:
    first = row.targets[0] if row.targets else None
    return [
        markup.link("circuit", mark_chip(row.mark), circuit=circuit, intervention=row.id),
        Safe(markup.tag("div", deed(row), " ", subject(row, names)) + markup.tag("small", row.reason)),
        _target(first, names) if first else "–",
        markup.number(first.predicted if first else None),
        markup.number(first.measured if first else None),
        "–" if row.controls.quantile is None else f"±{markup.number(row.controls.quantile)} ({row.controls.count})",
        f"{row.author}, {row.created_at[:16].replace('T', ' ')}",
    ]


def _target(found: Moved, names: Names) -> Safe:
    return names.link(found.node) if found.node in names.circuit.row_of_key else markup.esc(names.moved(found))


def score_numbers(result: VerifyResult) -> Safe:
    """The causal score in figures."""
    within = " to ".join(f"{end:.2f}".replace("-", "−") for end in result.interval or ()) or "no interval"
    figures = [
        (markup.number(result.spearman, 2), "Spearman, predicted and measured"),
        (within, f"95%, bootstrap over {result.interval_over}"),
        (markup.number(result.p_value, 2), "p against controls"),
    ]
    return markup.tag(
        "div",
        *(markup.tag("div", markup.tag("b", figure), markup.tag("span", what)) for figure, what in figures),
        cls="ca-numbers",
    )


def marks_line(result: VerifyResult) -> Safe:
    """How many of the tested things, and of the edges, have which mark."""
    lines = []
    for what, counts in (
        ("Things ", (result.confirmed, result.refuted, result.inconclusive)),
        ("Edges ", (result.edges_confirmed, result.edges_refuted, result.edges_inconclusive)),
    ):
        marks = zip(("confirmed", "refuted", "inconclusive"), counts, strict=True)
        chips = [
            markup.tag("span", f"{GLYPHS[mark]} {count} {mark}", cls=f"ca-chip mark {mark}")
            for mark, count in marks
            if count
        ]
        if chips:
            lines.append(markup.tag("p", markup.tag("strong", what), *chips, cls="ca-line"))
    return Safe("".join(lines))


def baseline_table(result: VerifyResult) -> Safe:
    """The circuit's own rank correlation above those of simpler predictors, with bars from -1 to 1."""
    rows: list[tuple[str, float | None, str]] = [("this graph", result.spearman, "")]
    rows += [(b.name, b.spearman, b.note) for b in result.baselines]
    return markup.table(
        ["Predicts by", "Spearman", ""],
        [
            [
                markup.tag("span", name, markup.tag("small", f" {note}") if note else ""),
                markup.number(value, 2),
                _bar(value),
            ]
            for name, value, note in rows
        ],
        numeric=[1],
    )


def _bar(value: float | None) -> Safe:
    """A bar to the right of a middle line for positive values, to the left for negative ones."""
    if value is None:
        return Safe("")
    size = min(1.0, abs(value)) * 50
    left = 50 if value >= 0 else 50 - size
    kind = "raise" if value >= 0 else "lower"
    inner = markup.tag("i", style=f"left:{left:.1f}%;width:{size:.1f}%")
    return markup.tag("span", inner, cls=f"ca-bar {kind}", aria_hidden="true")
