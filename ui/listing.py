"""Lists that several pages show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from atlas.group_records import AnnotationRow
from atlas.records import CircuitRow, FeatureInCircuit, Influence
from ui import markup
from ui.markup import Safe


def circuit_name(row: CircuitRow) -> str:
    """What a list calls a circuit: name, or the prompt where it has none."""
    return row.name or row.prompt or row.id


def when(created_at: str) -> str:
    return created_at[:16].replace("T", " ")


def circuit_table(rows: Iterable[CircuitRow]) -> Safe:
    return markup.table(
        ["Name", "Prompt", "Model", "Nodes", "Edges", "Verdict", "Made"],
        [
            [
                markup.link("circuit", circuit_name(row), circuit=row.id),
                markup.visible(row.prompt),
                row.model,
                f"{row.nodes:,}",
                f"{row.edges:,}",
                row.verdict,
                when(row.created_at),
            ]
            for row in rows
        ],
        numeric=[3, 4],
    )


def occurrence_table(rows: Iterable[FeatureInCircuit]) -> Safe:
    return markup.table(
        ["Circuit", "Prompt", "At token", "Activation", "Influence"],
        [
            [
                markup.link("circuit", row.name or row.circuit, circuit=row.circuit, node=row.node),
                markup.visible(row.prompt),
                f"{markup.visible(row.token)} ({row.position})",
                markup.number(row.activation),
                markup.number(row.influence),
            ]
            for row in rows
        ],
        numeric=[3, 4],
    )


def influence_table(rows: Iterable[Influence]) -> Safe:
    return markup.table(
        ["Feature", "Circuits", "Mean share", "Mean weight", "Raises in"],
        [
            [
                markup.link("feature", row.label or row.feature, feature=row.feature),
                f"{row.circuits:,}",
                markup.share(row.mean_share),
                markup.number(row.mean_weight),
                f"{row.positive:.0%}",
            ]
            for row in rows
        ],
        numeric=[1, 2, 3, 4],
    )


def subject_link(row: AnnotationRow, names: Mapping[str, str] | None = None) -> Safe:
    """A link to what an annotation is about; `names` of circuits by their id."""
    kind, _, name = row.subject.partition(":")
    if row.subject_kind == "feature":
        return markup.link("feature", name, feature=name)
    if row.subject_kind == "collection":
        return markup.link("collections", name, collection=name)
    if row.subject_kind == "concept":
        return markup.link("paths", name, **{"from": f"{kind}:{name}"})
    circuit, _, part = row.subject.partition("#")
    node = part.partition("->")[0]
    where = {"node": "a node of ", "edge": "an edge of "}.get(row.subject_kind, "")
    return markup.link("circuit", f"{where}{(names or {}).get(circuit, circuit)}", circuit=circuit, node=node)


DEEDS = {"add": "added", "change": "changed", "remove": "removed", "undo": "undid"}


def annotation_table(rows: Iterable[AnnotationRow], names: Mapping[str, str]) -> Safe:
    """What people wrote; `names` of circuits by their id."""
    return markup.table(
        ["When", "Who", "What", "On", "Text"],
        [
            [when(row.created_at), row.author, f"{DEEDS[row.action]} a {row.kind}", subject_link(row, names), row.text]
            for row in rows
        ],
    )
