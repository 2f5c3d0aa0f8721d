"""Circuit -> what the canvas draws. Pure: no Streamlit, no stores.

The payload is columnar JSON (finite numbers and null only):

    {v, key, rev, slot, mode: single | path | diff, tokens: [text by column], layers: [name by row, bottom first],
     nodes: {id, x, y, kind, label, size, act, side?}, links: {s, t, w, slot?, a?, b?, c?}, path?: {nodes, links}, floor?,
     marks?: {link, mark, predicted, measured}, columns?: parts}

`x` and `y` index `tokens` and `layers`; `w` is the signed share (sign of the weight times |weight| / total absolute input of
the target). In a difference `w` = b - a, `c` says 0 in both, 1 only in A, 2 only in B, and `side` the same for nodes.
`marks` are the links that an intervention tested. With `columns` = parts the columns are heads and not tokens.
`rev` changes when the content changes under the same key. Numbers are rounded: the canvas shows, it does not compute.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from atlas.alignment import align_positions, node_codes
from atlas.causal_records import EdgeMark
from atlas.circuit import KIND, KINDS, SLOTS, Circuit
from atlas.compare import signed_shares

VERSION = 1
POOLED = "pooled"


def single(
    circuit: Circuit,
    labels: Mapping[int, str],
    *,
    slot: str = "circuit",
    path: list[str] | None = None,
    marks: Iterable[EdgeMark] = (),
) -> dict[str, Any]:
    """One circuit; `labels` by row (`Atlas.node_labels`), `path` = node keys to light up (unknown keys are left out), `marks` =
    what interventions said of its edges (`Atlas.edge_marks`)."""
    columns, across = _across(circuit)
    layers, layer_of = _layers([circuit])
    e = circuit.edges
    payload: dict[str, Any] = {
        "tokens": columns,
        "layers": layers,
        "nodes": {"id": circuit.keys} | _node_columns(circuit, labels, across, layer_of),
        "links": {"s": e.source.tolist(), "t": e.target.tolist(), "w": _rounded(signed_shares(circuit))},
    }
    if e.slot.any():
        payload["links"]["slot"] = [SLOTS[code] for code in e.slot.tolist()]
    if by_parts(circuit):
        payload["columns"] = "parts"
    if tested := _tested(circuit, marks):
        payload["marks"] = tested
    mode = "single"
    if path:
        rows = [circuit.row_of_key[key] for key in path if key in circuit.row_of_key]
        steps = set(itertools.pairwise(rows))
        pairs = enumerate(zip(e.source.tolist(), e.target.tolist(), strict=True))
        payload["path"] = {"nodes": rows, "links": [link for link, pair in pairs if pair in steps]}
        mode = "path"
    return _finish(payload, circuit.id, slot, mode)


def difference(
    a: Circuit,
    b: Circuit,
    labels_a: Mapping[int, str],
    labels_b: Mapping[int, str],
    *,
    floor: float | None = None,
    slot: str = "compare",
) -> dict[str, Any]:
    """A and B on one stage, aligned as `atlas.alignment` does; w = signed share in B - in A.

    `floor`: largest difference between replicates, if measured. Links between the same two nodes are drawn as one.
    """
    codes_a, codes_b = node_codes(a, b)
    tokens, column_a, column_b = _merged_columns(a, b, align_positions(a.tokens, b.tokens))
    layers, layer_of = _layers([a, b])
    row_of: dict[int, int] = {}
    nodes: dict[str, list[Any]] = {name: [] for name in ("id", "x", "y", "kind", "label", "size", "act", "side")}
    row_in: list[list[int]] = []
    for side, circuit, codes, column_of, labels in (
        (1, a, codes_a, column_a, labels_a),
        (2, b, codes_b, column_b, labels_b),
    ):
        ids = circuit.keys if side == 1 else [f"b:{key}" for key in circuit.keys]
        across = [column_of[position] for position in circuit.nodes.position.tolist()]
        columns = {"id": ids} | _node_columns(circuit, labels, across, layer_of)
        rows = []
        for row, code in enumerate(codes.tolist()):
            merged = row_of.get(code)
            if merged is None:
                merged = row_of[code] = len(row_of)
                for name, column in columns.items():
                    nodes[name].append(column[row])
                nodes["side"].append(side)
            elif nodes["side"][merged] != side:
                nodes["side"][merged] = 0
                one, other = nodes["label"][merged], columns["label"][row]
                if one != other:
                    nodes["label"][merged] = f"{one} / {other}"
            rows.append(merged)
        row_in.append(rows)
    payload = {"tokens": tokens, "layers": layers, "nodes": nodes, "links": _both_links(a, b, row_in)}
    if floor is not None and np.isfinite(floor):
        payload["floor"] = float(floor)
    return _finish(payload, f"{a.id}~{b.id}", slot, "diff")


def node_names(circuit: Circuit, labels: Mapping[int, str]) -> list[str]:
    """What to call each node on screen, by row."""
    n = circuit.nodes
    names = []
    columns = (n.kind.tolist(), n.layer.tolist(), n.index.tolist(), n.probability.tolist(), circuit.node_tokens)
    for row, (kind, layer, index, probability, token) in enumerate(zip(*columns, strict=True)):
        label = labels.get(row)
        if kind == KIND["logit"]:
            known = token or (f"token {index}" if index >= 0 else "output")
            names.append(f"{known} {probability:.0%}" if np.isfinite(probability) else known)
        elif kind == KIND["token"]:
            names.append(token or (f"token {index}" if index >= 0 else "embeddings"))
        elif label:
            names.append(label)
        elif kind == KIND["error"]:
            names.append(f"error of layer {layer}")
        elif kind == KIND["head"] and index >= 0:
            names.append(f"head {layer}.{index}")
        else:
            names.append(f"{KINDS[kind]} {layer}/{index}" if index >= 0 else f"{KINDS[kind]} {layer}")
    return names


def check(payload: dict[str, Any]) -> None:
    """Raise ValueError when the browser could not read the payload or its columns do not fit each other."""
    json.dumps(payload, allow_nan=False)
    nodes, links = payload["nodes"], payload["links"]
    count = len(nodes["id"])
    wrong = [name for name, column in nodes.items() if len(column) != count]
    wrong += [name for name, column in links.items() if len(column) != len(links["s"])]
    marks = payload.get("marks", {})
    wrong += [name for name, column in marks.items() if len(column) != len(marks["link"])]
    if wrong:
        raise ValueError(f"columns of another length: {wrong}")
    for name, values, limit in (
        ("x", nodes["x"], len(payload["tokens"])),
        ("y", nodes["y"], len(payload["layers"])),
        ("s", links["s"], count),
        ("t", links["t"], count),
        ("marks", payload.get("marks", {}).get("link", []), len(links["s"])),
    ):
        if values and not 0 <= min(values) <= max(values) < limit:
            raise ValueError(f"{name} points outside 0..{limit - 1}")


def by_parts(circuit: Circuit) -> bool:
    """Heads and no positions: such a circuit is drawn with a column for each head, because all of its nodes are pooled."""
    return bool(circuit.nodes.is_kind("head").any() and (circuit.nodes.position == -1).all())


def _across(circuit: Circuit) -> tuple[list[str], list[int]]:
    """Column texts and the column of every node."""
    n = circuit.nodes
    if not by_parts(circuit):
        columns, column_of = _columns(circuit)
        return columns, [column_of[position] for position in n.position.tolist()]
    heads = int(n.index[n.is_kind("head")].max()) + 1
    at_ends = n.is_kind("token", "logit")
    column = np.where(n.is_kind("head"), n.index, np.where(at_ends, heads // 2, heads))
    return [*(f"head {index}" for index in range(heads)), "MLP"], column.tolist()


def _tested(circuit: Circuit, marks: Iterable[EdgeMark]) -> dict[str, list[Any]]:
    """The links that were tested; a test is of two nodes, so each of their links has its mark. Empty when there are none."""
    found = {(m.source, m.target): m for m in marks if m.mark != "untested"}
    if not found:
        return {}
    tested: dict[str, list[Any]] = {"link": [], "mark": [], "predicted": [], "measured": []}
    pairs = zip(circuit.edges.source.tolist(), circuit.edges.target.tolist(), strict=True)
    for link, (source, target) in enumerate(pairs):
        mark = found.get((circuit.keys[source], circuit.keys[target]))
        if mark is None:
            continue
        tested["link"].append(link)
        tested["mark"].append(mark.mark)
        for name, value in (("predicted", mark.predicted), ("measured", mark.measured)):
            tested[name].append(None if value is None or not np.isfinite(value) else float(f"{value:.4g}"))
    return tested if tested["link"] else {}


def _columns(circuit: Circuit) -> tuple[list[str], dict[int, int]]:
    """Column texts, and column by position: every token of the prompt, then positions beyond it, pooled (-1) first."""
    present = set(circuit.nodes.position.tolist())
    order = ([-1] if -1 in present else []) + list(range(len(circuit.tokens)))
    order += sorted(p for p in present if p >= len(circuit.tokens))
    texts = [_text_at(circuit, p) for p in order]
    return texts, {position: column for column, position in enumerate(order)}


def _text_at(circuit: Circuit, position: int) -> str:
    if position < 0:
        return POOLED
    return circuit.tokens[position] if position < len(circuit.tokens) else f"position {position}"


def _merged_columns(
    a: Circuit, b: Circuit, aligned: list[tuple[int, int]]
) -> tuple[list[str], dict[int, int], dict[int, int]]:
    """Columns of both prompts in reading order; aligned positions share one, named `A / B` where the tokens differ."""
    of_a, of_b = _columns(a)[1], _columns(b)[1]
    left, right = sorted(of_a), sorted(of_b)
    pairs = [(pa, pb) for pa, pb in aligned if pa in of_a and pb in of_b and pa >= 0 and pb >= 0]
    if -1 in of_a and -1 in of_b:
        pairs.insert(0, (-1, -1))
    texts: list[str] = []
    column_a: dict[int, int] = {}
    column_b: dict[int, int] = {}

    def take(circuit: Circuit, positions: list[int], columns: dict[int, int], before: float) -> None:
        while positions and positions[0] < before:
            columns[positions.pop(0)] = len(texts)
            texts.append(_text_at(circuit, max(columns)))

    for pa, pb in pairs:
        take(a, left, column_a, pa)
        take(b, right, column_b, pb)
        if not left or left[0] != pa or not right or right[0] != pb:
            continue  # crossed or repeated pairs: the first one stands
        column_a[left.pop(0)] = column_b[right.pop(0)] = len(texts)
        ta, tb = _text_at(a, pa), _text_at(b, pb)
        texts.append(ta if ta == tb else f"{ta} / {tb}")
    take(a, left, column_a, float("inf"))
    take(b, right, column_b, float("inf"))
    return texts, column_a, column_b


def _layers(circuits: list[Circuit]) -> tuple[list[str], Any]:
    """Row names, bottom first, and a function (kind code, layer) -> row. Tokens lie at the bottom, logits on top."""
    token, logit = KIND["token"], KIND["logit"]
    middle: set[int] = set()
    ends: set[int] = set()
    for circuit in circuits:
        n = circuit.nodes
        inner = (n.kind != token) & (n.kind != logit)
        middle |= set(n.layer[inner].tolist())
        ends |= set(n.kind[~inner].tolist())
    names = ["input"] if token in ends else []
    row_of = {layer: len(names) + rank for rank, layer in enumerate(sorted(middle))}
    names += [f"layer {layer}" if layer >= 0 else "input side" for layer in sorted(middle)]
    top = len(names)
    if logit in ends:
        names.append("output")
    return names, lambda kind, layer: 0 if kind == token else top if kind == logit else row_of[layer]


def _node_columns(
    circuit: Circuit, labels: Mapping[int, str], across: list[int], layer_of: Callable[[int, int], int]
) -> dict[str, list[Any]]:
    """Every column of the nodes but `id` and `side`, by row of the circuit."""
    n = circuit.nodes
    return {
        "x": across,
        "y": [layer_of(k, layer) for k, layer in zip(n.kind.tolist(), n.layer.tolist(), strict=True)],
        "kind": [KINDS[code] for code in n.kind.tolist()],
        "label": node_names(circuit, labels),
        "size": _sizes(circuit),
        "act": _numbers(n.activation),
    }


def _sizes(circuit: Circuit) -> list[float]:
    """0..1 by node: square root of the influence over the largest; probability for logits; 0.3 where nothing is known."""
    n = circuit.nodes
    influence = n.influence.astype(np.float64)
    if not np.isfinite(influence).any():
        influence = 1 - n.influence_cumulative.astype(np.float64)
    influence = np.where(n.kind == KIND["logit"], np.nan, influence)
    finite = np.isfinite(influence)
    largest = influence[finite].max(initial=0.0)
    size = np.full(len(n), 0.3)
    if largest > 0:
        size[finite] = np.sqrt(np.clip(influence[finite], 0, None) / largest)
    probable = np.isfinite(n.probability)
    size[probable] = np.sqrt(np.clip(n.probability[probable], 0, 1))
    return np.round(size, 3).tolist()


def _both_links(a: Circuit, b: Circuit, row_in: list[list[int]]) -> dict[str, list[Any]]:
    """Union of both edge lists over merged rows; parallel edges of one circuit (slots) are summed."""
    found: dict[tuple[int, int], list[float | None]] = {}
    for side, (circuit, rows) in enumerate(zip((a, b), row_in, strict=True)):
        shares = signed_shares(circuit).tolist()
        ends = zip(circuit.edges.source.tolist(), circuit.edges.target.tolist(), shares, strict=True)
        for source, target, share in ends:
            pair = found.setdefault((rows[source], rows[target]), [None, None])
            pair[side] = (pair[side] or 0.0) + share
    first, second = [v[0] for v in found.values()], [v[1] for v in found.values()]
    return {
        "s": [s for s, _ in found],
        "t": [t for _, t in found],
        "w": _rounded([(y or 0.0) - (x or 0.0) for x, y in zip(first, second, strict=True)]),
        "a": [None if x is None else _round(x) for x in first],
        "b": [None if y is None else _round(y) for y in second],
        "c": [1 if y is None else 2 if x is None else 0 for x, y in zip(first, second, strict=True)],
    }


def _round(value: float) -> float:
    return float(f"{value:.4g}") if np.isfinite(value) else 0.0


def _rounded(values: Iterable[float]) -> list[float]:
    return [_round(float(value)) for value in values]


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in values.tolist()]


def _finish(payload: dict[str, Any], key: str, slot: str, mode: str) -> dict[str, Any]:
    payload |= {"v": VERSION, "key": key, "slot": slot, "mode": mode}
    given = [payload.get(name) for name in ("path", "floor", "marks")]
    content = [payload["nodes"]["label"], *given, len(payload["links"]["s"])]
    payload["rev"] = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
    return payload
