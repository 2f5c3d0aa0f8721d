"""Labels of features: versions that are never overwritten, and which of them is current.

**Current** is the version of the highest rank, and the newest within it: what a person wrote (`person`) comes before what
came with a graph file (`graph file`), and that before what a program made (any other method). So a new automatic
labelling never hides a name that somebody chose, and a person's last word holds.

A person's name for a feature is an annotation. When that is changed, removed or undone, its version stays with its text, author
and time, and only its `rank` becomes TAKEN_BACK: such a version is never current, and what was current before is so again.

A version that says nothing new is not stored again: for `graph file` a text that any file brought for the feature before,
for other methods a version equal to the newest of that method in all but its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.orm import Session, aliased, undefer

from atlas.catalog import audit
from atlas.catalog.tables import CircuitEntry, Label, Meta, Occurrence
from atlas.catalog.values import chunks, clean, finite, new_id, now
from atlas.records import ActivationExample, LabelVersion, NewLabel

PERSON, GRAPH_FILE = "person", "graph file"
TAKEN_BACK = -1  # rank of a version whose annotation does not hold
_HOLDS = Label.rank > TAKEN_BACK
_EXAMPLES = (undefer(Label.examples), undefer(Label.promoted), undefer(Label.suppressed))


@dataclass(frozen=True)
class EncoderRecord:
    """Which encoder made the stored embeddings."""

    name: str
    dimension: int


@dataclass(frozen=True)
class CurrentLabel:
    id: str
    feature: str
    text: str
    score: float | None
    embedding: np.ndarray | None  # (dimension,) float32


def rank(method: str) -> int:
    return {PERSON: 2, GRAPH_FILE: 1}.get(method, 0)


def is_new(session: Session, labels: list[NewLabel]) -> list[bool]:
    """By label: True where it would be stored as a new version."""
    earlier: dict[tuple[str, str], list[Label]] = {}
    said: set[tuple[str, str]] = set()
    for batch in chunks(dict.fromkeys(clean(label.feature) for label in labels)):
        query = select(Label).where(Label.feature.in_(batch), _HOLDS).order_by(Label.id).options(*_EXAMPLES)
        for row in session.scalars(query):
            earlier.setdefault((row.feature, row.method), []).append(row)
            said.add((row.feature, row.text))
    return [not _says_nothing_new(label, earlier, said) for label in labels]


def _says_nothing_new(label: NewLabel, earlier: dict[tuple[str, str], list[Label]], said: set[tuple[str, str]]) -> bool:
    text = clean(label.text.strip())
    if not text:
        return True
    if label.method == GRAPH_FILE:
        # a file that we wrote ourselves brings back our own labels, which must not hide the scored ones
        return (clean(label.feature), text) in said
    versions = earlier.get((clean(label.feature), label.method))
    newest = versions[-1] if versions else None
    return newest is not None and _content(newest) == (
        text,
        finite(label.score),
        finite(label.random_score),
        _plain(label.examples),
        label.promoted,
        label.suppressed,
    )


def _content(row: Label) -> tuple:
    return row.text, row.score, row.random_score, list(row.examples), list(row.promoted), list(row.suppressed)


def _plain(examples: list[ActivationExample]) -> list[dict]:
    return [{"tokens": e.tokens, "activations": [finite(a) or 0.0 for a in e.activations]} for e in examples]


def put(
    session: Session, labels: list[NewLabel], vectors: np.ndarray | None = None, encoder: EncoderRecord | None = None
) -> list[str]:
    """Store those labels that say something new; returns their feature keys.

    vectors (len(labels), dimension) float32 or None; with vectors, `encoder` says what made them.
    """
    if vectors is not None and encoder is not None:
        remember_encoder(session, encoder)
    stored, seen = [], set()
    for row, (label, new) in enumerate(zip(labels, is_new(session, labels), strict=True)):
        identity = (label.feature, label.method, label.text.strip())
        if not new or identity in seen:
            continue
        seen.add(identity)
        version = Label(
            id=new_id(),
            feature=clean(label.feature),
            text=clean(label.text.strip()),
            method=clean(label.method),
            rank=rank(label.method),
            author=audit.actor(session),
            score=finite(label.score),
            random_score=finite(label.random_score),
            parameters=label.parameters,
            examples=_plain(label.examples),
            promoted=[clean(token) for token in label.promoted],
            suppressed=[clean(token) for token in label.suppressed],
            created_at=now(),
        )
        if vectors is not None and encoder is not None:
            version.embedding = np.ascontiguousarray(vectors[row], "<f4").tobytes()
            version.encoder = encoder.name
        session.add(version)
        stored.append(version.feature)
    if stored:
        methods = ", ".join(sorted({label.method for label in labels}))
        audit.record(session, "label", stored[0] if len(stored) == 1 else "", labels=len(stored), methods=methods)
    return stored


def add_name(
    session: Session,
    feature: str,
    text: str,
    annotation: str,
    vector: np.ndarray | None = None,
    encoder: EncoderRecord | None = None,
) -> None:
    """A version that a person wrote as the entry `annotation` of the annotation log. vector (dimension,) float32 or None."""
    version = Label(
        id=new_id(),
        feature=feature,
        text=text,
        method=PERSON,
        rank=rank(PERSON),
        author=audit.actor(session),
        parameters={"annotation": annotation},
        examples=[],
        promoted=[],
        suppressed=[],
        created_at=now(),
    )
    if vector is not None and encoder is not None:
        remember_encoder(session, encoder)
        version.embedding, version.encoder = np.ascontiguousarray(vector, "<f4").tobytes(), encoder.name
    session.add(version)
    session.flush()


def settle_names(session: Session, feature: str, holding: set[str]) -> bool:
    """Let those versions of people hold whose entry of the annotation log is among `holding`. True when one changed."""
    changed = False
    for version in session.scalars(select(Label).where(Label.feature == feature, Label.method == PERSON)):
        entry = version.parameters.get("annotation")
        wanted = rank(PERSON) if entry in holding else TAKEN_BACK
        if entry is not None and version.rank != wanted:
            version.rank, changed = wanted, True
    session.flush()
    return changed


def _current() -> Select[Any]:
    """Ids of the current versions: no other version of the feature is of higher rank, or newer in the same rank."""
    better = aliased(Label)
    beats = (better.rank > Label.rank) | ((better.rank == Label.rank) & (better.id > Label.id))
    return select(Label.id).where(_HOLDS, ~select(better.id).where(better.feature == Label.feature, beats).exists())


def current(session: Session, keys: Iterable[str], *, embeddings: bool = False) -> dict[str, CurrentLabel]:
    """Current label by feature key; features without one are left out."""
    found = {}
    for batch in chunks(keys):
        query = select(Label).where(Label.feature.in_(batch), _HOLDS).order_by(Label.feature, Label.rank, Label.id)
        if embeddings:
            query = query.options(undefer(Label.embedding))
        for row in session.scalars(query):  # the last of each feature wins
            found[row.feature] = _as_current(row, embeddings)
    return found


def all_labelled(session: Session) -> list[str]:
    """The keys of all labelled features, sorted."""
    return list(session.scalars(select(Label.feature).where(_HOLDS).distinct().order_by(Label.feature)))


def _as_current(row: Label, embeddings: bool) -> CurrentLabel:
    vector = np.frombuffer(row.embedding, "<f4") if embeddings and row.embedding is not None else None
    return CurrentLabel(row.id, row.feature, row.text, row.score, vector)


def of_circuit(session: Session, circuit_id: str) -> dict[int, str]:
    """Current label text by node row of a circuit."""
    query = (
        select(Occurrence.row, Label.text)
        .join(Label, Label.feature == Occurrence.feature)
        .where(Occurrence.circuit_id == circuit_id, _HOLDS)
        .order_by(Occurrence.row, Label.rank, Label.id)
    )
    return dict(session.execute(query).all())  # the last of each row wins


def versions(session: Session, feature: str) -> list[tuple[LabelVersion, Label]]:
    """All versions of a feature's label, the current one first, then by rank and time."""
    query = select(Label).where(Label.feature == feature).order_by(Label.rank.desc(), Label.id.desc())
    return [
        (
            LabelVersion(
                text=row.text,
                method=row.method,
                author=row.author,
                score=row.score,
                random_score=row.random_score,
                created_at=row.created_at,
                current=place == 0 and row.rank > TAKEN_BACK,
                taken_back=row.rank == TAKEN_BACK,
            ),
            row,
        )
        for place, row in enumerate(session.scalars(query.options(*_EXAMPLES)))
    ]


