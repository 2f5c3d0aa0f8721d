"""The tables. A change here needs a migration in `migrations/versions` (a test compares the two).

Portable types only. Times are ISO 8601 strings in UTC (`values.now`), ids are made in Python, embeddings are float32
little-endian bytes. Circuit blobs are never rewritten; the columns beside them exist to list and filter.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON, float: Double}  # noqa: RUF012


def _circuit_key(**options: Any) -> Mapped[str]:
    return mapped_column(String, ForeignKey("circuits.id", ondelete="CASCADE"), **options)


class Meta(Base):
    """One-off facts, e.g. `encoder`: which encoder made the stored embeddings, and their dimension."""

    __tablename__ = "catalog_meta"
    key: Mapped[str] = mapped_column(String, primary_key=True)
    value: Mapped[dict[str, Any]]


class ModelRow(Base):
    __tablename__ = "models"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    name: Mapped[str] = mapped_column(String, unique=True)
    layers: Mapped[int | None]
    created_at: Mapped[str]
    created_by: Mapped[str]


class ModelVersion(Base):
    """A revision and weights hash under which a model was seen."""

    __tablename__ = "model_versions"
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    revision: Mapped[str] = mapped_column(String, primary_key=True)
    weights_hash: Mapped[str] = mapped_column(String, primary_key=True)


class ModelAlias(Base):
    __tablename__ = "model_aliases"
    alias: Mapped[str] = mapped_column(String, primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))


class SetRow(Base):
    """A transcoder set. Sets of different models may share a name."""

    __tablename__ = "transcoder_sets"
    __table_args__ = (UniqueConstraint("model_id", "name"),)
    id: Mapped[str] = mapped_column(String, primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    name: Mapped[str]
    created_at: Mapped[str]
    created_by: Mapped[str]


class SetVersion(Base):
    __tablename__ = "transcoder_set_versions"
    set_id: Mapped[str] = mapped_column(ForeignKey("transcoder_sets.id"), primary_key=True)
    revision: Mapped[str] = mapped_column(String, primary_key=True)
    hash: Mapped[str] = mapped_column(String, primary_key=True)


class SetAlias(Base):
    __tablename__ = "transcoder_set_aliases"
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(String, primary_key=True)
    set_id: Mapped[str] = mapped_column(ForeignKey("transcoder_sets.id"))


class CircuitEntry(Base):
    """A circuit: its blob, and what lists need. `counted_group` = `replicate_group` for the one circuit of a group that
    counts (unique, so two processes cannot both count), else null."""

    __tablename__ = "circuits"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    blob: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    schema_version: Mapped[int]
    trace_key: Mapped[str] = mapped_column(String, index=True)
    prompt_key: Mapped[str] = mapped_column(String, index=True)
    replicate_group: Mapped[str] = mapped_column(String, index=True)
    counted_group: Mapped[str | None] = mapped_column(String, unique=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    set_id: Mapped[str] = mapped_column(ForeignKey("transcoder_sets.id"), index=True)
    method: Mapped[str]
    weight_unit: Mapped[str]
    name: Mapped[str]
    prompt: Mapped[str]
    search_text: Mapped[str]
    nodes: Mapped[int]
    edges: Mapped[int]
    scores: Mapped[dict[str, Any]]
    verdict: Mapped[str]
    created_at: Mapped[str] = mapped_column(String, index=True)
    created_by: Mapped[str]

    @property
    def counted(self) -> bool:
        return self.counted_group is not None


class Occurrence(Base):
    """A feature node of a circuit, so that a feature's circuits are found without opening blobs."""

    __tablename__ = "occurrences"
    circuit_id: Mapped[str] = _circuit_key(primary_key=True)
    row: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    feature: Mapped[str] = mapped_column(String, index=True)
    node: Mapped[str]
    position: Mapped[int]
    token: Mapped[str]
    activation: Mapped[float | None]
    influence: Mapped[float | None]


