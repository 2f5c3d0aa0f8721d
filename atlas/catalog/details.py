"""Records that show one thing whole: a circuit, a feature."""

from __future__ import annotations

from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from atlas.catalog import annotations as notes
from atlas.catalog import circuits, interventions, labels, outbox
from atlas.catalog.values import finite
from atlas.circuit import KINDS, Circuit, parse_feature_key
from atlas.errors import NotFound
from atlas.records import ActivationExample, CircuitDetail, FeatureDetail, FeatureInCircuit, Influence, NodeRow
from atlas.verdict import reasons

TOP_NODES = 20
MAX_OCCURRENCES = 500


def node_labels(session: Session, circuit: Circuit) -> dict[int, str]:
    """Label by node row: the feature's current one, unless the node has one of its own."""
    found = labels.of_circuit(session, circuit.id)
    own = notes.node_labels(session, circuit.id)
    return found | {circuit.row_of_key[key]: text for key, text in own.items() if key in circuit.row_of_key}


def circuit_detail(session: Session, circuit: Circuit) -> CircuitDetail:
    """The record of a circuit with its strongest nodes. Raises NotFound when the catalog does not have it."""
    entry = circuits.get(session, circuit.id)
    texts = node_labels(session, circuit)
    kinds = np.bincount(circuit.nodes.kind, minlength=len(KINDS)).tolist()
    replicates = circuits.by_trace_key(session, entry.trace_key)
    return CircuitDetail(
        **circuits.row(session, circuit.id).model_dump(),
        record=circuit.record,
        created_by=entry.created_by,
        status="pending" if outbox.is_pending(session, circuit.id) else "ready",
        kinds={kind: count for kind, count in zip(KINDS, kinds, strict=True) if count},
        supernodes=notes.supernodes(session, circuit.id),
        pins=notes.pins(session, circuit.id),
        verdict_reasons=reasons(entry.verdict, circuit.record.scores, interventions.evidence(session, circuit.id)),
        evidence=interventions.summary(session, circuit.id),
        top_nodes=[node_row(circuit, row, texts.get(row)) for row in strongest(circuit, TOP_NODES)],
        replicates=[other for other in replicates if other != circuit.id],
    )


def strongest(circuit: Circuit, count: int) -> list[int]:
    """Rows by influence, highest first; rows of unknown influence last, in order."""
    influence = np.nan_to_num(circuit.nodes.influence, nan=-np.inf)
    return np.argsort(-influence, kind="stable")[:count].tolist()


def node_row(circuit: Circuit, row: int, label: str | None) -> NodeRow:
    n = circuit.nodes
    return NodeRow(
        key=circuit.keys[row],
        kind=KINDS[n.kind[row]],
        layer=int(n.layer[row]),
        position=int(n.position[row]),
        token=circuit.node_tokens[row],
        label=label,
        feature=circuit.feature_key(row),
        activation=finite(n.activation[row]),
        influence=finite(n.influence[row]),
    )


def feature_detail(session: Session, key: str) -> FeatureDetail:
    """Labels and occurrences (at most MAX_OCCURRENCES, strongest first), without what the graph store knows.

    Examples and tokens are those of the newest version that has any. Raises NotFound.
    """
    model, transcoders, layer, index = parse_feature_key(key)
    found = labels.versions(session, key)
    occurrences = circuits.occurrences(session, key, MAX_OCCURRENCES)
    if not found and not occurrences:
        raise NotFound(f"The atlas has no feature {key!r}.", "`atlas search` lists features.")
    by_age = sorted((row for _, row in found), key=lambda row: row.id, reverse=True)
    shown = next((row for row in by_age if row.examples or row.promoted or row.suppressed), None)
    current = next((version for version, _ in found if version.current), None)
    return FeatureDetail(
        feature=key,
        model=model,
        transcoders=transcoders,
        layer=layer,
        index=index,
        label=current.text if current else None,
        score=current.score if current else None,
        labels=[version for version, _ in found],
        examples=[ActivationExample.model_validate(example) for example in shown.examples] if shown else [],
        promoted=list(shown.promoted) if shown else [],
        suppressed=list(shown.suppressed) if shown else [],
        occurrences=[
            FeatureInCircuit(
                circuit=entry.id,
                name=entry.name,
                prompt=entry.prompt,
                node=place.node,
                position=place.position,
                token=place.token,
                activation=place.activation,
                influence=place.influence,
            )
            for place, entry in occurrences
        ],
    )


def influences(rows: list[dict[str, Any]]) -> list[Influence]:
    """From the graph store's rows, which know more (method, unit)."""
    return [Influence(**{name: row[name] for name in Influence.model_fields}) for row in rows]
