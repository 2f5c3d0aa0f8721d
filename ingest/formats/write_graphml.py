"""Write a circuit as GraphML, for Gephi, yEd, Cytoscape and networkx."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import networkx as nx

from atlas.circuit import KINDS, SITES, SLOTS, Circuit

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_graphml(circuit: Circuit, labels: dict[int, str] | None = None) -> bytes:
    """UTF-8 GraphML of a directed multigraph. Node ids are node keys; unknown numbers and empty text are left out;
    characters that XML cannot hold become U+FFFD."""
    labels = labels or {}
    record, nodes, edges = circuit.record, circuit.nodes, circuit.edges
    graph = nx.MultiDiGraph(
        **_kept(
            {
                "circuit": circuit.id,
                "name": record.name,
                "prompt": record.prompt,
                "model": record.model.name,
                "set": record.transcoders.name,
                "method": record.method.name,
                "weight_unit": record.method.weight_unit,
                "replacement": record.scores.replacement,
                "completeness": record.scores.completeness,
            }
        )
    )
    columns = {name: column.tolist() for name, column in nodes.columns().items()}
    for row, (key, token) in enumerate(zip(circuit.keys, circuit.node_tokens, strict=True)):
        values = {name: column[row] for name, column in columns.items() if name not in ("kind", "site", "index")}
        values |= {"kind": KINDS[columns["kind"][row]], "site": SITES[columns["site"][row]], "token": token}
        values |= {"idx": columns["index"][row], "label": labels.get(row)}
        graph.add_node(key, **_kept(values))
    keys = circuit.keys
    for source, target, weight, slot in zip(
        edges.source.tolist(), edges.target.tolist(), edges.weight.tolist(), edges.slot.tolist(), strict=True
    ):
        graph.add_edge(keys[source], keys[target], weight=weight, slot=SLOTS[slot])
    out = io.BytesIO()
    nx.write_graphml(graph, out)
    return out.getvalue()


def _kept(values: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in values.items():
        if isinstance(value, str):
            value = _NOT_XML.sub("\ufffd", value)
        if value is not None and value != "" and not (isinstance(value, float) and not math.isfinite(value)):
            kept[name] = value
    return kept
