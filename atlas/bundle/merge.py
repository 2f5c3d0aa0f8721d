"""Lines of a bundle into the catalog: what is there already stays as it is, and nothing is written twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from atlas.annotating import follow
from atlas.bundle.lines import (
    AnnotationLine,
    AuditLine,
    CircuitLine,
    CollectionLine,
    ConceptLine,
    LabelLine,
    ModelLine,
    Signed,
    TranscoderSet,
)
from atlas.catalog import annotation_log, circuits, collections, models, outbox
from atlas.catalog import labels as label_store
from atlas.catalog.labels import EncoderRecord
from atlas.catalog.tables import (
    Annotation,
    Audit,
    CollectionRow,
    Concept,
    Label,
    Membership,
    ModelAlias,
    ModelRow,
    ModelVersion,
    NodeLabel,
    Pin,
    SetAlias,
    SetRow,
    SetVersion,
    Supernode,
)
from atlas.catalog.values import chunks
from atlas.circuit import Circuit, ModelRef, SetRef
from atlas.circuit_file import from_bytes
from atlas.errors import NotFound
from atlas.records import Added


@dataclass(frozen=True)
class Signer:
    """The name under which somebody's record is kept. Only an admin vouches for other people's names."""

    importer: str
    vouches: bool

    def __call__(self, author: str) -> str:
        mark = f" (imported by {self.importer})"
        return author if self.vouches or author == self.importer or author.endswith(mark) else author + mark


@dataclass
class Tally:
    """What became of the records, by kind; what the graph store must be told."""

    added: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    conflicts: list[str] = field(default_factory=list)
    announced: list[int] = field(default_factory=list)
    circuits: list[Added] = field(default_factory=list)

    def count(self, kind: str, new: bool) -> None:
        (self.added if new else self.known)[kind] += 1

    def __iadd__(self, other: Tally) -> Tally:
        self.added += other.added
        self.known += other.known
        self.conflicts += other.conflicts
        self.announced += other.announced
        self.circuits += other.circuits
        return self


Work = Callable[[Session], Tally]


def signed_by(signed: Signed, sign: Signer) -> dict[str, str]:
    return {"author": sign(signed.author), "created_at": signed.created_at}


# -- models


def merge_models(session: Session, batch: Sequence[ModelLine], sign: Signer) -> Tally:
    tally = Tally()
    for line in batch:
        new = session.scalar(select(ModelRow.id).where(ModelRow.name == line.name)) is None
        model_id = models.register_model(session, ModelRef(name=line.name, layers=line.layers))
        row = session.get_one(ModelRow, model_id)
        if new and row.name == line.name:
            row.created_at, row.created_by = line.created_at, sign(line.created_by)
        tally.count("models", new and row.name == line.name)
        for version in line.versions:
            session.merge(ModelVersion(model_id=model_id, revision=version.revision, weights_hash=version.hash))
        for alias in line.aliases:
            owner = _model_of(session, alias)
            if owner is None:
                session.add(ModelAlias(alias=alias, model_id=model_id))
            elif owner != model_id:
                tally.conflicts.append(f"The model alias {alias!r} stands for another model here and stays so.")
        for part in line.sets:
            _merge_set(session, part, model_id, line.name, sign, tally)
        session.flush()
    return tally


def _model_of(session: Session, name: str) -> str | None:
    try:
        return models.model_id(session, name)
    except NotFound:
        return None


def _merge_set(session: Session, part: TranscoderSet, model_id: str, model: str, sign: Signer, tally: Tally) -> None:
    def owner(name: str) -> str | None:
        by_name = session.scalar(select(SetRow.id).where(SetRow.model_id == model_id, SetRow.name == name))
        alias = session.get(SetAlias, (model_id, name))
        return by_name or (alias.set_id if alias else None)

    new = owner(part.name) is None
    set_id = models.register_set(session, SetRef(name=part.name), model_id)
    if new:
        row = session.get_one(SetRow, set_id)
        row.created_at, row.created_by = part.created_at, sign(part.created_by)
    tally.count("transcoder sets", new)
    for version in part.versions:
        session.merge(SetVersion(set_id=set_id, revision=version.revision, hash=version.hash))
    for alias in part.aliases:
        taken = owner(alias)
        if taken is None:
            session.add(SetAlias(model_id=model_id, alias=alias, set_id=set_id))
        elif taken != set_id:
            tally.conflicts.append(f"The alias {alias!r} stands for another set of {model!r} here and stays so.")


# -- circuits


def merge_circuits(
    session: Session,
    batch: Sequence[tuple[CircuitLine, Circuit, bytes]],
    sign: Signer,
    collection: str | None = None,
) -> Tally:
    """`collection`: put them there, whether they are new or not."""
    tally = Tally()
    for line, circuit, blob in batch:
        new = not circuits.exists(session, line.id)
        tally.count("circuits", new)
        tally.circuits.append(
            Added(circuit=line.id, nodes=len(circuit.nodes), edges=len(circuit.edges), already=not new)
        )
        if new:
            entry = circuits.insert_circuit(session, circuit, blob)
            entry.verdict = line.verdict
            if name := annotation_log.name_of(session, line.id):
                circuits.rename(session, line.id, name)
            entry.created_at, entry.created_by = line.created_at, sign(line.created_by)
        grouped = _merge_annotations(session, line, sign, tally)
        if new or grouped:
            tally.announced.append(outbox.announce(session, "put", line.id))
    session.flush()
    if collection is not None and sum(collections.put(session, collection, line.id) for line, _, _ in batch):
        tally.announced.append(outbox.announce(session, "collection", collection))
    return tally


def _merge_annotations(session: Session, line: CircuitLine, sign: Signer, tally: Tally) -> bool:
    """True when the supernodes changed, which the graph store holds."""
    if line.node_labels:
        _merge_node_labels(session, line, sign, tally)
    if line.pins:
        _merge_pins(session, line, sign, tally)
    return bool(line.supernodes) and _merge_supernodes(session, line, sign, tally)


def _known(session: Session, column: Any, ids: Iterable[str]) -> set[str]:
    return {found for batch in chunks(ids) for found in session.scalars(select(column).where(column.in_(batch)))}


def _merge_node_labels(session: Session, line: CircuitLine, sign: Signer, tally: Tally) -> None:
    ids = _known(session, NodeLabel.id, [label.id for label in line.node_labels])
    query = select(NodeLabel.node_key, NodeLabel.text).where(NodeLabel.circuit_id == line.id)
    texts = {(key, text) for key, text in session.execute(query)}
    for label in line.node_labels:
        new = label.id not in ids and (label.node_key, label.text) not in texts
        tally.count("node labels", new)
        if new:
            values = label.model_dump(exclude={"author", "created_at"}) | signed_by(label, sign)
            session.add(NodeLabel(circuit_id=line.id, **values))
        ids.add(label.id)
        texts.add((label.node_key, label.text))


def _merge_pins(session: Session, line: CircuitLine, sign: Signer, tally: Tally) -> None:
    pins = set(session.scalars(select(Pin.node_key).where(Pin.circuit_id == line.id)))
    first = len(pins)  # those of the file come after those that are here
    for place, pin in enumerate(line.pins, start=first):
        tally.count("pins", pin.node_key not in pins)
        if pin.node_key not in pins:
            values = {"node_key": pin.node_key, "resolved": pin.resolved, "ordinal": place}
            session.add(Pin(circuit_id=line.id, **values, **signed_by(pin, sign)))
        pins.add(pin.node_key)


def _merge_supernodes(session: Session, line: CircuitLine, sign: Signer, tally: Tally) -> bool:
    ids = _known(session, Supernode.id, [group.id for group in line.supernodes])
    query = select(Supernode.name, Supernode.node_keys).where(Supernode.circuit_id == line.id)
    groups = {(name, frozenset(keys)) for name, keys in session.execute(query)}
    changed = False
    for group in line.supernodes:
        identity = (group.name, frozenset(group.node_keys))
        new = group.id not in ids and identity not in groups
        tally.count("supernodes", new)
        if new:
            values = group.model_dump(exclude={"author", "created_at"}) | signed_by(group, sign)
            session.add(Supernode(circuit_id=line.id, **values))
            changed = True
        ids.add(group.id)
        groups.add(identity)
    return changed


# -- labels


@dataclass(frozen=True)
class Embeddings:
    """By label id: float32 little-endian bytes and the name of the encoder that made them. `encoder`: the atlas's own,
    to be remembered when these are its first."""

    vectors: dict[str, tuple[bytes, str]]
    encoder: EncoderRecord | None = None


def fresh_labels(session: Session, batch: Sequence[LabelLine]) -> list[LabelLine]:
    """Those that the atlas does not have: neither this version nor, of a graph file's label, its text."""
    known = set(session.scalars(select(Label.id).where(Label.id.in_([line.id for line in batch]))))
    from_files = {line.feature for line in batch if line.method == label_store.GRAPH_FILE}
    query = select(Label.feature, Label.text).where(
        Label.feature.in_(from_files), Label.method == label_store.GRAPH_FILE
    )
    said = set(session.execute(query).all())
    return [
        line
        for line in batch
        if line.id not in known and not (line.method == label_store.GRAPH_FILE and (line.feature, line.text) in said)
    ]


