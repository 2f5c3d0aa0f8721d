"""The nodes of a graph file as columns: kind, layer, position, index and numbers, whatever the dialect spells them like."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

import numpy as np

from atlas.circuit import KIND, SITE, Nodes
from ingest.formats.dialect import Dialect
from ingest.formats.document import Document, text, whole
from ingest.formats.logit_text import parse_logit

Identity = tuple[str, str, int, int, int]  # kind, site, layer, position, index

_ID = re.compile(r"^(E|-?\d{1,10})_(-?\d{1,19})_(-?\d{1,10})$", re.ASCII)
_MAX = 2**31 - 1
_LARGEST = float(np.finfo(np.float32).max)


@dataclass
class NodeTable:
    """Kept rows and how the file speaks of them. Two nodes may share a node_id, and one row may have several ids."""

    nodes: Nodes
    ids: list[str] = field(default_factory=list)  # by row
    raw: list[dict[str, Any]] = field(default_factory=list)  # by row
    rows_of_id: dict[str, list[int]] = field(default_factory=dict)
    rows_of_js: dict[str, list[int]] = field(default_factory=dict)
    layers: int = 0


def cantor(layer: int, index: int) -> int:
    """Pairing of (layer, index) in circuit-tracer's `feature`."""
    total = layer + index
    return total * (total + 1) // 2 + index


def cantor_decode(number: int) -> tuple[int, int]:
    """(layer, index); integers only, because a float square root is wrong from 2^52 on."""
    total = (isqrt(8 * number + 1) - 1) // 2
    index = number - total * (total + 1) // 2
    return total - index, index


DECODERS: dict[str, Callable[[int, int], tuple[int, int]]] = {
    "cantor": lambda number, layer: cantor_decode(number),
    "hundred_thousands": lambda number, layer: divmod(number, 100_000),
    "plain": lambda number, layer: (layer, number),
}


def read_nodes(
    document: Document, dialect: Dialect, honoured: Callable[[dict[str, Any]], Identity | None]
) -> NodeTable:
    """Columns and lookups. `honoured` gives the identity that our own exporter noted for a node, if it still fits.

    Raises InputRejected with the place for a position, layer or feature number out of range.
    """
    mended = document.mended
    noted = [honoured(node) for node in document.nodes]
    kinds = [
        known[:2] if known else _kind(document, dialect, node)
        for known, node in zip(noted, document.nodes, strict=True)
    ]
    layers = [
        known[2] + (known[0] == "logit") if known else _layer(document, i, node, kinds[i][0])
        for i, (known, node) in enumerate(zip(noted, document.nodes, strict=True))
    ]
    count = _number_of_layers(document, dialect, kinds, layers)
    encoding = _encoding(document, dialect, kinds, layers)
    table = NodeTable(Nodes(0), layers=count)
    columns: dict[str, list[Any]] = {name: [] for name in Nodes.spec}
    row_of: dict[Identity, int] = {}
    apart: dict[tuple[Any, ...], dict[str, int]] = {}  # nodes without an index, by place, then node_id
    for i, node in enumerate(document.nodes):
        kind, site = kinds[i]
        identity = noted[i]
        if identity is None:
            layer = {"token": -1, "logit": count}.get(kind, layers[i])
            position = _position(document, i, node)
            index = _index(document, dialect, i, node, kind, layers[i], encoding)
            identity = (kind, site, layer, position, index)
            if index < 0 and kind not in ("token", "error", "logit"):
                # What the file keeps apart by node_id alone gets the indices -1, -2, -3, ...
                here = apart.setdefault(identity[:4], {})
                identity = (*identity[:4], -1 - here.setdefault(node["node_id"], len(here)))
        row = row_of.get(identity)
        if row is None:
            row = row_of[identity] = len(table.ids)
            table.ids.append(node["node_id"])
            table.raw.append(node)
            _append(columns, identity, node)
        else:
            mended["duplicate_nodes_dropped"] += 1
        _note(table.rows_of_id, node["node_id"], row)
        if isinstance(js := node.get("jsNodeId"), str):
            _note(table.rows_of_js, js, row)
    table.nodes = Nodes(None, **columns) if table.ids else Nodes(0)
    mended["colliding_node_ids"] += sum(len(rows) > 1 for rows in table.rows_of_id.values())
    _count_missing(table.nodes, mended)
    return table


def _note(rows_of: dict[str, list[int]], key: str, row: int) -> None:
    """Add a row, keeping them sorted and unique."""
    rows = rows_of.setdefault(key, [])
    at = bisect_left(rows, row)
    if at == len(rows) or rows[at] != row:
        rows.insert(at, row)


def _append(columns: dict[str, list[Any]], identity: Identity, node: dict[str, Any]) -> None:
    kind, site, layer, position, index = identity
    columns["kind"].append(KIND[kind])
    columns["site"].append(SITE[site])
    columns["layer"].append(layer)
    columns["position"].append(position)
    columns["index"].append(index)
    columns["activation"].append(number(node.get("activation")))
    columns["influence"].append(math.nan)
    columns["influence_cumulative"].append(number(node.get("influence")))
    columns["probability"].append(_probability(node) if kind == "logit" else math.nan)
    columns["input_total"].append(math.nan)
    columns["input_abs_total"].append(math.nan)