class Label(Base):
    """A version of a feature's label; never overwritten. `rank` orders methods, see `labels.rank`."""

    __tablename__ = "labels"
    __table_args__ = (Index(None, "feature", "rank", "id"),)
    id: Mapped[str] = mapped_column(String, primary_key=True)
    feature: Mapped[str]
    text: Mapped[str]
    method: Mapped[str]
    rank: Mapped[int]
    author: Mapped[str]
    score: Mapped[float | None]
    random_score: Mapped[float | None]
    parameters: Mapped[dict[str, Any]]
    examples: Mapped[list[Any]] = mapped_column(JSON, deferred=True)
    promoted: Mapped[list[Any]] = mapped_column(JSON, deferred=True)
    suppressed: Mapped[list[Any]] = mapped_column(JSON, deferred=True)
    embedding: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    encoder: Mapped[str | None]
    created_at: Mapped[str]


class NodeLabel(Base):
    """A label of one node of one circuit only (imported labels that hold at one position, or for a non-feature)."""

    __tablename__ = "node_labels"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    circuit_id: Mapped[str] = _circuit_key(index=True)
    node_key: Mapped[str]
    text: Mapped[str]
    source: Mapped[str]
    author: Mapped[str]
    created_at: Mapped[str]


class Supernode(Base):
    __tablename__ = "supernodes"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    circuit_id: Mapped[str] = _circuit_key(index=True)
    name: Mapped[str]
    node_keys: Mapped[list[Any]]
    unresolved: Mapped[list[Any]]
    author: Mapped[str]
    created_at: Mapped[str]


class Pin(Base):
    """A node that a person pinned. `resolved` is false for ids of a file that none of its nodes has."""

    __tablename__ = "pins"
    circuit_id: Mapped[str] = _circuit_key(primary_key=True)
    node_key: Mapped[str] = mapped_column(String, primary_key=True)
    resolved: Mapped[bool]
    ordinal: Mapped[int]
    author: Mapped[str]
    created_at: Mapped[str]


class CollectionRow(Base):
    __tablename__ = "collections"
    name: Mapped[str] = mapped_column(String, primary_key=True)
    author: Mapped[str]
    created_at: Mapped[str]


class Membership(Base):
    __tablename__ = "collection_circuits"
    collection: Mapped[str] = mapped_column(ForeignKey("collections.name", ondelete="CASCADE"), primary_key=True)
    circuit_id: Mapped[str] = _circuit_key(primary_key=True, index=True)
    author: Mapped[str]
    created_at: Mapped[str]


class Concept(Base):
    __tablename__ = "concepts"
    name: Mapped[str] = mapped_column(String, primary_key=True)
    author: Mapped[str]
    features: Mapped[list[Any]]
    created_at: Mapped[str]


class Audit(Base):
    """Who did what, when; written in the transaction of the deed, never changed."""

    __tablename__ = "audit"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    at: Mapped[str] = mapped_column(String, index=True)
    actor: Mapped[str]
    verb: Mapped[str]
    subject: Mapped[str] = mapped_column(String, index=True)
    detail: Mapped[dict[str, Any]]


class OutboxEntry(Base):
    """What the graph store has not been told yet, in order (`outbox`)."""

    __tablename__ = "projection_outbox"
    seq: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    action: Mapped[str]
    subject: Mapped[str] = mapped_column(String, index=True)
    detail: Mapped[dict[str, Any]]
    payload: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    attempts: Mapped[int]
    error: Mapped[str]
    created_at: Mapped[str]


class Person(Base):
    """Who may sign in. Never deleted, only disabled: what they wrote keeps their name."""

    __tablename__ = "people"
    name: Mapped[str] = mapped_column(String, primary_key=True)
    folded: Mapped[str] = mapped_column(String, unique=True)  # names that differ in case only are one name
    role: Mapped[str]
    disabled: Mapped[bool]
    password_hash: Mapped[str | None]
    email: Mapped[str | None] = mapped_column(String, unique=True)
    visited_at: Mapped[str | None]
    created_at: Mapped[str]
    created_by: Mapped[str]


class AccessToken(Base):
    """A secret of a person, of which only a hash is kept."""

    __tablename__ = "access_tokens"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    person: Mapped[str] = mapped_column(ForeignKey("people.name"), index=True)
    name: Mapped[str]
    hash: Mapped[str] = mapped_column(String, unique=True)
    created_at: Mapped[str]
    created_by: Mapped[str]
    expires_at: Mapped[str | None]
    revoked_at: Mapped[str | None]
    used_at: Mapped[str | None]