def merge_labels(
    session: Session, fresh: Sequence[LabelLine], seen: int, sign: Signer, embeddings: Embeddings
) -> Tally:
    """`fresh` are those of `seen` labels that `fresh_labels` found new."""
    tally = Tally(added=Counter(labels=len(fresh)), known=Counter(labels=seen - len(fresh)))
    if not fresh:
        return tally
    if embeddings.encoder is not None and embeddings.vectors and label_store.encoder(session) is None:
        label_store.remember_encoder(session, embeddings.encoder)
    session.execute(insert(Label), [_label_row(line, sign, embeddings) for line in fresh])
    for feature in {line.feature for line in fresh if line.method == label_store.PERSON}:
        names = annotation_log.of_subject(session, f"feature:{feature}", "name")
        label_store.settle_names(session, feature, {state.said.id for state in names})
    keys = list(dict.fromkeys(line.feature for line in fresh))
    tally.announced.append(outbox.announce(session, "features", keys=keys))
    return tally


def _label_row(line: LabelLine, sign: Signer, embeddings: Embeddings) -> dict[str, Any]:
    row = line.model_dump(exclude={"author", "created_at"}) | signed_by(line, sign)
    vector, encoder = embeddings.vectors.get(line.id, (None, None))
    return row | {"rank": label_store.rank(line.method), "embedding": vector, "encoder": encoder}


