"""A circuit as rows for `UNWIND`: pure functions, no server.

What is put is one fixed sequence of rows per circuit (nodes, attributions, occurrences, then what is added to the
aggregates). The same circuit always gives the same sequence, so that "the first k rows are in" is all that has to be
remembered to go on after a kill, or to take everything back exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote

import numpy as np

from atlas.circuit import KIND, KINDS, SITES, SLOTS, Circuit, duplicate_identities, feature_key
from atlas.edges import head_weights
from atlas.errors import InputRejected
from atlas.graph.influences import influence_rows
from atlas.records import ImportedSupernode

COMPONENT_KINDS = ("head", "mlp")


@dataclass
class CircuitProjection:
    """What the graph holds of one circuit. `counted`: it contributes to Feature.circuits and INFLUENCES (replicates do not)."""

    circuit: Circuit
    name: str
    created_at: str
    created_by: str
    verdict: str
    status: str
    counted: bool
    supernodes: list[ImportedSupernode] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    evidence: list[Step] = field(default_factory=list)  # by `evidence.evidence_steps`

    @property
    def id(self) -> str:
        return self.circuit.id

    @cached_property
    def properties(self) -> dict[str, Any]:
        """Of the Circuit node, without its status and its progress."""
        record = self.circuit.record
        return {
            "name": self.name,
            "tags": self.tags,
            "prompt": record.prompt,
            "model": record.model.name,
            "set": record.transcoders.name,
            "method": record.method.name,
            "unit": record.method.weight_unit,
            "verdict": self.verdict,
            "replacement": number(record.scores.replacement),
            "completeness": number(record.scores.completeness),
            "nodes": len(self.circuit.nodes),
            "edges": len(self.circuit.edges),
            "prompt_key": self.circuit.prompt_key,
            "created_at": self.created_at,
            "created_by": self.created_by,
        }

    @cached_property
    def steps(self) -> list[Step]:
        """The structure: everything that belongs to this circuit alone. Sequence and row order are fixed."""
        return [
            Step("nodes", node_rows(self.circuit)),
            Step("attributes", edge_rows(self.circuit)),
            Step("features", feature_rows(self.circuit)),
            Step("components", component_rows(self.circuit)),
            Step("heads", head_rows(self.circuit)),
        ]

    @cached_property
    def aggregates(self) -> list[Step]:
        """What a counted circuit adds to records that it shares with others. Sequence and row order are fixed."""
        return [
            Step("counts", sorted({row["feature"] for row in self.steps[2].rows})),
            Step("influences", influence_rows(self.circuit)),
        ]

    @cached_property
    def supernode_rows(self) -> list[dict[str, Any]]:
        return supernode_rows(self.id, self.supernodes)


@dataclass(frozen=True)
class Step:
    """Rows for one statement; `name` says which."""

    name: str
    rows: list[Any]


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of one step; `begin` and `end` count in the whole sequence of steps."""

    name: str
    rows: list[Any]
    begin: int
    end: int


def batches(steps: list[Step], sizes: dict[str, int], begin: int, end: int) -> Iterator[Batch]:
    """Rows `begin` to `end` of the whole sequence, cut at step borders and at the step's batch size."""
    offset = 0
    for step in steps:
        first, last = max(begin, offset), min(end, offset + len(step.rows))
        for at in range(first, last, sizes[step.name]):
            until = min(at + sizes[step.name], last)
            yield Batch(step.name, step.rows[at - offset : until - offset], at, until)
        offset += len(step.rows)


def total(steps: list[Step]) -> int:
    return sum(len(step.rows) for step in steps)


def node_key(circuit_id: str, key: str) -> str:
    return f"{circuit_id}/{key}"


def supernode_rows(circuit_id: str, supernodes: list[ImportedSupernode]) -> list[dict[str, Any]]:
    """One map per supernode; keys that the circuit does not have match no node."""
    return [
        {
            "key": f"{circuit_id}/{position}",
            "name": supernode.name,
            "nodes": [node_key(circuit_id, key) for key in dict.fromkeys(supernode.node_keys)],
        }
        for position, supernode in enumerate(supernodes)
    ]