def _count_missing(nodes: Nodes, mended: Counter[str]) -> None:
    features = nodes.is_kind("feature")
    mended["missing_activation"] += int(np.isnan(nodes.activation[features]).sum())
    mended["missing_influence"] += int(np.isnan(nodes.influence_cumulative[~nodes.is_kind("logit")]).sum())


def number(value: Any) -> float:
    """An optional number; what is absent, not a number or not finite in single precision is NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_LARGEST <= value <= _LARGEST:
        return math.nan
    return float(value)


def _probability(node: dict[str, Any]) -> float:
    told = number(node.get("token_prob"))
    if 0 < told <= 1:
        return told
    parsed = parse_logit(text(node.get("clerp")))[1]
    return math.nan if parsed is None else parsed


def _kind(document: Document, dialect: Dialect, node: dict[str, Any]) -> tuple[str, str]:
    given = text(node.get("feature_type")).strip().lower()
    kind, site = dialect.kind_of(given, node)
    if not given:
        document.mended["missing_feature_type"] += 1
        if node.get("layer") in ("E", -1):
            return "token", ""
        if node.get("feature") == -1:
            return "error", ""
    elif kind == "unknown" and given != "unknown":
        document.mended["unknown_feature_types"] += 1
    return kind, site


def _layer(document: Document, i: int, node: dict[str, Any], kind: str) -> int:
    """The layer as the file has it; -1 for embeddings, and for logits that have none."""
    raw = node.get("layer")
    if kind == "token" and raw in ("E", "e", None):
        return -1
    if kind == "unknown" and whole(raw) is None:
        return -1  # nodes that a frontend made
    layer = whole(raw)
    lowest = -1 if kind in ("token", "logit") else 0
    if layer is None or not lowest <= layer <= _MAX:
        raise document.reject(f"nodes[{i}].layer", f"is not a layer (0 to {_MAX})")
    return layer


def _position(document: Document, i: int, node: dict[str, Any]) -> int:
    position = whole(node.get("ctx_idx"))
    if position is None or not 0 <= position <= _MAX:
        raise document.reject(f"nodes[{i}].ctx_idx", f"is not a position (0 to {_MAX})")
    return position


def _number_of_layers(document: Document, dialect: Dialect, kinds: list[tuple[str, str]], layers: list[int]) -> int:
    """The logits' layer here: what the file's own implies where it is possible, else one above the highest node."""
    pairs = list(zip(kinds, layers, strict=True))
    above = 1 + max((layer for (kind, _), layer in pairs if kind not in ("token", "logit")), default=-1)
    told = {layer for (kind, _), layer in pairs if kind == "logit"}
    if dialect.logit_layer_offset is not None and len(told) == 1:
        count = told.pop() - dialect.logit_layer_offset
        if count >= above:
            return count
        document.mended["logit_layer_recomputed"] += 1
    if above > _MAX:
        raise document.reject("nodes", f"have a layer of {_MAX}, which leaves none for the logits")
    return above


def _encoding(document: Document, dialect: Dialect, kinds: list[tuple[str, str]], layers: list[int]) -> str:
    """How `feature` is coded: the way that agrees with most node ids; without any, the dialect's first."""
    votes = dict.fromkeys(dialect.encodings, 0)
    for node, (kind, _), layer in zip(document.nodes, kinds, layers, strict=True):
        told = node.get("feature")
        found = _ID.match(node["node_id"])
        if kind != "feature" or not found or type(told) is not int or told < 0:
            continue
        for name in votes:
            votes[name] += DECODERS[name](told, layer) == (layer, int(found[2]))
    return max(votes, key=lambda name: votes[name])  # the first of equals


def _index(
    document: Document, dialect: Dialect, i: int, node: dict[str, Any], kind: str, layer: int, encoding: str
) -> int:
    told = whole(node.get("feature"))
    if told is not None and not -(2**63) <= told < 2**63:
        raise document.reject(f"nodes[{i}].feature", "is not a 64-bit integer")
    found = _ID.match(node["node_id"])
    middle = int(found[2]) if found and -(2**63) <= int(found[2]) < 2**63 else None
    if kind == "error":
        return -1
    if kind == "token":
        return middle if middle is not None and dialect.tokens_have_vocabulary_ids else -1
    if kind == "logit":
        return next((value for value in (told, middle) if value is not None and value >= 0), -1)
    if kind != "feature":
        return told if told is not None and told >= 0 else -1
    decoded = DECODERS[encoding](told, layer) if told is not None and told >= 0 else None
    fits = decoded is not None and decoded[0] == layer
    if found and middle is not None and middle >= 0 and found[1] == str(layer):
        if decoded != (layer, middle):
            document.mended["feature_number_disagrees"] += 1
        return middle
    if fits and decoded is not None:
        return decoded[1]
    document.mended["feature_number_disagrees"] += 1
    return next((value for value in (middle, told) if value is not None and value >= 0), -1)
