"""Lists that several pages show."""

from __future__ import annotations

from collections.abc import Iterable

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
