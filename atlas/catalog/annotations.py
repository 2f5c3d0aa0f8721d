"""What people attach to one circuit: supernodes, pins, and labels that hold at one of its nodes only."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from atlas.catalog import annotation_log, audit
from atlas.catalog.labels import GRAPH_FILE
from atlas.catalog.tables import NodeLabel, Pin, Supernode
from atlas.catalog.values import clean, new_id, now
from atlas.circuit import Circuit
from atlas.records import Annotations, ImportedLabel, ImportedSupernode, NewLabel


@dataclass
class Sorted:
    """Imported annotations, told apart by where they belong."""

    feature_labels: list[NewLabel] = field(default_factory=list)
    node_labels: list[ImportedLabel] = field(default_factory=list)


def sort_labels(circuit: Circuit, annotations: Annotations) -> Sorted:
    """A label of a feature node without a position is the feature's everywhere; any other is that node's alone.

    Labels of nodes that the circuit lacks (dropped while the file was read) are left out.
    """
    out = Sorted()
    for label in annotations.labels:
        row = circuit.row_of_key.get(label.node_key)
        if row is None or not label.text.strip():
            continue
        key = circuit.feature_key(row) if label.position is None else None
        if key is None:
            out.node_labels.append(label)
        else:
            origin = {"circuit": circuit.id, "source": label.source}
            version = NewLabel(
                feature=key, text=label.text, method=GRAPH_FILE, score=None, random_score=None, parameters=origin
            )
            out.feature_labels.append(version)
    return out


def merge(session: Session, circuit: Circuit, annotations: Annotations, node_labels: list[ImportedLabel]) -> bool:
    """Add what the circuit does not have yet. True when the supernodes changed (the graph store holds those)."""
    added = {
        "supernodes": _merge_supernodes(session, circuit, annotations),
        "pins": _merge_pins(session, circuit, annotations),
        "node_labels": _merge_node_labels(session, circuit.id, node_labels),
    }
    if any(added.values()):
        audit.record(session, "annotate", circuit.id, **added)
    return bool(added["supernodes"])


def _merge_supernodes(session: Session, circuit: Circuit, annotations: Annotations) -> int:
    known = [(s.name, sorted(s.node_keys)) for s in supernodes(session, circuit.id)]
    count = 0
    for group in annotations.supernodes:
        inside = [key for key in dict.fromkeys(group.node_keys) if key in circuit.row_of_key]
        outside = [key for key in group.node_keys if key not in circuit.row_of_key]
        name = clean(group.name)
        if (name, sorted(inside)) in known:
            continue
        known.append((name, sorted(inside)))
        session.add(
            Supernode(
                id=new_id(),
                circuit_id=circuit.id,
                name=name,
                node_keys=inside,
                unresolved=[clean(key) for key in dict.fromkeys(group.unresolved + outside)],
                author=audit.actor(session),
                created_at=now(),
            )
        )
        count += 1
    return count


def _merge_pins(session: Session, circuit: Circuit, annotations: Annotations) -> int:
    known = set(session.scalars(select(Pin.node_key).where(Pin.circuit_id == circuit.id)))
    wanted = [(key, key in circuit.row_of_key) for key in annotations.pins]
    wanted += [(key, False) for key in annotations.unresolved_pins]
    new = [(clean(key), resolved) for key, resolved in dict(wanted).items() if clean(key) not in known]
    for place, (key, resolved) in enumerate(new, start=len(known)):
        session.add(
            Pin(
                circuit_id=circuit.id,
                node_key=key,
                resolved=resolved,
                ordinal=place,
                author=audit.actor(session),
                created_at=now(),
            )
        )
    return len(new)


def _merge_node_labels(session: Session, circuit_id: str, labels: list[ImportedLabel]) -> int:
    query = select(NodeLabel.node_key, NodeLabel.text).where(NodeLabel.circuit_id == circuit_id)
    known = {(key, text) for key, text in session.execute(query)}
    count = 0
    for label in labels:
        text = clean(label.text.strip())
        if (label.node_key, text) in known:
            continue
        known.add((label.node_key, text))
        session.add(
            NodeLabel(
                id=new_id(),
                circuit_id=circuit_id,
                node_key=label.node_key,
                text=text,
                source=clean(label.source),
                author=audit.actor(session),
                created_at=now(),
            )
        )
        count += 1
    return count


def supernodes(session: Session, circuit_id: str) -> list[ImportedSupernode]:
    """Those that files brought, then those that people made here; each in the order they were made."""
    query = select(Supernode).where(Supernode.circuit_id == circuit_id).order_by(Supernode.id)
    brought = [
        ImportedSupernode(name=row.name, node_keys=list(row.node_keys), unresolved=list(row.unresolved))
        for row in session.scalars(query)
    ]
    return brought + annotation_log.supernodes(session, circuit_id)


def pins(session: Session, circuit_id: str) -> list[str]:
    """Keys of pinned nodes, in order; unresolved ones are left out."""
    query = select(Pin.node_key).where(Pin.circuit_id == circuit_id, Pin.resolved).order_by(Pin.ordinal)
    return list(session.scalars(query))


def node_labels(session: Session, circuit_id: str) -> dict[str, str]:
    """Text by node key: the name that a person gave the node, else the newest that a file brought."""
    query = select(NodeLabel.node_key, NodeLabel.text).where(NodeLabel.circuit_id == circuit_id)
    brought = dict(session.execute(query.order_by(NodeLabel.id)).all())
    return brought | annotation_log.node_names(session, circuit_id)