class SignIn(Base):
    """A browser that somebody signed in with; ends when its token or its person does."""

    __tablename__ = "sign_ins"
    id: Mapped[str] = mapped_column(String, primary_key=True)
    person: Mapped[str] = mapped_column(ForeignKey("people.name"), index=True)
    token_id: Mapped[str | None] = mapped_column(ForeignKey("access_tokens.id"))
    created_at: Mapped[str]
    expires_at: Mapped[str]
    ended_at: Mapped[str | None]


class Annotation(Base):
    """One entry of the annotation log, never changed: what somebody added, changed, removed or undid.

    `thread` groups the versions of one annotation (the id of its first entry); `undoes` is the entry that this one takes
    back. Subjects are not foreign keys: history outlives what it is about.
    """

    __tablename__ = "annotations"
    __table_args__ = (Index(None, "subject_kind", "subject"),)
    id: Mapped[str] = mapped_column(String, primary_key=True)
    thread: Mapped[str] = mapped_column(String, index=True)
    subject_kind: Mapped[str]
    subject: Mapped[str]
    circuit_id: Mapped[str | None] = mapped_column(String, index=True)
    kind: Mapped[str]
    action: Mapped[str]
    text: Mapped[str]
    members: Mapped[list[Any]]
    undoes: Mapped[str | None]
    author: Mapped[str]
    created_at: Mapped[str] = mapped_column(String, index=True)


class Job(Base):
    """Work for a worker: what was asked, how far it is, how it ended. Its id is also that of its durable workflow."""

    __tablename__ = "jobs"
    __table_args__ = (Index(None, "state", "priority", "id"),)
    id: Mapped[str] = mapped_column(String, primary_key=True)
    kind: Mapped[str]
    arguments: Mapped[dict[str, Any]]
    title: Mapped[str]
    batch: Mapped[str | None] = mapped_column(String, index=True)
    group_key: Mapped[str]
    priority: Mapped[int]
    state: Mapped[str]
    worker: Mapped[str | None] = mapped_column(String, index=True)
    attempts: Mapped[int]
    done: Mapped[int]
    total: Mapped[int]
    step: Mapped[str]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    author: Mapped[str]
    created_at: Mapped[str] = mapped_column(String, index=True)
    started_at: Mapped[str | None]
    changed_at: Mapped[str]
    finished_at: Mapped[str | None]


class Worker(Base):
    """A worker by its name, and when it was last alive."""

    __tablename__ = "workers"
    name: Mapped[str] = mapped_column(String, primary_key=True)
    instance: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int]
    device: Mapped[str]
    version: Mapped[str]
    model: Mapped[str]
    job: Mapped[str | None]
    started_at: Mapped[str]
    alive_at: Mapped[str] = mapped_column(String, index=True)
    stopped_at: Mapped[str | None]


class Intervention(Base):
    """One intervention in the real model, as `document` (an InterventionResult) says; never changed. The columns beside it are
    taken from it, to count and to mark edges: `nodes` are node keys (of a cut the path), `predicted` and `measured` of its
    first target."""

    __tablename__ = "interventions"
    __table_args__ = (Index(None, "circuit_id", "created_at", "id"),)
    id: Mapped[str] = mapped_column(String, primary_key=True)
    circuit_id: Mapped[str] = _circuit_key()
    battery: Mapped[str | None] = mapped_column(String, index=True)
    kind: Mapped[str]
    nodes: Mapped[list[Any]]
    mark: Mapped[str]
    predicted: Mapped[float | None]
    measured: Mapped[float | None]
    document: Mapped[dict[str, Any]] = mapped_column(JSON, deferred=True)
    author: Mapped[str]
    created_at: Mapped[str]


class Measurement(Base):
    """A verification (VerifyResult) or faithfulness curves (FaithfulnessResult) of a circuit; never changed."""

    __tablename__ = "measurements"
    __table_args__ = (Index(None, "circuit_id", "kind", "created_at"),)
    id: Mapped[str] = mapped_column(String, primary_key=True)
    circuit_id: Mapped[str] = _circuit_key()
    kind: Mapped[str]
    document: Mapped[dict[str, Any]]
    author: Mapped[str]
    created_at: Mapped[str]
