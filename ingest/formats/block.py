"""What circuit-tracer's form cannot hold: `metadata.circuit_atlas`, written by our exporter and honoured by the reader.

    {"version": 1, "id": "c1-...", "record": {...}, "nodes": {node_id: [key, influence, input_total, input_abs_total]},
     "labels": {node_id: [[text, source, position], ...]}}

Nodes and links stay the truth: a node's entry counts only while the node still says what the exporter wrote for that
identity, and the record only while the whole has the id noted here. A block that is not understood is as if absent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import ValidationError

from atlas.circuit import KINDS, SITES, UNKNOWN, Circuit, CircuitRecord, Edges, Nodes, Scores
from ingest.formats.document import plain, section, text
from ingest.formats.logit_text import parse_logit, visible
from ingest.formats.nodes import Identity, NodeTable, cantor, number

KEY = "circuit_atlas"
VERSION = 1
_NODE_KEY = re.compile(r"([a-z]+)(?:\.([a-z]+))?/(-?\d{1,10})/(-?\d{1,10})/(-?\d{1,19})", re.ASCII)
_TYPES = {
    ("feature", ""): "cross layer transcoder",
    ("feature", "mlp"): "cross layer transcoder",
    ("feature", "attn"): "lorsa",
    ("error", ""): "mlp reconstruction error",
    ("error", "mlp"): "mlp reconstruction error",
    ("error", "attn"): "lorsa error",
    ("token", ""): "embedding",
    ("logit", ""): "logit",
}


def node_fields(identity: Identity) -> dict[str, Any]:
    """The identifying fields that the exporter writes for a node; node_id and jsNodeId before any collision is mended."""
    kind, site, layer, position, index = identity
    head = kind + ("." + site if site else "")
    common = {"ctx_idx": position, "feature_type": _TYPES.get((kind, site), head)}
    if kind == "token":
        return {"node_id": f"E_{index}_{position}", "feature": position, "layer": "E", **common} | {
            "jsNodeId": f"E_{index}-{position}"
        }
    if kind == "logit":
        return {"node_id": f"{layer + 1}_{index}_{position}", "feature": index, "layer": str(layer + 1), **common} | {
            "jsNodeId": f"L_{index}-{position}"
        }
    if kind == "error":
        return {"node_id": f"0_{layer}_{position}", "feature": -1, "layer": str(layer), **common} | {
            "jsNodeId": f"{layer}_{position}-0"
        }
    node_id = f"{layer}_{index}_{position}" if kind == "feature" else f"{head}_{layer}_{index}_{position}"
    paired = cantor(layer, index) if kind == "feature" and min(layer, index) >= 0 else index
    return {"node_id": node_id, "feature": paired if paired < 2**63 else index, "layer": str(layer), **common} | {
        "jsNodeId": f"{layer}_{index}-0" if kind == "feature" else f"{head}_{layer}_{index}-0"
    }


@dataclass
class Block:
    id: str = ""
    record: CircuitRecord | None = None
    entries: dict[str, list[Any]] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, metadata: dict[str, Any]) -> Block | None:
        """None when there is no block of a known version."""
        given = section(metadata.get(KEY))
        if given.get("version") != VERSION or not isinstance(given.get("id"), str):
            return None
        try:
            record = CircuitRecord.model_validate(plain(section(given.get("record"))))
        except (ValidationError, RecursionError):
            record = None
        return cls(given["id"], record, section(given.get("nodes")), section(given.get("labels")))

    def identity(self, node: dict[str, Any]) -> Identity | None:
        """The identity noted for this node, None when the node says something else by now."""
        entry = self.entries.get(node["node_id"])
        found = _NODE_KEY.fullmatch(entry[0]) if isinstance(entry, list) and entry and _is_text(entry[0]) else None
        if not found or found[1] not in KINDS or (found[2] or "") not in SITES:
            return None
        identity = (found[1], found[2] or "", int(found[3]), int(found[4]), int(found[5]))
        if not (-1 <= identity[2] < 2**31 and -1 <= identity[3] < 2**31 and -(2**63) <= identity[4] < 2**63):
            return None
        expected = node_fields(identity)
        same = all(node.get(name) == expected[name] for name in ("feature", "layer", "ctx_idx", "feature_type"))
        return identity if same else None

    def names_hold(self, metadata: dict[str, Any]) -> bool:
        """Whether the file still names the record's model and transcoder set."""
        if self.record is None:
            return False
        told = (metadata.get("scan"), section(metadata.get("info")).get("transcoder_set", UNKNOWN))
        return told == (self.record.model.name, self.record.transcoders.name)

    def label_origin(self, node_id: str, label: str) -> tuple[str, int | None] | None:
        """(source, position) noted for a label of a node."""
        noted = self.labels.get(node_id)
        for item in noted if isinstance(noted, list) else []:
            if isinstance(item, list) and len(item) == 3 and item[0] == label and isinstance(item[1], str):
                return item[1], item[2] if type(item[2]) is int else None
        return None

    def restore(
        self, metadata: dict[str, Any], table: NodeTable, edges: Edges, extra: dict[str, np.ndarray]
    ) -> Circuit | None:
        """The circuit as it was exported, None when names, prompt, nodes, links or the block were edited since.

        Influence and totals are taken over where they are possible; scores were computed elsewhere, so they are claims.
        """
        if self.record is None or not self.names_hold(metadata):
            return None
        circuit = Circuit(self.record, table.nodes, edges, extra)
        if circuit.id != self.id or not _says_the_same(circuit, metadata, table):
            return None
        noted = np.full((3, len(table.ids)), np.nan, np.float32)
        for row, node_id in enumerate(table.ids):
            entry = self.entries.get(node_id)
            if isinstance(entry, list) and len(entry) == 4:
                noted[:, row] = [number(value) for value in entry[1:]]
        influence, total, abs_total = noted
        kept = np.bincount(edges.target, weights=np.abs(edges.weight), minlength=len(table.ids))
        with np.errstate(invalid="ignore"):
            possible = (abs_total >= kept * (1 - 1e-4)) & ~(np.abs(total) > abs_total * (1 + 1e-4))
        columns = table.nodes.columns() | {
            "influence": influence,
            "input_total": np.where(possible, total, np.nan),
            "input_abs_total": np.where(possible, abs_total, np.nan),
        }
        return Circuit(self.record, Nodes(None, **columns), edges, extra)

    def claims(self) -> dict[str, float]:
        return claimed_scores(self.record.scores) if self.record else {}


def claimed_scores(scores: Scores) -> dict[str, float]:
    names = ("replacement", "completeness", "replacement_pruned", "completeness_pruned")
    own = {name: getattr(scores, name) for name in names}
    if scores.computed_on != "full graph":
        own = {}
    return scores.claimed | {name: value for name, value in own.items() if value is not None}


def _says_the_same(circuit: Circuit, metadata: dict[str, Any], table: NodeTable) -> bool:
    """Whether prompt and target texts of the file are still the record's."""
    if (metadata.get("prompt_tokens"), metadata.get("prompt")) != (circuit.tokens, circuit.record.prompt):
        return False
    texts = circuit.node_tokens
    return all(
        parse_logit(text(table.raw[row].get("clerp")))[0] == visible(texts[row])
        for row in np.flatnonzero(circuit.nodes.is_kind("logit")).tolist()
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