def node_rows(circuit: Circuit) -> list[dict[str, Any]]:
    """One map of properties per node row; unknown numbers are left out. Raises InputRejected on two nodes of one identity."""
    if duplicate_identities(circuit.nodes).any():
        key = circuit.keys[int(np.flatnonzero(duplicate_identities(circuit.nodes))[0])]
        raise InputRejected(f"The circuit {circuit.id} has two nodes {key}.", "Import it again.")
    n = circuit.nodes
    columns = {
        "kind": [KINDS[code] for code in n.kind.tolist()],
        "site": [SITES[code] for code in n.site.tolist()],
        "layer": n.layer.tolist(),
        "position": n.position.tolist(),
        "idx": n.index.tolist(),
        "token": circuit.node_tokens,
        "token_id": token_ids(circuit),
        "probability": numbers(n.probability),
        "activation": numbers(n.activation),
        "influence": numbers(n.influence),
    }
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [
        {"key": node_key(circuit.id, key), "circuit": circuit.id}
        | {name: value for name, value in row.items() if value is not None}
        for key, row in zip(circuit.keys, rows, strict=True)
    ]


def token_ids(circuit: Circuit) -> list[int | None]:
    """By row: the vocabulary id of the token at the node's position, of a logit node its own; None where unknown."""
    example = circuit.record.examples[0] if circuit.record.examples else None
    known = (example.token_ids if example else None) or []
    n = circuit.nodes
    own = n.is_kind("token", "logit").tolist()
    return [
        (index if index >= 0 else None) if mine else (known[position] if 0 <= position < len(known) else None)
        for mine, index, position in zip(own, n.index.tolist(), n.position.tolist(), strict=True)
    ]


def edge_rows(circuit: Circuit) -> list[list[Any]]:
    """[source key, target key, weight, share, slot] per edge, keys without the circuit's id."""
    e, keys = circuit.edges, circuit.keys
    return [
        [keys[source], keys[target], weight, share, SLOTS[slot]]
        for source, target, weight, share, slot in zip(
            e.source.tolist(),
            e.target.tolist(),
            e.weight.astype(np.float64).tolist(),
            circuit.edge_shares.tolist(),
            e.slot.tolist(),
            strict=True,
        )
    ]


def head_rows(circuit: Circuit) -> list[list[Any]]:
    """[source key, target key, slot, weight, straight, heads, their weights] per opened edge; none where none is open.

    Slot and weight tell edges between the same two nodes apart.
    """
    e, keys = circuit.edges, circuit.keys
    return [
        [
            *(keys[e.source[row]], keys[e.target[row]], SLOTS[e.slot[row]], float(e.weight[row])),
            *(straight, list(heads), list(heads.values())),
        ]
        for row, (straight, heads) in head_weights(circuit).items()
    ]


def feature_rows(circuit: Circuit) -> list[dict[str, Any]]:
    """One map per distinct feature, sorted by key, with the keys (without the circuit's id) of the nodes where it occurs."""
    model, transcoders = circuit.record.model.name, circuit.record.transcoders.name
    return _occurrences(
        circuit,
        np.flatnonzero(circuit.nodes.is_kind("feature")),
        lambda layer, index, kind: feature_key(model, transcoders, layer, index),
        {"model": model, "set": transcoders},
        "feature",
    )


def component_rows(circuit: Circuit) -> list[dict[str, Any]]:
    """Heads and MLPs, as `feature_rows`; key `model/kind/layer/index`, the model's name percent-encoded."""
    model = circuit.record.model.name
    rows = []
    for kind in COMPONENT_KINDS:
        rows += _occurrences(
            circuit,
            np.flatnonzero(circuit.nodes.kind == KIND[kind]),
            lambda layer, index, kind=kind: f"{quote(model, safe='')}/{kind}/{layer}/{index}",
            {"model": model, "kind": kind},
            "component",
        )
    return rows


def _occurrences(
    circuit: Circuit, rows: np.ndarray, key_of: Any, common: dict[str, Any], name: str
) -> list[dict[str, Any]]:
    n = circuit.nodes
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for row in rows.tolist():
        layer, index = int(n.layer[row]), int(n.index[row])
        if (layer, index) not in found:
            found[layer, index] = {name: "", "properties": common | {"layer": layer, "idx": index}, "nodes": []}
        found[layer, index]["nodes"].append(circuit.keys[row])
    for (layer, index), each in found.items():
        each[name] = key_of(layer, index, common.get("kind"))
    return sorted(found.values(), key=lambda each: each[name])


def numbers(column: np.ndarray) -> list[float | None]:
    """float32 values as Python floats; None where not finite."""
    finite = np.isfinite(column).tolist()
    return [value if good else None for value, good in zip(column.astype(np.float64).tolist(), finite, strict=True)]


def number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
