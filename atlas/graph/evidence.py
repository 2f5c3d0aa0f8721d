"""Interventions and the marks of tested edges as rows for `UNWIND`: pure functions, no server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from atlas.causal_records import EdgeMark, InterventionRow, Moved
from atlas.graph.projection import Step, number

MOST_MOVED = 50  # nodes of one intervention that the graph holds; the catalog has them all


@dataclass
class EvidenceProjection:
    """What the graph is told of a circuit's evidence. `properties`: of the Circuit node. `whole`: this is all of it."""

    circuit_id: str
    properties: dict[str, Any] = field(default_factory=dict)
    interventions: list[InterventionRow] = field(default_factory=list)
    marks: list[EdgeMark] = field(default_factory=list)
    whole: bool = False

    @property
    def steps(self) -> list[Step]:
        """The same evidence always gives the same rows; each may be put again."""
        return evidence_steps(self.interventions, self.marks)


def evidence_steps(interventions: list[InterventionRow], marks: list[EdgeMark]) -> list[Step]:
    """Interventions first, because the others name them; node keys without the circuit's id."""
    return [
        Step("interventions", [_intervention(row) for row in interventions]),
        Step("perturbed", [[row.id, key] for row in interventions for key in perturbed(row)]),
        Step("moved", [line for row in interventions for line in _moved(row)]),
        Step("marks", [[mark.source, mark.target, mark.mark] for mark in marks]),
    ]


def perturbed(row: InterventionRow) -> list[str]:
    """Of a cut all nodes of the path but the last, which is what moved."""
    keys = row.nodes[:-1] if row.request.kind == "cut" else row.nodes
    return list(dict.fromkeys(keys))


def _intervention(row: InterventionRow) -> dict[str, Any]:
    request = row.request
    value = {"ablate": 0.0, "scale": request.factor, "steer": request.value}.get(request.kind)
    properties = {
        "circuit": row.circuit,
        "kind": request.kind,
        "mark": row.mark,
        "value": value,
        "battery": row.battery,
        "author": row.author,
        "created_at": row.created_at,
        "spearman": number(row.spearman),
    }
    return {"key": row.id, "properties": {name: said for name, said in properties.items() if said is not None}}


def _moved(row: InterventionRow) -> list[list[Any]]:
    """[intervention, node key, predicted, actual]: the targets, then the nodes that moved most."""
    strongest = sorted(row.moved, key=lambda moved: -abs(moved.measured))
    lines: dict[str, Moved] = {}
    for moved in (*row.targets, *strongest):
        lines.setdefault(moved.node, moved)
    return [
        [row.id, moved.node, number(moved.predicted), moved.measured] for moved in list(lines.values())[:MOST_MOVED]
    ]
