"""Labels, supernodes and pins of a graph file: `clerp` of the nodes and the saved view in `qParams`."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import orjson

from atlas.circuit import KIND, Circuit
from atlas.records import Annotations, ImportedLabel, ImportedSupernode
from ingest.formats.block import Block
from ingest.formats.dialect import Dialect
from ingest.formats.document import Document, text
from ingest.formats.nodes import NodeTable

_NOT_A_LABEL = re.compile(r"F\d+$|\(fetch error\b", re.ASCII)
_LAYER_FEATURE_POSITION = re.compile(r"(\d{1,9})_(\d{1,18})_(\d{1,9})", re.ASCII)
_MAX_MEMBERS = 1_000_000  # of all supernodes of a file
_MAX_PREFIX = 2000  # characters in which the end of a supernode's name is looked for
VIEW_SOURCE = "saved view"
_DECORATED = (KIND["token"], KIND["logit"], KIND["error"])  # their clerps are written by programs


def read_annotations(
    document: Document, dialect: Dialect, table: NodeTable, circuit: Circuit, block: Block | None
) -> Annotations:
    """Members and pins are resolved by node_id, then by jsNodeId (one such member may stand for several nodes); what is
    not in the file is kept as unresolved and counted."""
    view = document.view
    supernodes = _supernodes(document, _listed(view.get("supernodes")), table, circuit)
    pins, missing = _resolve_all(_pinned(view.get("pinnedIds")), table, circuit)
    document.mended["unresolved_pins"] += len(missing)
    labels = _node_labels(dialect, table, circuit, block, {s.name for s in supernodes})
    labels += _view_labels(document, _listed(view.get("clerps")), table, circuit, block)
    return Annotations(labels=labels, supernodes=supernodes, pins=pins, unresolved_pins=missing)


def _listed(value: Any) -> list[Any]:
    """A list, also when it came as JSON text from an address."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return []
    if isinstance(value, dict):
        return [[key, item] for key, item in value.items()]
    return value if isinstance(value, list) else []


def _pinned(value: Any) -> list[str]:
    items = value.split(",") if isinstance(value, str) else _listed(value)
    return [item for item in items if isinstance(item, str) and item]


def _resolve(member: str, table: NodeTable) -> list[int]:
    rows = table.rows_of_id.get(member)
    if rows is None:
        rows = table.rows_of_js.get(member, [])
        features = [row for row in rows if table.nodes.kind[row] == KIND["feature"]]
        rows = features or rows  # an error node's jsNodeId may equal a feature's
    return rows


def _resolve_all(members: list[str], table: NodeTable, circuit: Circuit) -> tuple[list[str], list[str]]:
    keys: dict[str, None] = {}
    missing: dict[str, None] = {}
    for member in dict.fromkeys(members):
        rows = _resolve(member, table)
        keys.update((circuit.keys[row], None) for row in rows)
        if not rows:
            missing[member] = None
    return list(keys), list(missing)


def _supernodes(document: Document, given: list[Any], table: NodeTable, circuit: Circuit) -> list[ImportedSupernode]:
    found = []
    budget = _MAX_MEMBERS
    for item in given:
        if not isinstance(item, list) or not item or not all(isinstance(part, str) for part in item) or budget < 0:
            document.mended["supernodes_unreadable"] += 1
            continue
        keys, missing = _resolve_all(item[1:], table, circuit)
        document.mended["unresolved_members"] += len(missing)
        budget -= len(keys) + len(missing)
        found.append(ImportedSupernode(name=item[0], node_keys=keys, unresolved=missing))
    return found


