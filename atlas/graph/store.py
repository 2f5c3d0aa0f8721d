"""GraphStore: the only way into the graph. One class, the same statements on Neo4j and on the embedded server."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from atlas.circuit import parse_feature_key
from atlas.errors import InputRejected, SchemaMismatch, StoreUnavailable
from atlas.graph import cypher, loading
from atlas.graph.connection import Connection
from atlas.graph.evidence import EvidenceProjection
from atlas.graph.projection import CircuitProjection, node_key, supernode_rows
from atlas.graph.reading import run_untrusted
from atlas.records import CypherResult, ImportedSupernode
from atlas.settings import Settings

FEATURE_BATCH = 500
CLEAR_BATCH = 10_000
_WARMING_VECTORS = 200  # bulk writes of more vectors than this are followed by one query that builds the index


@dataclass(frozen=True)
class FeatureRow:
    """What the graph holds of a labelled feature."""

    key: str
    label: str
    label_score: float | None = None
    embedding: list[float] | None = None


class GraphStore:
    """Every method raises StoreUnavailable, in one sentence, when the server cannot do it."""

    def __init__(
        self, connection: Connection, dimension: int | None, encoder: str | None, catalog: str | None = None
    ) -> None:
        self._connection = connection
        self.dimension, self.encoder, self.catalog = dimension, encoder, catalog

    @classmethod
    def connect(
        cls,
        settings: Settings,
        *,
        dimension: int | None = None,
        encoder: str | None = None,
        catalog: str | None = None,
    ) -> GraphStore:
        """Connects to `settings.graph_url`, or to the embedded server of `settings.home`, which is started if need be.

        `dimension` and `encoder` describe the label embeddings; None = no embeddings are written or searched. `catalog` is
        the id of the catalog whose projection this is; None = whichever is there.
        """
        return cls(Connection(settings), dimension, encoder, catalog)

    @property
    def server(self) -> str:
        return self._connection.server

    @property
    def address(self) -> str:
        return self._connection.address

    def ensure_schema(self) -> None:
        """Constraints, indexes and the (:Meta) node that says how and from which catalog the projection was made.

        Cheap when all is there. Raises SchemaMismatch when the projection was made by another version or with another
        encoder, StoreUnavailable when the server holds somebody else's data or the projection of another catalog.
        """
        meta = self._meta()
        if meta is not None:
            self._check_owner(meta)
            self._check(meta)
            if self.catalog is not None and meta["catalog"] is None:  # made before catalogs had ids
                self._own(cypher.ADOPT, {"catalog": self.catalog})
            if self.dimension is None or meta["dimension"] is not None:
                return
        for statement in cypher.CONSTRAINTS:
            self._connection.run(statement)
        self._connection.dialect.create_search_indexes(self._connection, self.dimension)
        described = {
            "schema": cypher.SCHEMA_VERSION,
            "encoder": self.encoder,
            "dimension": self.dimension,
            "now": datetime.now(UTC).isoformat(timespec="seconds"),
            "catalog": self.catalog,
        }
        self._own(cypher.PUT_META, described)

    def claim(self, *, take_over: bool = False) -> None:
        """Make sure that this projection may be cleared: it is this catalog's, or (`take_over`) it becomes that.

        Raises StoreUnavailable when it is another catalog's, and always when the server holds data of no atlas.
        """
        meta = self._meta()
        if meta is None:
            return
        if take_over:
            self._own(cypher.TAKE_OVER, {"catalog": self.catalog})
        else:
            self._check_owner(meta)

    def _own(self, statement: str, parameters: dict[str, Any]) -> None:
        """Write to (:Meta), then look whether another catalog was faster."""
        self._connection.write(lambda tx: tx.run(statement, parameters).consume())
        self._check_owner(self._connection.read(cypher.META)[0])

    def _meta(self) -> dict[str, Any] | None:
        """What (:Meta) says, None in an empty database. Raises StoreUnavailable when there is data of no atlas."""
        found = self._connection.read(cypher.META)
        if not found and self._connection.read(cypher.ANY_NODE):
            raise StoreUnavailable(
                f"The graph database at {self.address} holds other data, so the atlas does not touch it.",
                "Name an empty database in ATLAS_GRAPH_URL or ATLAS_GRAPH_DATABASE.",
            )
        return found[0] if found else None

    def _check_owner(self, meta: dict[str, Any]) -> None:
        if None not in (self.catalog, meta["catalog"]) and self.catalog != meta["catalog"]:
            raise StoreUnavailable(
                f"The graph database at {self.address} belongs to another atlas, so this one does not touch it.",
                "Name another database in ATLAS_GRAPH_URL or ATLAS_GRAPH_DATABASE (without them: another ATLAS_HOME), "
                "or give it to this atlas: `atlas rebuild --take-over`.",
            )

    def _check(self, meta: dict[str, Any]) -> None:
        made = None
        if meta["schema"] == cypher.BEING_CLEARED:
            raise SchemaMismatch(
                f"The graph projection at {self.address} was being cleared when that was interrupted.",
                "Run `atlas rebuild` to make it again.",
            )
        if meta["schema"] != cypher.SCHEMA_VERSION:
            made = (
                f"by version {meta['schema']} of the graph schema, this program writes version {cypher.SCHEMA_VERSION}"
            )
        elif None not in (self.dimension, meta["dimension"]) and (meta["encoder"], meta["dimension"]) != (
            self.encoder,
            self.dimension,
        ):
            made = (
                f"with the encoder {meta['encoder']} ({meta['dimension']} numbers), "
                f"this program uses {self.encoder} ({self.dimension})"
            )
        if made:
            raise SchemaMismatch(
                f"The graph projection at {self.address} was made {made}.", "Run `atlas rebuild` to make it again."
            )

    def put_circuit(self, projection: CircuitProjection) -> None:
        """Loads or updates a circuit; again and again is fine. Returns when its INFLUENCES are complete."""
        loading.put_circuit(self._connection, projection)

    def describe_circuit(
        self, circuit_id: str, name: str, tags: list[str], supernodes: list[ImportedSupernode]
    ) -> bool:
        """What people say about a circuit that is ready; cheap whatever its size. False when it has to be loaded first."""
        rows = supernode_rows(circuit_id, supernodes)
        return loading.describe_circuit(self._connection, circuit_id, {"name": name, "tags": tags}, rows)

    def put_evidence(self, evidence: EvidenceProjection) -> bool:
        """Interventions and marks of edges of a circuit that is ready; again and again is fine. False when it has to be
        loaded first."""
        return loading.put_evidence(self._connection, evidence)

    def intervention_keys(self) -> dict[str, set[str]]:
        """Keys of interventions by circuit id."""
        found: dict[str, set[str]] = {}
        for row in self._connection.read(cypher.INTERVENTION_KEYS):
            found.setdefault(row["circuit"], set()).add(row["key"])
        return found

    def marks(self, circuit_id: str, edges: list[tuple[str, str]]) -> dict[tuple[str, str], set[str]]:
        """Marks of the edges between pairs of node keys; pairs without an edge are left out."""
        found: dict[tuple[str, str], set[str]] = {}
        for begin in range(0, len(edges), FEATURE_BATCH):
            rows = [[node_key(circuit_id, key) for key in edge] for edge in edges[begin : begin + FEATURE_BATCH]]
            for row in self._connection.read(cypher.MARKS, {"rows": rows}):
                edge = (row["source"].partition("/")[2], row["target"].partition("/")[2])
                found.setdefault(edge, set()).add(row["mark"])
        return found

    def delete_circuit(self, circuit_id: str, projection: CircuitProjection | None = None) -> None:
        """Takes a circuit out, also one that is half loaded or half deleted; its aggregates are taken back exactly."""
        loading.delete_circuit(self._connection, circuit_id, projection)

    def circuit_ids(self) -> dict[str, str]:
        """Status (`loading`, `ready`, `deleting`) by circuit id."""
        return {row["id"]: row["status"] for row in self._connection.read(cypher.CIRCUIT_STATUSES)}

    def put_features(self, rows: Iterable[FeatureRow]) -> None:
        """Labels and embeddings of features; missing Feature nodes are made. Raises InputRejected on a bad embedding."""
        rows = list(rows)
        vectors = 0
        for begin in range(0, len(rows), FEATURE_BATCH):
            some = rows[begin : begin + FEATURE_BATCH]
            labels = [self._label_row(row) for row in some]
            embeddings = [{"key": r.key, "embedding": self._vector(r)} for r in some if r.embedding is not None]
            dropped = [row.key for row in some if row.embedding is None]
            vectors += len(embeddings)

            def write(tx, labels=labels, embeddings=embeddings, dropped=dropped) -> None:
                tx.run(cypher.PUT_FEATURES, {"rows": labels}).consume()
                if embeddings:
                    tx.run(cypher.PUT_EMBEDDINGS, {"rows": embeddings}).consume()
                if dropped:
                    tx.run(cypher.DROP_EMBEDDINGS, {"rows": dropped}).consume()

            self._connection.write(write)
        if vectors > _WARMING_VECTORS and self.dimension:
            # One server builds its vector index at the first query (16 s for 20,000 vectors): not at a user's.
            self.nearest([1.0] + [0.0] * (self.dimension - 1), 1)

    @staticmethod
    def _label_row(row: FeatureRow) -> dict[str, Any]:
        model, transcoders, layer, index = parse_feature_key(row.key)
        return {
            "key": row.key,
            "model": model,
            "set": transcoders,
            "layer": layer,
            "idx": index,
            "label": row.label,
            "label_score": row.label_score,
        }

    def _vector(self, row: FeatureRow) -> list[float]:
        # One server refuses a vector of the wrong length, the other keeps it and never finds it.
        values = [float(value) for value in row.embedding or []]
        if len(values) != self.dimension or not all(map(math.isfinite, values)) or not any(values):
            raise InputRejected(
                f"The embedding of {row.key} is not {self.dimension} finite numbers.", "Use the encoder of this atlas."
            )
        return values

    def put_concept(self, name: str, author: str, feature_keys: list[str]) -> None:
        """Makes or replaces a concept; keys of features that no circuit or label brought are left out."""
        parameters = {"key": name, "name": name, "author": author, "features": feature_keys}
        self._connection.write(lambda tx: _replace_concept(tx, parameters, cypher.PUT_CONCEPT))

    def delete_concept(self, name: str) -> None:
        """Features that only this concept kept go with it."""
        self._connection.write(lambda tx: _replace_concept(tx, {"key": name}, None))

    def drop_labels(self, keys: list[str]) -> None:
        """Features that have no label any more; those that nothing else holds go."""

        def write(tx) -> None:
            tx.run(cypher.DROP_LABELS, {"rows": keys}).consume()
            tx.run(cypher.DELETE_UNUSED_FEATURES, {"rows": keys}).consume()

        if keys:
            self._connection.write(write)

    def delete_collection(self, name: str) -> None:
        self._connection.write(lambda tx: tx.run(cypher.DELETE_COLLECTION, {"name": name}).consume())

    def put_collection(self, name: str, author: str, circuit_ids: list[str]) -> None:
        """Makes or replaces a collection."""
        parameters = {"name": name, "author": author, "circuits": circuit_ids}

        def write(tx) -> None:
            tx.run(cypher.DELETE_COLLECTION, parameters).consume()
            tx.run(cypher.PUT_COLLECTION, parameters).consume()

        self._connection.write(write)

    def clear(self, progress: Callable[[str, int], None] | None = None) -> None:
        """Removes everything of ours, the vector index and the (:Meta) node last; `progress(what, deleted)`.

        Interrupted, it leaves a graph whose `ensure_schema` asks for a rebuild. Raises StoreUnavailable when the server
        holds data of no atlas.
        """
        self._meta()
        mark = {"schema": cypher.BEING_CLEARED}
        self._connection.write(lambda tx: tx.run(cypher.MARK_META, mark).consume())
        for counts, statements in (
            (cypher.RELATIONSHIP_COUNTS, cypher.CLEAR_RELATIONSHIPS),
            (cypher.NODE_COUNTS, cypher.CLEAR_NODES),
        ):
            for row in self._connection.read(counts):
                if row["count"] and row["name"] != "Meta":
                    self._clear(row["name"], row["count"], statements[row["name"]], progress)
        self._connection.dialect.drop_vector_index(self._connection)
        self._connection.write(lambda tx: tx.run(cypher.DELETE_META).consume())

    def _clear(self, name: str, count: int, statement: str, progress: Callable[[str, int], None] | None) -> None:
        if count > CLEAR_BATCH and self._connection.dialect.truncate(name):
            if progress is not None:
                progress(name, count)
            return
        deleted = 0
        while True:
            some = self._connection.write(lambda tx: tx.run(statement, {"limit": CLEAR_BATCH}).data())[0]["deleted"]
            deleted += some
            if progress is not None and some:
                progress(name, deleted)
            if some < CLEAR_BATCH:
                return

    def nearest(self, embedding: list[float], k: int) -> list[tuple[str, float]]:
        """The k features whose labels mean most alike, with (1 + cosine) / 2. Empty when no embeddings are kept."""
        if self.dimension is None or k <= 0:
            return []
        rows = self._connection.read(cypher.NEAREST, {"embedding": [float(x) for x in embedding], "k": k})
        return [(row["key"], row["score"]) for row in rows]

    def full_text(self, text: str, k: int) -> list[tuple[str, float]]:
        """At most k features whose label has every word of `text`, best first; compare scores within one answer only."""
        words = search_words(text)
        if not words or k <= 0:
            return []
        rows = self._connection.read(cypher.FULL_TEXT, {"text": " AND ".join(f'"{word}"' for word in words), "k": k})
        return [(row["key"], row["score"]) for row in rows]

    def features(self, keys: list[str]) -> dict[str, dict[str, Any]]:
        """{label, label_score, circuits, layer, model} by key; unknown keys are left out."""
        return {row.pop("key"): row for row in self._connection.read(cypher.FEATURES, {"keys": list(keys)})}

    def influences(self, key: str, limit: int = 20) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """(inputs, outputs) of a feature, strongest first by mean share times circuits; see influences.py for the columns."""
        parameters = {"key": key, "limit": limit}
        return self._connection.read(cypher.INPUTS, parameters), self._connection.read(cypher.OUTPUTS, parameters)

    def read(self, query: str, params: dict[str, Any] | None = None, *, limit: int, timeout: float) -> CypherResult:
        """Untrusted Cypher: a pure read or an allowed procedure, at most `limit` rows, at most `timeout` seconds.

        Raises QueryRefused for anything else (the same on every server) and QueryFailed for an error or a limit.
        """
        return run_untrusted(self._connection, query, params or {}, limit=limit, timeout=timeout)

    def close(self) -> None:
        self._connection.close()


def _replace_concept(tx: Any, parameters: dict[str, Any], put: str | None) -> None:
    grouped = [row["key"] for row in tx.run(cypher.CONCEPT_FEATURES, parameters).data()]
    tx.run(cypher.DELETE_CONCEPT, parameters).consume()
    if put is not None:
        tx.run(put, parameters).consume()
    tx.run(cypher.DELETE_UNUSED_FEATURES, {"rows": grouped}).consume()


def search_words(text: str) -> list[str]:
    """The words of a user's text, lower case; nothing else reaches the full-text query language."""
    return re.findall(r"\w+", text.lower())
