"""One edge of a circuit, opened: through which attention heads its effect travelled, as far as the circuit stores it."""

from __future__ import annotations

import numpy as np

from atlas.circuit import SLOTS, Circuit, Edges
from atlas.errors import NotFound
from atlas.records import EdgeDetail, EdgePart

STRAIGHT, SKIP, REST = -1, -2, -3  # in place of a head's number in the tensors `heads.*`
_WAYS = {STRAIGHT: "straight", SKIP: "skip", REST: "rest"}
SEPARATOR = "->"
PART_COLUMNS = ("edge", "layer", "head", "source_position", "weight")  # of the tensors `heads.*`


def parse_edge(text: str) -> tuple[str, str]:
    """(source key, target key) of SOURCE->TARGET. Raises NotFound."""
    source, arrow, target = text.partition(SEPARATOR)
    if not arrow or not source.strip() or not target.strip():
        raise NotFound(f"{text!r} is not an edge.", "Write it as SOURCE->TARGET, two node keys of the circuit.")
    return source.strip(), target.strip()


def edge_row(circuit: Circuit, source: str, target: str) -> int:
    """The edge's row, the strongest where several slots have one. Raises NotFound."""
    ends = circuit.row(source), circuit.row(target)
    rows = np.flatnonzero((circuit.edges.source == ends[0]) & (circuit.edges.target == ends[1]))
    if not len(rows):
        raise NotFound(
            f"The circuit {circuit.id} has no edge from {source} to {target}.",
            "It may have been pruned; thresholds of 1 keep every edge.",
        )
    return int(rows[np.argmax(np.abs(circuit.edges.weight[rows]))])


def edge_detail(circuit: Circuit, source: str, target: str) -> EdgeDetail:
    """Raises NotFound for a node or an edge that the circuit does not have."""
    row = edge_row(circuit, source, target)
    return EdgeDetail(
        circuit=circuit.id,
        source=source,
        target=target,
        weight=float(circuit.edges.weight[row]),
        share=float(circuit.edge_shares[row]),
        slot=SLOTS[circuit.edges.slot[row]],
        parts=stored_parts(circuit, row),
    )


def stored_parts(circuit: Circuit, row: int) -> list[EdgePart]:
    """The parts of the edge in `row`, strongest first; empty when the circuit does not store them."""
    extra = circuit.extra
    if "heads.edge" not in extra:
        return []
    rows = np.flatnonzero(extra["heads.edge"] == row)
    rows = rows[np.argsort(-np.abs(extra["heads.weight"][rows]), kind="stable")]
    columns = (extra[f"heads.{name}"][rows].tolist() for name in ("layer", "head", "source_position", "weight"))
    target_position = int(circuit.nodes.position[circuit.edges.target[row]])
    return [
        edge_part(layer, head, position, target_position, weight)
        for layer, head, position, weight in zip(*columns, strict=True)
    ]


def head_weights(circuit: Circuit) -> dict[int, tuple[float, dict[str, float]]]:
    """By opened edge row: how much went straight, and by "layer.head", strongest first, how much each head carried from
    all positions together. Skip connections and what is negligible are in neither."""
    extra = circuit.extra
    if "heads.edge" not in extra:
        return {}
    found: dict[int, tuple[float, dict[str, float]]] = {}
    columns = (extra[f"heads.{name}"].tolist() for name in ("edge", "layer", "head", "weight"))
    for row, layer, head, weight in zip(*columns, strict=True):
        straight, heads = found.setdefault(row, (0.0, {}))
        if head >= 0:
            name = f"{layer}.{head}"
            heads[name] = heads.get(name, 0.0) + weight
        elif head == STRAIGHT:
            found[row] = straight + weight, heads
    strongest = lambda heads: dict(sorted(heads.items(), key=lambda item: -abs(item[1])))  # noqa: E731
    return {row: (straight, strongest(heads)) for row, (straight, heads) in sorted(found.items())}


def check_parts(edges: Edges, extra: dict[str, np.ndarray]) -> None:
    """Raises ValueError when the tensors `heads.*` of a file cannot be parts of these edges."""
    found = [extra.get(f"heads.{name}") for name in PART_COLUMNS]
    columns = [column for column in found if column is not None]
    if not columns:
        return
    if len(columns) < len(found) or columns[0].ndim != 1 or len({column.shape for column in columns}) > 1:
        raise ValueError("the tensors heads.* are not all there, in one length")
    edge, *codes, weight = columns
    if any(column.dtype.kind not in "iu" for column in (edge, *codes)) or weight.dtype.kind != "f":
        raise ValueError("a tensor heads.* has another dtype")
    if len(edge) and not 0 <= edge.min() <= edge.max() < len(edges):
        raise ValueError("heads.edge names an edge that is not there")
    if not np.isfinite(weight).all():
        raise ValueError("heads.weight has a number that is not finite")


def edge_part(layer: int, head: int, position: int, target_position: int, weight: float) -> EdgePart:
    """A row of the tensors `heads.*` as a record."""
    way = _WAYS.get(head, "head")
    return EdgePart(
        way=way,
        layer=layer if layer >= 0 else None,
        head=head if head >= 0 else None,
        from_position=position if way == "head" else None,
        to_position=target_position if way == "head" else None,
        weight=weight,
    )
