"""What the verbs of `Atlas` share: both stores, the encoder, recent circuits, and who acts."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from sqlalchemy.orm import Session

from atlas import access
from atlas.access import Identity, Role
from atlas.catalog import Catalog, circuits
from atlas.catalog import labels as label_store
from atlas.catalog.labels import EncoderRecord
from atlas.catalog.projector import Progress, Projector
from atlas.catalog.values import chunks
from atlas.circuit import Circuit
from atlas.circuit_file import from_bytes
from atlas.errors import InputRejected, SchemaMismatch, StoreUnavailable
from atlas.records import NewLabel
from atlas.settings import Settings

if TYPE_CHECKING:
    from typing import Self

    from atlas.encoder import Encoder
    from atlas.graph.store import GraphStore

T = TypeVar("T")
LABEL_BATCH = 256
CACHED_CIRCUITS = 16


class AtlasBase:
    """The shared part; `acting_as` gives another actor the same stores."""

    def __init__(self, settings: Settings, identity: Identity, catalog: Catalog) -> None:
        self.settings = settings
        self.identity = identity
        self.catalog = catalog
        self._projector = Projector(catalog, settings, self._graph_encoder)
        self._cache: OrderedDict[str, Circuit] = OrderedDict()
        self._guard = threading.Lock()
        self._encoders: list[Encoder | None] = []  # one entry once it was looked for; shared by all actors

    @property
    def actor(self) -> str:
        """The name that signs what is written."""
        return self.identity.name

    def acting_as(self, person: str) -> Self:
        """The same atlas for somebody with an account, whose role is looked up at every write. Closing it does nothing.

        The caller must have checked that it is this person.
        """
        other = copy.copy(self)
        other.identity = Identity(person, person=True)
        return other

    def close(self) -> None:
        """Let go of both stores. The embedded graph server goes on for other processes."""
        if not self.identity.person:
            self._projector.close()
            self.catalog.close()

    @property
    def graph(self) -> GraphStore:
        """The graph store, connected at the first use and told first what it has not been told yet."""
        return self._projector.store()

    @property
    def encoder(self) -> Encoder | None:
        """The sentence encoder, None when it is not installed.

        Raises SchemaMismatch when the stored embeddings are of another encoder.
        """
        encoder = self._load_encoder()
        with self.catalog.read() as session:
            stored = label_store.encoder(session)
        if encoder is not None and stored is not None and stored != EncoderRecord(encoder.name, encoder.dimension):
            raise SchemaMismatch(
                f"The labels were embedded with {stored.name}, the settings name {encoder.name}.",
                "Run `atlas rebuild` to embed them again, or correct ATLAS_ENCODER.",
            )
        return encoder

    @property
    def searches_by_meaning(self) -> bool:
        """Whether `search` compares meanings, or full text only because no encoder is installed."""
        return self.encoder is not None

    # -- inside

    def _write(self, work: Callable[[Session], T], role: Role = "editor") -> T:
        """Do `work` in one transaction of the catalog, if the actor may. Raises AccessDenied."""

        def checked(session: Session) -> T:
            access.check(session, self.identity, role)
            return work(session)

        return self.catalog.write(self.actor, checked)

    def _project(self, announced: list[int], progress: Progress | None = None) -> None:
        try:
            self._projector.finish(announced, progress)
        except (StoreUnavailable, SchemaMismatch) as error:
            kept = "The change is kept in the catalog; the graph store is told at its next use."
            raise type(error)(error.message, f"{error.hint} {kept}".strip()) from error

    def _embed(self, batch: list[NewLabel]) -> tuple[list[NewLabel], np.ndarray | None, EncoderRecord | None]:
        """Those that say something new, (n, dimension) float32 embeddings and what made them, if there is an encoder."""
        if not batch:
            return [], None, None
        with self.catalog.read() as session:
            fresh = [label for label, new in zip(batch, label_store.is_new(session, batch), strict=True) if new]
        encoder = self.encoder if fresh else None
        if encoder is None:
            return fresh, None, None
        vectors = encoder.encode([label.text for label in fresh])
        return fresh, vectors, EncoderRecord(encoder.name, encoder.dimension)

    def _embed_again(self, progress: Progress | None) -> None:
        encoder = self._load_encoder()
        if encoder is None:
            return
        record = EncoderRecord(encoder.name, encoder.dimension)
        with self.catalog.read() as session:
            stale = label_store.without_embedding(session, encoder.name)
        for number, batch in enumerate(chunks(stale, LABEL_BATCH)):
            if progress:
                progress(number * LABEL_BATCH, len(stale), "embedding labels")
            ids, texts = [label_id for label_id, _ in batch], [text for _, text in batch]
            vectors = encoder.encode(texts)
            store = partial(label_store.set_embeddings, ids=ids, vectors=vectors, record=record)
            self._write(store)
        if stale:
            self._write(lambda session: label_store.remember_encoder(session, record))

    def _load_encoder(self) -> Encoder | None:
        with self._guard:
            if not self._encoders:
                from atlas.encoder import load_encoder

                self._encoders.append(load_encoder(self.settings))
            return self._encoders[0]

    def _graph_encoder(self) -> EncoderRecord | None:
        """What the vector index of the graph store is for: the stored embeddings, else those that would be stored."""
        with self.catalog.read() as session:
            stored = label_store.encoder(session)
        if stored is not None:
            return stored
        encoder = self._load_encoder()
        return EncoderRecord(encoder.name, encoder.dimension) if encoder else None

    def _graph_place(self) -> str:
        store = self._projector.connected
        if store is not None:
            return f"{store.server} at {store.address}"
        return self.settings.graph_url or "embedded server, not asked yet"

    def _load(self, circuit_id: str) -> Circuit:
        with self._guard:
            if circuit_id in self._cache:
                self._cache.move_to_end(circuit_id)
                return self._cache[circuit_id]
        with self.catalog.read() as session:
            blob = circuits.blob(session, circuit_id)
        try:
            circuit = from_bytes(blob)
        except InputRejected as error:
            raise StoreUnavailable(
                f"The circuit {circuit_id} is damaged in the catalog at {self.catalog.place}.",
                f"Restore the catalog from a backup, or give the circuit up: `atlas delete {circuit_id}`.",
            ) from error
        with self._guard:
            self._cache[circuit_id] = circuit
            while len(self._cache) > CACHED_CIRCUITS:
                self._cache.popitem(last=False)
        return circuit
