"""Circuits: the blob, the columns beside it, and which of several replicates counts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Select, func, insert, select
from sqlalchemy.orm import Session, undefer

from atlas.catalog import annotation_log, audit, collections, models
from atlas.catalog.tables import CircuitEntry, ModelRow, Occurrence, SetRow
from atlas.catalog.values import chunks, clean, finite, now
from atlas.circuit import KIND, Circuit, duplicate_identities
from atlas.circuit_file import SCHEMA_VERSION, to_bytes
from atlas.errors import Ambiguous, InputRejected, NotFound, UsageError
from atlas.records import CircuitRow, Table
from atlas.verdict import verdict


def replicate_group(circuit: Circuit) -> str:
    """Circuits with the same token sequences, model, set and method: only one of them counts in aggregates."""
    r = circuit.record
    parts = [circuit.prompt_key, r.model.name, r.transcoders.name, r.method.name, r.method.weight_unit]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]


def check(circuit: Circuit) -> None:
    """Raises InputRejected for what no store could keep: a folder as a name, two nodes of one identity."""
    models.check_name(circuit.record.model.name, "model")
    models.check_name(circuit.record.transcoders.name, "transcoder set")
    twice = np.flatnonzero(duplicate_identities(circuit.nodes))
    if len(twice):
        raise InputRejected(
            f"The circuit {circuit.record.name!r} has two nodes {circuit.keys[int(twice[0])]}.",
            "A node is identified by kind, site, layer, position and index; merge or drop the double ones.",
        )


def exists(session: Session, circuit_id: str) -> bool:
    return session.scalar(select(CircuitEntry.id).where(CircuitEntry.id == circuit_id)) is not None


def insert_circuit(session: Session, circuit: Circuit, blob: bytes | None = None) -> CircuitEntry:
    """Store a circuit that is not there yet. `blob` = its binary form when the caller has it already."""
    r = circuit.record
    model_id = models.register_model(session, r.model)
    set_id = models.register_set(session, r.transcoders, model_id)
    group = replicate_group(circuit)
    taken = session.scalar(select(CircuitEntry.id).where(CircuitEntry.counted_group == group))
    entry = CircuitEntry(
        id=circuit.id,
        blob=blob if blob is not None else to_bytes(circuit),
        schema_version=SCHEMA_VERSION,
        trace_key=circuit.trace_key,
        prompt_key=circuit.prompt_key,
        replicate_group=group,
        counted_group=None if taken else group,
        model_id=model_id,
        set_id=set_id,
        method=clean(r.method.name),
        weight_unit=clean(r.method.weight_unit),
        name=clean(r.name),
        prompt=clean(r.prompt),
        search_text=clean(f"{r.name}\n{r.prompt}").casefold(),
        nodes=len(circuit.nodes),
        edges=len(circuit.edges),
        scores=r.scores.model_dump(),
        verdict=verdict(r.scores)[0],
        created_at=now(),
        created_by=audit.actor(session),
    )
    session.add(entry)
    session.flush()
    rows = _occurrences(circuit)
    if rows:
        session.execute(insert(Occurrence), rows)
    audit.record(session, "add", circuit.id, name=entry.name, nodes=entry.nodes, edges=entry.edges)
    return entry


def _occurrences(circuit: Circuit) -> list[dict[str, Any]]:
    n = circuit.nodes
    return [
        {
            "circuit_id": circuit.id,
            "row": row,
            "feature": clean(circuit.feature_key(row) or ""),
            "node": circuit.keys[row],
            "position": int(n.position[row]),
            "token": clean(circuit.node_tokens[row]),
            "activation": finite(n.activation[row]),
            "influence": finite(n.influence[row]),
        }
        for row in np.flatnonzero(n.kind == KIND["feature"]).tolist()
    ]


def get(session: Session, circuit_id: str) -> CircuitEntry:
    """The columns, not the blob. Raises NotFound."""
    entry = session.get(CircuitEntry, circuit_id)
    if entry is None:
        raise NotFound(f"There is no circuit {circuit_id!r}.", "`atlas circuits` lists them.")
    return entry


def blob(session: Session, circuit_id: str) -> bytes:
    """The binary form. Raises NotFound."""
    found = session.scalar(select(CircuitEntry.blob).where(CircuitEntry.id == circuit_id))
    if found is None:
        raise NotFound(f"There is no circuit {circuit_id!r}.", "`atlas circuits` lists them.")
    return found


def rename(session: Session, circuit_id: str, name: str) -> bool:
    """Give a circuit the name that lists and lookups use; its blob keeps the original one. True when it had another."""
    entry = get(session, circuit_id)
    if entry.name == clean(name):
        return False
    entry.name = clean(name)
    entry.search_text = clean(f"{name}\n{entry.prompt}").casefold()
    return True


@dataclass(frozen=True)
class Removed:
    """What was deleted, and the replicate that counts in its place (None: it did not count, or there is no other)."""

    entry: CircuitEntry
    blob: bytes
    promoted: str | None


def remove(session: Session, circuit_id: str) -> Removed:
    """Delete a circuit with its occurrences, node labels, supernodes, pins, memberships and evidence; feature labels stay.

    When it was the counted one of several replicates, the oldest of the others counts from now on.
    """
    query = select(CircuitEntry).where(CircuitEntry.id == circuit_id).options(undefer(CircuitEntry.blob))
    entry = session.scalar(query)
    if entry is None:
        raise NotFound(f"There is no circuit {circuit_id!r}.", "`atlas circuits` lists them.")
    session.delete(entry)
    session.flush()
    promoted = None
    if entry.counted:
        others = select(CircuitEntry).where(CircuitEntry.replicate_group == entry.replicate_group)
        heir = session.scalar(others.order_by(CircuitEntry.created_at, CircuitEntry.id).limit(1))
        if heir is not None:
            heir.counted_group = entry.replicate_group
            promoted = heir.id
    audit.record(session, "delete", circuit_id, name=entry.name, promoted=promoted)
    return Removed(entry, entry.blob, promoted)


def listing(
    session: Session,
    model: str | None = None,
    collection: str | None = None,
    text: str | None = None,
    limit: int | None = 100,
    tag: str | None = None,
) -> Table[CircuitRow]:
    """Newest first. `text` is sought in name and prompt, case folded. Raises NotFound for an unknown model or collection."""
    if limit is not None and limit < 0:
        raise UsageError(f"The limit is {limit}, which is below 0.", "Pass a limit of 0 or more.")
    query = select(CircuitEntry).order_by(CircuitEntry.created_at.desc(), CircuitEntry.id.desc())
    if model is not None:
        query = query.where(CircuitEntry.model_id == models.model_id(session, model))
    if collection is not None:
        query = query.where(CircuitEntry.id.in_(collections.members_query(session, collection)))
    if tag is not None:
        query = query.where(CircuitEntry.id.in_(annotation_log.tagged(tag)))
    if text:
        query = query.where(CircuitEntry.search_text.contains(clean(text).casefold(), autoescape=True))
    return rows(session, query.limit(limit) if limit is not None else query)


def rows(session: Session, query: Select[Any]) -> Table[CircuitRow]:
    """List rows for a query of circuits, in its order."""
    entries = list(session.scalars(query))
    model_names = dict(session.execute(select(ModelRow.id, ModelRow.name)).all())
    set_names = dict(session.execute(select(SetRow.id, SetRow.name)).all())
    ids = [entry.id for entry in entries]
    member_of, tags = collections.of_circuits(session, ids), annotation_log.tags(session, ids)
    return Table(
        CircuitRow(
            id=entry.id,
            name=entry.name,
            prompt=entry.prompt,
            model=model_names[entry.model_id],
            nodes=entry.nodes,
            edges=entry.edges,
            verdict=entry.verdict,
            created_at=entry.created_at,
            transcoders=set_names[entry.set_id],
            collections=member_of.get(entry.id, []),
            tags=tags.get(entry.id, []),
        )
        for entry in entries
    )


def row(session: Session, circuit_id: str) -> CircuitRow:
    return rows(session, select(CircuitEntry).where(CircuitEntry.id == circuit_id))[0]


def resolve(session: Session, text: str) -> str:
    """The id for an id, a unique prefix of one (at least 4 characters) or a unique name.

    Raises Ambiguous listing at most 5 candidates, NotFound otherwise.
    """
    text = clean(text.strip())
    if text and exists(session, text):
        return text
    found = {}
    if text:
        fits = CircuitEntry.name == text
        if len(text) >= 4:
            fits |= CircuitEntry.id.startswith(text, autoescape=True)
        order = (CircuitEntry.created_at.desc(), CircuitEntry.id)
        query = select(CircuitEntry.id, CircuitEntry.name, CircuitEntry.created_at).where(fits).order_by(*order)
        found = {row.id: f"{row.name}, {row.created_at[:19]}".lstrip(", ") for row in session.execute(query.limit(6))}
    if len(found) == 1:
        return next(iter(found))
    if found:
        listed = ", ".join(f"{key} ({name_and_time})" for key, name_and_time in list(found.items())[:5])
        raise Ambiguous(
            f"{text!r} fits several circuits: {listed}{', ...' if len(found) > 5 else ''}.",
            "Give the id, or enough of it; `atlas show ID` tells their targets and thresholds.",
        )
    hint = "`atlas circuits` lists them."
    if 0 < len(text) < 4:
        hint = "A prefix of an id needs at least 4 characters; `atlas circuits` lists them."
    raise NotFound(f"There is no circuit with the id or the name {text!r}.", hint)


def by_trace_key(session: Session, trace_key: str) -> list[str]:
    """Ids of all circuits with that trace key, newest first."""
    query = select(CircuitEntry.id).where(CircuitEntry.trace_key == trace_key)
    return list(session.scalars(query.order_by(CircuitEntry.created_at.desc(), CircuitEntry.id.desc())))


def ids(session: Session) -> list[str]:
    """All ids, oldest first."""
    return list(session.scalars(select(CircuitEntry.id).order_by(CircuitEntry.created_at, CircuitEntry.id)))


def feature_keys(session: Session, circuit_id: str) -> dict[int, str]:
    """Feature key by node row."""
    query = select(Occurrence.row, Occurrence.feature).where(Occurrence.circuit_id == circuit_id)
    return dict(session.execute(query).all())


def known_features(session: Session, keys: list[str]) -> set[str]:
    """Those of `keys` that occur in some circuit."""
    found: set[str] = set()
    for batch in chunks(keys):
        found.update(session.scalars(select(Occurrence.feature).where(Occurrence.feature.in_(batch)).distinct()))
    return found


def occurrences(session: Session, feature: str, limit: int) -> list[tuple[Occurrence, CircuitEntry]]:
    """Where a feature occurs, strongest influence first."""
    query = (
        select(Occurrence, CircuitEntry)
        .join(CircuitEntry, CircuitEntry.id == Occurrence.circuit_id)
        .where(Occurrence.feature == feature)
        .order_by(func.coalesce(Occurrence.influence, -1.0).desc(), Occurrence.circuit_id, Occurrence.row)
        .limit(limit)
    )
    return [(found, entry) for found, entry in session.execute(query)]


def counts(session: Session) -> tuple[int, int, int]:
    """(circuits, distinct token sequences, distinct features)."""
    circuits, prompts = session.execute(
        select(func.count(CircuitEntry.id), func.count(CircuitEntry.prompt_key.distinct()))
    ).one()
    return circuits, prompts, session.scalar(select(func.count(Occurrence.feature.distinct()))) or 0