def _node_labels(
    dialect: Dialect, table: NodeTable, circuit: Circuit, block: Block | None, supernodes: set[str]
) -> list[ImportedLabel]:
    """One label per feature where all its nodes in the file say the same, else one per node, limited to its position."""
    said: dict[tuple[int, ...], list[tuple[int, str]]] = defaultdict(list)
    nodes, labels = circuit.nodes, []
    for row, raw in enumerate(table.raw):
        label = _label_text(raw, supernodes)
        if nodes.kind[row] in _DECORATED or not label:
            continue
        if origin := block.label_origin(table.ids[row], label) if block else None:
            labels.append(_label(circuit, row, label, *origin))
        else:
            group = tuple(int(getattr(nodes, name)[row]) for name in ("kind", "site", "layer", "index"))
            said[group].append((row, label))
    for (kind, *_), pairs in said.items():
        same = kind == KIND["feature"] and len({label for _, label in pairs}) == 1
        for row, label in pairs[:1] if same else pairs:
            position = None if same else int(nodes.position[row])
            labels.append(_label(circuit, row, label, dialect.label_source, position))
    unique = {
        (item.node_key if item.position is not None else _feature(item.node_key), item.text): item for item in labels
    }
    return list(unique.values())


def _feature(node_key: str) -> str:
    head, layer, _, index = node_key.split("/")
    return f"{head}/{layer}/{index}"


def _label_text(raw: dict[str, Any], supernodes: set[str]) -> str:
    label = text(raw.get("clerp")).strip()
    if label.startswith("["):
        ends = [found.start() for found in re.finditer(re.escape("] "), label[:_MAX_PREFIX])]
        end = next((end for end in ends if label[1:end] in supernodes), None)
        label = label if end is None else label[end + 2 :].strip()
    return "" if _NOT_A_LABEL.match(label) else label


def _label(circuit: Circuit, row: int, label: str, source: str, position: int | None) -> ImportedLabel:
    return ImportedLabel(node_key=circuit.keys[row], text=label, source=source, position=position)


def _view_labels(
    document: Document, given: list[Any], table: NodeTable, circuit: Circuit, block: Block | None
) -> list[ImportedLabel]:
    """Labels a person wrote: [[key, text], ..]. The key is a node_id, layer_number_position, or a feature number alone;
    the number is the file's own `feature` or layer * 100000 (or 1000000) + index."""
    rows_of_number: dict[int, list[int]] = defaultdict(list)
    rows_of_feature: dict[tuple[int, int], list[int]] = defaultdict(list)
    nodes = circuit.nodes
    if given:
        for row in range(len(table.raw)):
            if nodes.kind[row] != KIND["feature"]:
                continue
            if isinstance(number := table.raw[row].get("feature"), int):
                rows_of_number[number].append(row)
            rows_of_feature[int(nodes.layer[row]), int(nodes.index[row])].append(row)

    def by_number(number: int) -> list[int]:
        ways = (divmod(number, 10**5), divmod(number, 10**6))
        return rows_of_number.get(number) or next((rows_of_feature[way] for way in ways if way in rows_of_feature), [])

    labels = []
    for item in given:
        if not isinstance(item, list) or len(item) != 2 or not all(isinstance(part, str) for part in item):
            document.mended["labels_unreadable"] += 1
            continue
        key, label = item[0], item[1].strip()
        rows = _resolve(key, table)
        positioned = bool(rows) and key in table.rows_of_id
        if not rows and key.isascii() and key.isdigit() and len(key) <= 18:
            rows = by_number(int(key))[:1]
        elif not rows and (found := _LAYER_FEATURE_POSITION.fullmatch(key)):
            rows = [r for r in by_number(int(found[2])) if nodes.position[r] == int(found[3])][:1]
            rows = [row for row in rows if nodes.layer[row] == int(found[1])]
            positioned = True
        if not rows or not label:
            document.mended["unresolved_labels"] += 1
        for row in rows[:1] if label else []:
            if origin := block.label_origin(table.ids[row], label) if block else None:
                labels.append(_label(circuit, row, label, *origin))
                continue
            alone = positioned or nodes.kind[row] != KIND["feature"]
            labels.append(_label(circuit, row, label, VIEW_SOURCE, int(nodes.position[row]) if alone else None))
    return labels