def similar(
    session: Session, vector: np.ndarray, keep: Callable[[str], bool], parts: Iterable[str] = ()
) -> list[tuple[str, float]]:
    """(feature key, cosine) of the current labels whose feature `keep` accepts, most similar first, computed exactly.

    vector (dimension,) of length 1. Every embedding accepted is read: for narrow choices. `parts`: texts of which the
    accepted keys have at least one, so that the database can leave out most others.
    """
    query = select(Label.feature).distinct()
    if parts := list(parts):
        query = query.where(or_(*(Label.feature.contains(part, autoescape=True) for part in parts)))
    keys = [key for key in session.scalars(query) if keep(key)]
    found = [
        (label.feature, float(label.embedding @ vector))
        for label in current(session, keys, embeddings=True).values()
        if label.embedding is not None and len(label.embedding) == len(vector)
    ]
    return sorted(found, key=lambda hit: (-hit[1], hit[0]))


def labelled(session: Session, keys: list[str]) -> set[str]:
    """Those of `keys` that have a label."""
    found: set[str] = set()
    for batch in chunks(keys):
        found.update(session.scalars(select(Label.feature).where(Label.feature.in_(batch), _HOLDS).distinct()))
    return found


def count(session: Session) -> int:
    """Number of labelled features."""
    return session.scalar(select(func.count(Label.feature.distinct())).where(_HOLDS)) or 0


