"""`Atlas`: every write and every question goes through this object, and it carries who asks (the actor).

    from atlas import Atlas

    with Atlas.open() as atlas:
        for row in atlas.circuits(text="Dallas"):
            print(row.id, row.prompt)

A write is first a transaction of the catalog, which holds the truth, and then a projection into the graph store. When the
graph store is down the write stays, its projection waits in the outbox, and StoreUnavailable says so.
"""

from __future__ import annotations

import getpass
import operator
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from atlas.access import Identity
from atlas.annotating import AnnotationVerbs
from atlas.base import LABEL_BATCH
from atlas.catalog import (
    Catalog,
    annotation_log,
    audit,
    circuits,
    collections,
    concepts,
    details,
    interventions,
    models,
    outbox,
)
from atlas.catalog import annotations as notes
from atlas.catalog import labels as label_store
from atlas.catalog.projector import Progress, description
from atlas.catalog.values import chunks
from atlas.causal import CausalVerbs
from atlas.circuit import UNKNOWN, Circuit, parse_feature_key
from atlas.circuit_file import to_bytes
from atlas.collecting import CollectionVerbs
from atlas.edges import edge_detail
from atlas.errors import StoreUnavailable
from atlas.jobs import JobVerbs
from atlas.observing import watch_verbs
from atlas.people import PeopleVerbs
from atlas.records import (
    Added,
    Annotations,
    CircuitDetail,
    CircuitRow,
    Comparison,
    ConceptRow,
    CypherResult,
    Deleted,
    EdgeDetail,
    FeatureDetail,
    NewLabel,
    Overview,
    PathHit,
    RebuildResult,
    SearchHit,
    Table,
)
from atlas.settings import Settings, load_settings

RECENT = 10


