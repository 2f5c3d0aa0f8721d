"""Keeps the graph store equal to the catalog: applies what the outbox announces, by one process at a time.

A process that is killed between its catalog transaction and the end of the projection leaves its entry in the outbox; the
next use of the graph by any process applies it. Entries are applied under a lock of the catalog, and again after a kill:
every action of the graph store may be repeated.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy.orm import Session

from atlas.catalog import annotation_log, circuits, collections, concepts, interventions, labels, outbox
from atlas.catalog import annotations as notes
from atlas.catalog.database import Catalog
from atlas.catalog.identity import catalog_id
from atlas.catalog.labels import CurrentLabel, EncoderRecord
from atlas.catalog.tables import CircuitEntry, OutboxEntry
from atlas.catalog.values import chunks
from atlas.circuit_file import from_bytes
from atlas.errors import InputRejected, NotFound, SchemaMismatch, StoreUnavailable
from atlas.records import ImportedSupernode
from atlas.settings import Settings

if TYPE_CHECKING:
    from atlas.graph.evidence import EvidenceProjection
    from atlas.graph.projection import CircuitProjection
    from atlas.graph.store import FeatureRow, GraphStore

Progress = Callable[[int, int, str], None]
GIVE_UP = 5  # after so many failures only a rebuild, or the writer itself, tries an entry again
_WAIT = 0.2  # seconds between looks whether another process has done our entries


class Projector:
    """One connection to the graph store, and the way from the outbox to it."""

    def __init__(self, catalog: Catalog, settings: Settings, encoder: Callable[[], EncoderRecord | None]) -> None:
        self.catalog = catalog
        self.settings = settings
        self._wanted_encoder = encoder
        self._store: GraphStore | None = None
        self._encoder: EncoderRecord | None = None
        self._checked = False
        self._guard = threading.RLock()

    @property
    def connected(self) -> GraphStore | None:
        """The store when it is connected already."""
        return self._store

    def store(self) -> GraphStore:
        """The graph store, connected and with everything announced applied, unless another process is at that."""
        with self._guard:
            self._drain_once(wait=0)
            return self._connect()

    def connect(self) -> GraphStore:
        """The graph store, connected and of the right schema; nothing is applied. Raises as `store`."""
        with self._guard:
            return self._connect()

    def finish(self, numbers: Sequence[int], progress: Progress | None = None) -> None:
        """Return when the entries `numbers` are applied, by this process or another. Raises what made one of them fail."""
        while True:
            with self._guard:
                failures = self._drain_once(wait=_WAIT, own=numbers, progress=progress)
            with self.catalog.read() as session:
                left = outbox.remaining(session, list(numbers))
            if not left:
                return
            for number in left:
                if failures is not None and number in failures:
                    raise failures[number]

    def close(self) -> None:
        with self._guard:
            if self._store is not None:
                self._store.close()
            self._store, self._checked = None, False

    def _connect(self, *, check: bool = True) -> GraphStore:
        from atlas.graph.store import GraphStore

        wanted = self._wanted_encoder()
        if self._store is not None and wanted != self._encoder:
            self.close()
        if self._store is None:
            dimension, name = (wanted.dimension, wanted.name) if wanted else (None, None)
            owner = catalog_id(self.catalog)
            self._store = GraphStore.connect(self.settings, dimension=dimension, encoder=name, catalog=owner)
            self._encoder = wanted
        if check and not self._checked:
            self._store.ensure_schema()
            self._checked = True
        return self._store

    def _drain_once(
        self, wait: float, own: Sequence[int] = (), progress: Progress | None = None
    ) -> dict[int, Exception] | None:
        """Apply what is announced now; failures by entry, or None when another process holds the lock."""
        with self.catalog.read() as session:
            if not outbox.last(session):
                return {}
        with self.catalog.lock("projection", wait) as held:
            return self._apply_all(own, progress) if held else None

    def _apply_all(self, own: Sequence[int], progress: Progress | None) -> dict[int, Exception]:
        with self.catalog.read() as session:
            until = outbox.last(session)  # what comes later is for its writer: a busy importer must not keep us here
            rebuild = outbox.last_rebuild(session)
        self._checked = False  # another atlas may have taken the graph over since
        self._connect(check=not rebuild)
        failures: dict[int, Exception] = {}
        number = max(rebuild - 1, 0)
        while True:
            with self.catalog.read() as session:
                entry = outbox.following(session, number, until)
            if entry is None:
                return failures
            number = entry.seq
            if entry.attempts >= GIVE_UP and number not in own:
                continue
            try:
                self._apply(entry, progress)
            except (StoreUnavailable, SchemaMismatch):
                raise  # not this entry's fault, and no later one would fare better
            except Exception as error:  # one bad entry must not keep the others out of the graph
                failures[number] = error
                self._write(partial(outbox.failed, number=number, error=repr(error)))
            else:
                self._write(partial(outbox.done, number=number))

    def _write(self, work: Callable[[Session], Any]) -> None:
        self.catalog.write("projection", work)

    def _apply(self, entry: OutboxEntry, progress: Progress | None) -> None:
        match entry.action:
            case "put":
                self._put_circuit(entry.subject)
            case "describe":
                self._describe_circuit(entry.subject)
            case "evidence":
                self._put_evidence(entry.subject, entry.detail.get("interventions"))
            case "delete":
                assert entry.payload is not None
                try:
                    projection = projection_from(entry.payload, entry.detail)
                except InputRejected:  # damaged on the disk: what it added is read back from the graph itself
                    projection = None
                self._connect().delete_circuit(entry.subject, projection)
            case "features":
                self._put_features(entry.detail["keys"])
            case "concept":
                self._put_concept(entry.subject)
            case "collection":
                self._put_collection(entry.subject)
            case "rebuild":
                self._rebuild(entry, progress)
            case _:
                raise SchemaMismatch(
                    f"The outbox of the catalog holds an unknown action {entry.action!r}.", "Upgrade circuit-atlas."
                )

    def _put_circuit(self, circuit_id: str) -> None:
        with self.catalog.read() as session:
            if not circuits.exists(session, circuit_id):
                return  # deleted since; its own entry follows
            entry = circuits.get(session, circuit_id)
            tags = annotation_log.tags(session, [circuit_id]).get(circuit_id, [])
            detail = description(entry, notes.supernodes(session, circuit_id), tags)
            projection = projection_from(circuits.blob(session, circuit_id), detail)
            projection.evidence = _evidence(session, circuit_id, None).steps
        self._connect().put_circuit(projection)

    def _describe_circuit(self, circuit_id: str) -> None:
        with self.catalog.read() as session:
            if not circuits.exists(session, circuit_id):
                return
            name, groups = circuits.get(session, circuit_id).name, notes.supernodes(session, circuit_id)
            tags = annotation_log.tags(session, [circuit_id]).get(circuit_id, [])
        if not self._connect().describe_circuit(circuit_id, name, tags, groups):
            self._put_circuit(circuit_id)

    def _put_evidence(self, circuit_id: str, ids: Sequence[str] | None) -> None:
        """`ids`: these interventions and the marks of what they tested; None: all that the catalog has."""
        with self.catalog.read() as session:
            if not circuits.exists(session, circuit_id):
                return
            evidence = _evidence(session, circuit_id, ids)
        if not self._connect().put_evidence(evidence):
            self._put_circuit(circuit_id)

    def _put_features(self, keys: Sequence[str]) -> None:
        for batch in chunks(keys):
            with self.catalog.read() as session:
                found = labels.current(session, batch, embeddings=True)
            self._connect().put_features([self._feature_row(label) for label in found.values()])
            self._connect().drop_labels([key for key in batch if key not in found])

    def _feature_row(self, label: CurrentLabel) -> FeatureRow:
        from atlas.graph.store import FeatureRow

        dimension = self._encoder.dimension if self._encoder else None
        vector = None
        if label.embedding is not None and len(label.embedding) == dimension:
            usable = np.isfinite(label.embedding).all() and label.embedding.any()
            vector = label.embedding.tolist() if usable else None
        return FeatureRow(key=label.feature, label=label.text, label_score=label.score, embedding=vector)

    @staticmethod
    def _bare_row(key: str) -> FeatureRow:
        from atlas.graph.store import FeatureRow

        return FeatureRow(key=key, label=None)  # type: ignore[arg-type]

    def _put_concept(self, name: str) -> None:
        with self.catalog.read() as session:
            concept = concepts.get(session, name)
        if concept is None:
            self._connect().delete_concept(name)
            return
        with self.catalog.read() as session:
            elsewhere = circuits.known_features(session, concept.features) | labels.labelled(session, concept.features)
        alone = [key for key in concept.features if key not in elsewhere]
        store = self._connect()
        store.put_features([self._bare_row(key) for key in alone])  # their circuits are gone, the concept keeps them
        store.put_concept(concept.name, concept.author, concept.features)

    def _put_collection(self, name: str) -> None:
        try:
            with self.catalog.read() as session:
                author, members = collections.get(session, name)
        except NotFound:
            self._connect().delete_collection(name)
            return
        self._connect().put_collection(name, author, members)

    def _rebuild(self, entry: OutboxEntry, progress: Progress | None) -> None:
        """Everything from the catalog; goes on where a killed rebuild stopped."""
        report = progress or (lambda done, total, what: None)
        store = self._connect(check=False)
        if not entry.detail.get("cleared"):
            report(0, 0, "clearing")
            store.claim(take_over=bool(entry.detail.get("take_over")))
            store.clear()
            store.ensure_schema()
            self._checked = True
            self._write(partial(outbox.rebuild_began, number=entry.seq))
        store = self._connect()
        ready = {circuit for circuit, status in store.circuit_ids().items() if status == "ready"}
        with self.catalog.read() as session:
            missing = [circuit for circuit in circuits.ids(session) if circuit not in ready]
            labelled = labels.all_labelled(session)
            names = [concept.name for concept in concepts.all_of(session)]
            groups = collections.names(session)
        total = len(missing) + len(labelled) + len(names) + len(groups)
        done = 0
        for circuit_id in missing:
            report(done, total, circuit_id)
            self._put_or_postpone(circuit_id)
            done += 1
        for batch in chunks(labelled):
            report(done, total, "labels")
            self._put_features(batch)
            done += len(batch)
        for name in names:
            self._put_concept(name)
        for name in groups:
            self._put_collection(name)
        self._write(partial(outbox.rebuild_done, number=entry.seq))
        report(total, total, "")

    def _put_or_postpone(self, circuit_id: str) -> None:
        try:
            self._put_circuit(circuit_id)
        except (StoreUnavailable, SchemaMismatch):
            raise
        except Exception as error:  # a circuit that cannot be projected must not keep the others out
            reason = repr(error)
            self._write(lambda session: outbox.failed(session, outbox.announce(session, "put", circuit_id), reason))


def _evidence(session: Session, circuit_id: str, ids: Sequence[str] | None) -> EvidenceProjection:
    from atlas.graph.evidence import EvidenceProjection

    rows = interventions.rows(session, circuit_id, ids=ids)[::-1]
    marks = interventions.edge_marks(session, circuit_id)
    if ids is not None:
        tested = {tuple(row.nodes) for row in rows}
        marks = [mark for mark in marks if (mark.source, mark.target) in tested]
    properties = {"verdict": circuits.get(session, circuit_id).verdict}
    return EvidenceProjection(circuit_id, properties, rows, marks, whole=ids is None)


def description(entry: CircuitEntry, supernodes: list[ImportedSupernode], tags: Sequence[str] = ()) -> dict[str, Any]:
    """What a projection needs beside the blob, as JSON."""
    return {
        "name": entry.name,
        "created_at": entry.created_at,
        "created_by": entry.created_by,
        "verdict": entry.verdict,
        "counted": entry.counted,
        "supernodes": [supernode.model_dump() for supernode in supernodes],
        "tags": list(tags),
    }


def projection_from(blob: bytes, detail: dict[str, Any]) -> CircuitProjection:
    from atlas.graph.projection import CircuitProjection

    supernodes = [ImportedSupernode.model_validate(supernode) for supernode in detail["supernodes"]]
    circuit = from_bytes(blob, "a circuit of the catalog")
    return CircuitProjection(circuit=circuit, status="ready", **(detail | {"supernodes": supernodes}))