def missing(
    session: Session, model_id: str | None = None, limit: int | None = None, method: str | None = None
) -> list[str]:
    """Keys of features that occur in circuits and have no label version (with `method`: none by that method), by key."""
    of_feature = select(Label.id).where(Label.feature == Occurrence.feature, _HOLDS)
    has_label = (of_feature if method is None else of_feature.where(Label.method == method)).exists()
    query = select(Occurrence.feature).where(~has_label).distinct().order_by(Occurrence.feature)
    if model_id is not None:
        query = query.join(CircuitEntry, CircuitEntry.id == Occurrence.circuit_id)
        query = query.where(CircuitEntry.model_id == model_id)
    return list(session.scalars(query.limit(limit) if limit is not None else query))


def encoder(session: Session) -> EncoderRecord | None:
    """The encoder of the stored embeddings, None while there are none."""
    row = session.get(Meta, "encoder")
    return None if row is None else EncoderRecord(row.value["name"], row.value["dimension"])


def remember_encoder(session: Session, record: EncoderRecord) -> None:
    value = {"name": record.name, "dimension": record.dimension}
    row = session.get(Meta, "encoder")
    if row is None:
        session.add(Meta(key="encoder", value=value))
    elif row.value != value:
        row.value = value


def without_embedding(session: Session, encoder_name: str) -> list[tuple[str, str]]:
    """(id, text) of the current labels that this encoder has not embedded."""
    stale = (Label.encoder.is_(None)) | (Label.encoder != encoder_name)
    query = select(Label.id, Label.text).where(Label.id.in_(_current()), stale).order_by(Label.id)
    return list(session.execute(query))


def set_embeddings(session: Session, ids: list[str], vectors: np.ndarray, record: EncoderRecord) -> None:
    """Embeddings are derived data beside a version: a new encoder replaces them. vectors (len(ids), dimension)."""
    for label_id, vector in zip(ids, vectors, strict=True):
        values = {"embedding": np.ascontiguousarray(vector, "<f4").tobytes(), "encoder": record.name}
        session.execute(update(Label).where(Label.id == label_id).values(values))