@watch_verbs
class Atlas(PeopleVerbs, AnnotationVerbs, CollectionVerbs, CausalVerbs, JobVerbs):
    """An open atlas. A context manager; may be used by several threads and opened by several processes at once."""

    @classmethod
    def open(
        cls,
        home: str | Path | None = None,
        *,
        actor: str | None = None,
        settings: Settings | None = None,
        token: str | None = None,
    ) -> Atlas:
        """Open the atlas of `home` (default: the settings'), migrating the catalog when it is older.

        `home` may be the address of a server (`https://...`), which wants an access token (default: the settings').
        Raises StoreUnavailable when the catalog cannot be opened or the server not be reached, SchemaMismatch when a
        newer program wrote it, AccessDenied for a token that does not work.
        """
        if isinstance(home, str) and home.startswith(("https://", "http://")):
            return cls._open_remote(home, settings or load_settings(), token)
        settings = settings or (load_settings(home=Path(home)) if home is not None else load_settings())
        if home is None and settings.server:
            return cls._open_remote(settings.server, settings, token)
        if home is not None:
            settings = settings.model_copy(update={"home": Path(home)})
        settings = settings.model_copy(update={"home": settings.home.expanduser().absolute()})
        try:
            settings.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = "it is a file" if settings.home.is_file() else (error.strerror or str(error)).lower()
            raise StoreUnavailable(
                f"The atlas home {settings.home} cannot be made: {reason}.", "Set ATLAS_HOME to a folder you may write."
            ) from error
        return cls(
            settings, Identity(actor or settings.actor or _login_name()), Catalog.open(settings.resolved_catalog_url())
        )

    @staticmethod
    def _open_remote(address: str, settings: Settings, token: str | None) -> Atlas:
        from atlas.remote import RemoteAtlas

        return RemoteAtlas(address, settings.token.get_secret_value() if token is None else token, settings)

    def __enter__(self) -> Atlas:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- writes

    def add(self, circuit: Circuit, *, annotations: Annotations | None = None, collection: str | None = None) -> Added:
        """Keep a circuit. One that is there already gains the annotations and the collection it does not have yet.

        Labels among the annotations become versions with the method `graph file`.
        Raises InputRejected when its model or set has a folder for a name or two of its nodes are one, UsageError for a
        blank collection.
        """
        brought = annotations or Annotations()
        group = collections.checked(collection) if collection is not None else None
        circuits.check(circuit)
        blob = to_bytes(circuit)
        sorted_labels = notes.sort_labels(circuit, brought)
        fresh, vectors, record = self._embed(sorted_labels.feature_labels)

        def work(session: Session) -> tuple[bool, list[int]]:
            already = circuits.exists(session, circuit.id)
            if not already:
                circuits.insert_circuit(session, circuit, blob)
                # one that comes back has the name that people gave it
                circuits.rename(session, circuit.id, annotation_log.name_of(session, circuit.id) or circuit.record.name)
            changed = notes.merge(session, circuit, brought, sorted_labels.node_labels)
            announced = [outbox.announce(session, "put", circuit.id)] if changed or not already else []
            keys = label_store.put(session, fresh, vectors, record)
            if keys:
                announced.append(outbox.announce(session, "features", keys=keys))
            if group is not None and collections.put(session, group, circuit.id):
                announced.append(outbox.announce(session, "collection", group))
            return already, announced

        already, announced = self._write(work)
        self._project(announced)
        return Added(circuit=circuit.id, nodes=len(circuit.nodes), edges=len(circuit.edges), already=already)

    def delete(self, circuit: str) -> Deleted:
        """Delete a circuit with its annotations and its evidence. Labels that it brought to features stay. Raises NotFound, Ambiguous."""
        circuit_id = self.resolve(circuit)

        def work(session: Session) -> list[int]:
            # supernodes and tags are not needed to take it out of the graph
            detail = description(circuits.get(session, circuit_id), [])
            removed = circuits.remove(session, circuit_id)
            announced = [outbox.announce(session, "delete", circuit_id, removed.blob, **detail)]
            if removed.promoted:
                announced.append(outbox.announce(session, "put", removed.promoted))
            return announced

        announced = self._write(work)
        with self._guard:
            self._cache.pop(circuit_id, None)
        self._project(announced)
        return Deleted(deleted=circuit_id)

    def put_labels(self, labels: Iterable[NewLabel], progress: Progress | None = None) -> int:
        """Store label versions in batches, each embedded, written and projected; returns how many say something new."""
        total = operator.length_hint(labels)
        seen = stored = 0
        for batch in chunks(labels, LABEL_BATCH):
            stored += self._put_label_batch(list(batch))
            seen += len(batch)
            if progress:
                progress(seen, max(total, seen), "labels")
        return stored

    def _put_label_batch(self, batch: list[NewLabel]) -> int:
        for label in batch:
            parse_feature_key(label.feature)
        fresh, vectors, record = self._embed(batch)

        def work(session: Session) -> tuple[int, list[int]]:
            keys = label_store.put(session, fresh, vectors, record)
            return len(keys), [outbox.announce(session, "features", keys=keys)] if keys else []

        stored, announced = self._write(work)
        self._project(announced)
        return stored

    def define_concept(self, name: str, features: list[str]) -> ConceptRow:
        """Name a group of features, for `concept:NAME` in questions; an existing concept of that name is replaced.

        Raises UsageError for a blank name or no features, NotFound for a feature that the atlas does not have.
        """

        def work(session: Session) -> tuple[ConceptRow, int]:
            row = concepts.define(session, name, features)
            return row, outbox.announce(session, "concept", row.name)

        row, announced = self._write(work)
        self._project([announced])
        return row

    def delete_concept(self, name: str) -> None:
        """Raises NotFound."""

        def work(session: Session) -> int:
            return outbox.announce(session, "concept", concepts.remove(session, name))

        self._project([self._write(work)])

    def rebuild(self, progress: Progress | None = None, *, take_over: bool = False) -> RebuildResult:
        """Drop the graph projection and build it again from the catalog.

        The projection of another atlas is dropped with `take_over` only; data of no atlas never is (StoreUnavailable).
        After a kill the next use of the graph finishes it. When the settings name another encoder than the one of the
        stored embeddings, current labels are embedded again first.
        """
        began = time.monotonic()
        self._embed_again(progress)

        def work(session: Session) -> int:
            detail: dict[str, Any] = {"take_over": True} if take_over else {}
            audit.record(session, "rebuild", "", **detail)
            return outbox.announce(session, "rebuild", **detail)

        self._projector.finish([self._write(work, "admin")], progress)
        with self.catalog.read() as session:
            count, _, features = circuits.counts(session)
            labelled = label_store.count(session)
        return RebuildResult(circuits=count, features=features, labels=labelled, seconds=time.monotonic() - began)

    # -- questions

    def overview(self) -> Overview:
        """What is in the atlas; does not start or connect the graph server."""
        with self.catalog.read() as session:
            count, prompts, features = circuits.counts(session)
            return Overview(
                circuits=count,
                prompts=prompts,
                features=features,
                labelled=label_store.count(session),
                models=models.names(session),
                collections=collections.names(session),
                graph=self._graph_place(),
                recent=circuits.listing(session, limit=RECENT),
            )

    def circuits(
        self,
        model: str | None = None,
        collection: str | None = None,
        text: str | None = None,
        limit: int | None = 100,
        tag: str | None = None,
    ) -> Table[CircuitRow]:
        """Circuits, newest first. `text` is a part of the name or the prompt, upper and lower case alike.

        Raises NotFound for an unknown model or collection, UsageError for a negative limit or a blank tag.
        """
        with self.catalog.read() as session:
            return circuits.listing(session, model, collection, text, limit, tag)

    def resolve(self, circuit: str) -> str:
        """The id for an id, a unique prefix of one (4 characters or more) or a unique name. Raises NotFound, Ambiguous."""
        with self.catalog.read() as session:
            return circuits.resolve(session, circuit)

    def find_trace(self, trace_key: str) -> str | None:
        """The newest circuit with that trace key."""
        with self.catalog.read() as session:
            return next(iter(circuits.by_trace_key(session, trace_key)), None)

    def load(self, circuit: str) -> Circuit:
        """The circuit with its arrays, to be read only: recent ones are shared between callers. Raises NotFound."""
        return self._load(self.resolve(circuit))

    def show(self, circuit: str) -> CircuitDetail:
        """The record of a circuit, its annotations and strongest nodes. Raises NotFound, Ambiguous."""
        loaded = self.load(circuit)
        with self.catalog.read() as session:
            return details.circuit_detail(session, loaded)

    def edge(self, circuit: str, source: str, target: str) -> EdgeDetail:
        """One edge between two node keys, with the attention heads that carried it where the circuit stores them, and the
        mark of its newest test. Raises NotFound for a circuit, node or edge that is not there.
        """
        loaded = self.load(circuit)
        detail = edge_detail(loaded, source, target)
        with self.catalog.read() as session:
            test = interventions.edge_mark(session, loaded.id, source, target)
        if test is None:
            return detail
        return detail.model_copy(update=test.model_dump(include={"mark", "predicted", "measured", "intervention"}))

    def node_labels(self, circuit_id: str) -> dict[int, str]:
        """Label by node row: the feature's current one, unless the node has one of its own. Raises NotFound."""
        loaded = self.load(circuit_id)
        with self.catalog.read() as session:
            return details.node_labels(session, loaded)

    def feature(self, key: str) -> FeatureDetail:
        """A feature with its label versions, examples, occurrences and neighbours. Raises NotFound.

        When the graph server is down, `graph_fault` says so and the neighbours are missing.
        """
        with self.catalog.read() as session:
            detail = details.feature_detail(session, key)
        try:
            inputs, outputs = self.graph.influences(key)
        except StoreUnavailable as error:
            return detail.model_copy(update={"graph_fault": str(error)})
        return detail.model_copy(update={"inputs": details.influences(inputs), "outputs": details.influences(outputs)})

    def features_without_label(
        self, model: str | None = None, limit: int | None = None, method: str | None = None
    ) -> list[str]:
        """Keys of features that occur in circuits and have no label version, or none by `method`.

        Raises NotFound for an unknown model.
        """
        with self.catalog.read() as session:
            model_id = models.model_id(session, model) if model is not None else None
            return label_store.missing(session, model_id, limit, method)

    def concepts(self) -> list[ConceptRow]:
        """All concepts, by name."""
        with self.catalog.read() as session:
            return concepts.all_of(session)

    def search(
        self, text: str, model: str | None = None, layers: tuple[int, int] | None = None, limit: int = 20
    ) -> Table[SearchHit]:
        """Labelled features by description, best first (`atlas.search`)."""
        from atlas.search import search

        return search(self, text, model=model, layers=layers, limit=limit)

    def paths(
        self,
        source: str,
        target: str,
        circuit: str | None = None,
        model: str | None = None,
        collection: str | None = None,
        limit: int = 10,
        null_graphs: int = 199,
        seed: int = 0,
    ) -> Table[PathHit]:
        """The strongest paths from one description to another (`atlas.paths`)."""
        from atlas.paths import paths

        return paths(
            self,
            source,
            target,
            circuit=circuit,
            model=model,
            collection=collection,
            limit=limit,
            null_graphs=null_graphs,
            seed=seed,
        )

    def compare(self, a: str, b: str) -> Comparison:
        """B minus A, edge by edge (`atlas.compare`)."""
        from atlas.compare import compare_circuits

        return compare_circuits(self, a, b)

    def cypher(self, query: str, params: dict[str, Any] | None = None, limit: int | None = None) -> CypherResult:
        """Read-only Cypher over the graph. Raises QueryRefused or QueryFailed."""
        return self.graph.read(
            query,
            params,
            limit=self.settings.cypher_row_limit if limit is None else limit,
            timeout=self.settings.cypher_timeout_seconds,
        )


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user without a name
        return UNKNOWN
