"""The links of a graph file as edge columns, with whatever the file leaves open decided in one documented way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from atlas.circuit import KIND, SLOT, Edges
from ingest.formats.document import Document
from ingest.formats.nodes import NodeTable

AMBIGUOUS = "edges.ambiguous"  # name of the optional tensor that marks such edges
_CANDIDATES = 4  # nodes considered per shared node_id, and links looked at on each side: bounds for hostile files
_NEIGHBOURS = 64


@dataclass
class Links:
    edges: Edges
    ambiguous: np.ndarray  # (m,) bool: an end had a node_id that several nodes share, and more than one was possible


def read_links(document: Document, table: NodeTable, ours: bool) -> Links:
    """Kept links in the file's order; `ours`: also what only our exporter writes into a link (slot, ambiguous). Dangling ones are dropped and counted; repeated pairs, self loops and zero weights
    are kept and counted; nothing is summed. Raises InputRejected with the place for a weight that is not finite.

    A link whose end is a node_id that several nodes share goes to the first pair of nodes that fits, by (1) structure:
    errors and tokens have no inputs, logits no outputs, influence runs to a higher layer and not to an earlier position;
    (2) the file's order, where the links of a target are written in the order of their source nodes; (3) how often the
    pair has come before. Such links are marked in `ambiguous` and counted unless structure alone decides.
    """
    mended, links = document.mended, document.links
    sources, targets, weights = _columns(document)
    first_row = {node_id: rows[0] for node_id, rows in table.rows_of_id.items()}
    source = np.fromiter((first_row.get(node_id, -1) for node_id in sources), np.int64, len(links))
    target = np.fromiter((first_row.get(node_id, -1) for node_id in targets), np.int64, len(links))
    kept = (source >= 0) & (target >= 0)
    pairs = (source * len(table.ids) + target)[kept]  # as the file names them
    ambiguous = _settle_collisions(table, sources, targets, source, target)
    slots = _slots(links) if ours else np.zeros(len(links), np.uint8)
    if ours:
        ambiguous |= np.fromiter((link.get("ambiguous") is True for link in links), bool, len(links))
    mended["dangling_links_dropped"] += int((~kept).sum())
    source, target, weight = source[kept], target[kept], weights[kept]
    mended["ambiguous_links"] += int(ambiguous[kept].sum())
    pairs.sort()
    mended["repeated_pairs"] += int((pairs[1:] == pairs[:-1]).sum())
    mended["self_loops"] += int((source == target).sum())
    mended["zero_weights"] += int((weight == 0).sum())
    return Links(Edges(source=source, target=target, weight=weight, slot=slots[kept]), ambiguous[kept])


def _columns(document: Document) -> tuple[list[str], list[str], np.ndarray]:
    try:
        sources = [link["source"] for link in document.links]
        targets = [link["target"] for link in document.links]
        weights = [link["weight"] for link in document.links]
        good = set(map(type, sources)) | set(map(type, targets)) <= {str} and set(map(type, weights)) <= {float, int}
        values = np.array(weights, np.float64) if good else None
    except (TypeError, KeyError, OverflowError):
        values = None
    if values is not None:
        with np.errstate(over="ignore"):
            single = values.astype(np.float32)
        if np.isfinite(single).all():
            return sources, targets, single
    raise _first_fault(document)


def _first_fault(document: Document) -> Exception:
    """The place of the fault that `_columns` met."""
    largest = float(np.finfo(np.float32).max)
    for i, link in enumerate(document.links):
        if not isinstance(link, dict):
            return document.reject(f"links[{i}]", "is not an object")
        for end in ("source", "target"):
            if not isinstance(link.get(end), str):
                return document.reject(f"links[{i}].{end}", "is missing or not text")
        weight = link.get("weight")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not -largest <= weight <= largest:
            return document.reject(f"links[{i}].weight", "is not a finite number")
    return document.reject("links", "hold a weight that is not a finite number")


def _slots(links: list[Any]) -> np.ndarray:
    def code(value: Any) -> int:
        return SLOT.get(value, 0) if isinstance(value, str) else 0

    return np.fromiter((code(link.get("slot")) for link in links), np.uint8, len(links))


def _settle_collisions(
    table: NodeTable, sources: list[str], targets: list[str], source: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """Choose the rows of links with a shared node_id, in place; (m,) bool of those that structure alone left open."""
    ambiguous = np.zeros(len(sources), bool)
    shared = {node_id for node_id, rows in table.rows_of_id.items() if len(rows) > 1}
    if not shared:
        return ambiguous
    seen: dict[tuple[int, int, str, str], int] = {}
    n = table.nodes
    place = list(zip(n.kind.tolist(), n.layer.tolist(), n.position.tolist(), strict=True))
    touched = [i for i, pair in enumerate(zip(sources, targets, strict=True)) if shared.intersection(pair)]
    for i in touched:
        if source[i] < 0 or target[i] < 0:
            continue
        ends = (table.rows_of_id[sources[i]][:_CANDIDATES], table.rows_of_id[targets[i]][:_CANDIDATES])
        pairs = [(s, t) for s in ends[0] for t in ends[1]]
        fitting = [pair for pair in pairs if _possible(place[pair[0]], place[pair[1]])] or pairs
        ambiguous[i] = len(fitting) > 1
        if len(fitting) > 1:
            fitting = [pair for pair in fitting if _in_order(i, pair[0], sources, targets, source, shared)] or fitting
        key = (*fitting[0], sources[i], targets[i])
        nth = seen[key] = seen.get(key, -1) + 1
        source[i], target[i] = fitting[nth % len(fitting)]
    return ambiguous


def _possible(source: tuple[int, int, int], target: tuple[int, int, int]) -> bool:
    """Whether influence can flow between two nodes, each as (kind, layer, position)."""
    if target[0] in (KIND["error"], KIND["token"]) or source[0] == KIND["logit"]:
        return False
    return source[1] < target[1] and source[2] <= target[2]


def _in_order(i: int, row: int, sources: list[str], targets: list[str], source: np.ndarray, shared: set[str]) -> bool:
    """Whether `row` lies between the source rows of the neighbouring links into the same target."""
    before = after = None
    for j in range(i - 1, max(i - _NEIGHBOURS, -1), -1):
        if targets[j] != targets[i]:
            break
        if source[j] >= 0 and sources[j] not in shared:
            before = source[j]
            break
    for j in range(i + 1, min(i + _NEIGHBOURS, len(sources))):
        if targets[j] != targets[i]:
            break
        if source[j] >= 0 and sources[j] not in shared:
            after = source[j]
            break
    return (before is None or before < row) and (after is None or row < after)