# -- what has a name


def merge_collections(session: Session, batch: Sequence[CollectionLine], sign: Signer) -> Tally:
    tally = Tally()
    for line in batch:
        new = session.get(CollectionRow, line.name) is None
        tally.count("collections", new)
        if new:
            session.add(CollectionRow(name=line.name, **signed_by(line, sign)))
            session.flush()
        there = set(session.scalars(select(Membership.circuit_id).where(Membership.collection == line.name)))
        joining = {member.circuit: member for member in line.members if member.circuit not in there}
        tally.added["memberships"] += len(joining)
        tally.known["memberships"] += len(line.members) - len(joining)
        for member in joining.values():
            session.add(Membership(collection=line.name, circuit_id=member.circuit, **signed_by(member, sign)))
        if new or joining:
            session.flush()
            tally.announced.append(outbox.announce(session, "collection", line.name))
    return tally


def merge_concepts(session: Session, batch: Sequence[ConceptLine], sign: Signer) -> Tally:
    tally = Tally()
    for line in batch:
        here = session.get(Concept, line.name)
        tally.count("concepts", here is None)
        if here is None:
            session.add(Concept(name=line.name, features=line.features, **signed_by(line, sign)))
            session.flush()
            tally.announced.append(outbox.announce(session, "concept", line.name))
        elif set(here.features) != set(line.features):
            tally.conflicts.append(
                f"The concept {line.name!r} has other features here ({len(here.features)}, in the file "
                f"{len(line.features)}) and stays as it is."
            )
    return tally


# -- logs


def merge_log(session: Session, batch: Sequence[AnnotationLine], sign: Signer) -> Tally:
    """Entries of the annotation log. What hangs on it (names, groups of nodes) follows for what the atlas has already."""
    known = set(session.scalars(select(Annotation.id).where(Annotation.id.in_([line.id for line in batch]))))
    fresh = [line for line in batch if line.id not in known]
    tally = Tally(added=Counter(annotations=len(fresh)), known=Counter(annotations=len(known)))
    if not fresh:
        return tally
    rows = [line.model_dump(exclude={"annotation", "author", "created_at"}) | signed_by(line, sign) for line in fresh]
    kinds = [{"kind": line.annotation} for line in fresh]
    session.execute(insert(Annotation), [row | kind for row, kind in zip(rows, kinds, strict=True)])
    said = {(line.subject_kind, line.subject, line.circuit_id, line.annotation) for line in fresh}
    for subject_kind, subject, circuit_id, kind in sorted(said, key=repr):
        about = annotation_log.Subject(subject_kind, subject, circuit_id)
        original = _original_name(session, circuit_id) if kind == "name" and subject_kind == "circuit" else None
        tally.announced += follow(session, about, kind, original)
    return tally


def _original_name(session: Session, circuit_id: str | None) -> str | None:
    if circuit_id is None or not circuits.exists(session, circuit_id):
        return None
    return from_bytes(circuits.blob(session, circuit_id)).record.name


def merge_audit(session: Session, batch: Sequence[AuditLine], mark: dict[str, str]) -> Tally:
    """`mark` is added to the detail of every entry: who imported it."""
    known = set(session.scalars(select(Audit.id).where(Audit.id.in_([line.id for line in batch]))))
    rows = [line.model_dump() | {"detail": line.detail | mark} for line in batch if line.id not in known]
    if rows:
        session.execute(insert(Audit), rows)
    return Tally(added=Counter(audit=len(rows)), known=Counter(audit=len(batch) - len(rows)))
