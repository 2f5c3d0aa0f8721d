"""Notes, tags, names and supernodes on anything in the atlas: a log in which nothing is overwritten."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
from sqlalchemy.orm import Session

from atlas.base import AtlasBase
from atlas.catalog import annotation_log as log
from atlas.catalog import circuits, outbox, subjects
from atlas.catalog import labels as label_store
from atlas.catalog.annotation_log import Subject
from atlas.catalog.labels import EncoderRecord
from atlas.catalog.tables import Annotation
from atlas.errors import NotFound, UsageError
from atlas.group_records import AnnotationKind, AnnotationRow
from atlas.records import Table

Embedded = tuple[np.ndarray | None, EncoderRecord | None]


class AnnotationVerbs(AtlasBase):
    """What people say about a subject: CIRCUIT (id, prefix or name), CIRCUIT#NODE, CIRCUIT#SOURCE->TARGET, feature:KEY,
    concept:NAME or collection:NAME. Every call appends an entry with author and time; none is ever changed."""

    def annotate(self, subject: str, kind: AnnotationKind, text: str, nodes: list[str] | None = None) -> AnnotationRow:
        """Add a note, a tag, a name or a supernode; `nodes` are the member node keys of a supernode.

        A name on a circuit becomes its display name, one on a feature its label, one on a node its label in that circuit; of
        several names the one said last holds. A tag is kept in lower case; one that is there already is not added again.
        Raises NotFound or Ambiguous for the subject or a node, UsageError for a blank or too long text.
        """
        if kind not in get_args(AnnotationKind):
            raise UsageError(f"There is no kind of annotation {kind!r}.", f"The kinds are {', '.join(log.KINDS)}.")
        text = log.checked_text(kind, text)
        with self.catalog.read() as session:
            about = subjects.find(session, subject, self._load)
        members = self._checked_members(about, kind, nodes)

        def work(session: Session) -> Annotation:
            subjects.check(session, about)
            return log.add(session, about, kind, text, members)

        return self._append(about, kind, text, work)

    def change_annotation(self, annotation_id: str, text: str, nodes: list[str] | None = None) -> AnnotationRow:
        """Another text (of a supernode also other nodes) for an annotation, named by the id of any of its entries.

        Raises NotFound for an unknown annotation and for one that is not there any more, UsageError for a bad text.
        """
        about, kind = self._annotation(annotation_id)
        text = log.checked_text(kind, text)
        members = self._checked_members(about, kind, nodes) if nodes is not None else None

        def work(session: Session) -> Annotation:
            entry = log.get(session, annotation_id)
            kept = log.of_thread(session, entry.thread)[-1].members
            return log.change(session, entry, text, list(kept) if members is None else members)

        return self._append(about, kind, text, work)

    def remove_annotation(self, annotation_id: str) -> AnnotationRow:
        """Take an annotation away; its history stays, and `undo` brings it back. Raises NotFound."""
        about, kind = self._annotation(annotation_id)
        return self._append(about, kind, "", lambda session: log.remove(session, log.get(session, annotation_id)))

    def undo(self, annotation_id: str) -> AnnotationRow:
        """Take one entry back, named by its own id: an addition, a change, a removal, or an undo.

        The row that comes back has the text that holds from now on, '' when the annotation is away. Raises NotFound,
        UsageError for an entry that has been undone already.
        """
        about, kind = self._annotation(annotation_id)
        return self._append(about, kind, "", lambda session: log.undo(session, log.get(session, annotation_id)))

    def annotations(
        self,
        subject: str | None = None,
        kind: AnnotationKind | None = None,
        author: str | None = None,
        text: str | None = None,
        history: bool = False,
        limit: int | None = 200,
    ) -> Table[AnnotationRow]:
        """What is said now, newest first: of each annotation its newest entry. `history`: every entry instead.

        A circuit's are also those of its nodes and edges. The history of what has been deleted is found by its exact address
        or circuit id. `author` is who made the entry, `text` a part of it. Raises NotFound, Ambiguous.
        """
        if limit is not None and limit < 0:
            raise UsageError(f"The limit is {limit}, which is below 0.", "Pass a limit of 0 or more.")
        with self.catalog.read() as session:
            about = subjects.find_or_known(session, subject, self._load) if subject is not None else None
            return Table(log.listing(session, about, kind, author, text, history, limit))

    # -- inside

    def _annotation(self, annotation_id: str) -> tuple[Subject, AnnotationKind]:
        with self.catalog.read() as session:
            entry = log.get(session, annotation_id)
        return Subject(entry.subject_kind, entry.subject, entry.circuit_id), entry.kind  # type: ignore[arg-type,return-value]

    def _checked_members(self, about: Subject, kind: AnnotationKind, nodes: list[str] | None) -> list[str]:
        if kind != "supernode":
            if nodes:
                raise UsageError(f"A {kind} has no member nodes.", "Only a supernode has.")
            return []
        if about.kind != "circuit" or about.circuit_id is None:
            raise UsageError("A supernode is made of nodes of one circuit.", "Name the circuit as its subject.")
        keys = list(dict.fromkeys(nodes or []))
        if not keys:
            raise UsageError("A supernode needs at least one node.", "Pass the keys of its nodes.")
        circuit = self._load(about.circuit_id)
        for key in keys:
            circuit.row(key)
        return keys

    def _append(
        self, about: Subject, kind: AnnotationKind, text: str, append: Callable[[Session], Annotation]
    ) -> AnnotationRow:
        """Append an entry, let what hangs on the log follow it, and tell the graph store."""
        names_feature = kind == "name" and about.kind == "feature"
        vector, record = self._embed_text(text) if names_feature and text else (None, None)
        original = self._original_name(about) if kind == "name" and about.kind == "circuit" else None

        def work(session: Session) -> tuple[AnnotationRow, list[int]]:
            log.lock(session, about.text)
            entry = append(session)
            if names_feature and entry.action in ("add", "change"):
                label_store.add_name(session, _feature(about), entry.text, entry.id, vector, record)
            return log.row(entry), follow(session, about, kind, original)

        row, announced = self._write(work)
        if names_feature:
            self._embed_current(_feature(about))
        self._project(announced)
        return row

    def _original_name(self, about: Subject) -> str | None:
        """The name in the blob, None when the circuit has been deleted."""
        try:
            return self._load(about.circuit_id or "").record.name
        except NotFound:
            return None

    def _embed_text(self, text: str) -> Embedded:
        encoder = self.encoder
        if encoder is None:
            return None, None
        return encoder.encode([text])[0], EncoderRecord(encoder.name, encoder.dimension)

    def _embed_current(self, feature: str) -> None:
        """A version that an undo made current again may be from before the encoder."""
        with self.catalog.read() as session:
            label = label_store.current(session, [feature], embeddings=True).get(feature)
        encoder = self.encoder if label is not None else None
        if label is None or encoder is None:
            return
        if label.embedding is None or len(label.embedding) != encoder.dimension:
            vector, record = encoder.encode([label.text]), EncoderRecord(encoder.name, encoder.dimension)
            self._write(lambda session: label_store.set_embeddings(session, [label.id], vector, record))


def follow(session: Session, about: Subject, kind: AnnotationKind, original: str | None) -> list[int]:
    """Bring what hangs on the log of a subject in line with it; returns what was announced to the graph store.

    `original`: the name in the circuit's blob, None to leave its name alone. May be repeated.
    """
    if about.kind == "feature" and kind == "name":
        holding = {state.said.id for state in log.of_subject(session, about.text, "name")}
        label_store.settle_names(session, _feature(about), holding)
        return [outbox.announce(session, "features", keys=[_feature(about)])]
    if about.kind != "circuit" or about.circuit_id is None or kind == "note":
        return []
    if not circuits.exists(session, about.circuit_id):
        return []
    if kind == "name" and original is not None:
        circuits.rename(session, about.circuit_id, log.name_of(session, about.text) or original)
    return [outbox.announce(session, "describe", about.circuit_id)]


def _feature(about: Subject) -> str:
    return about.text.partition(":")[2]
