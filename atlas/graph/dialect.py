"""What the two servers do differently, in four hooks: search indexes, who runs untrusted Cypher, its limits, what to retry.

Measured on Neo4j 5.26.30 and ArcadeDB 26.10.2; everything else in this package is the same text for both.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import neo4j
from neo4j import exceptions as driver

from atlas.errors import StoreUnavailable
from atlas.graph import cypher
from atlas.graph.embedded import Endpoint

if TYPE_CHECKING:
    from atlas.graph.connection import Connection


class Neo4jDialect:
    """Neo4j 5.26 or newer."""

    def create_search_indexes(self, connection: Connection, dimension: int | None) -> None:
        connection.run(
            f"CREATE FULLTEXT INDEX {cypher.FULL_TEXT_INDEX} IF NOT EXISTS FOR (f:Feature) ON EACH [f.label]"
        )
        if dimension is not None:
            connection.run(
                f"CREATE VECTOR INDEX {cypher.VECTOR_INDEX} IF NOT EXISTS FOR (f:Feature) ON f.embedding OPTIONS "
                f"{{indexConfig: {{`vector.dimensions`: {int(dimension)}, `vector.similarity_function`: 'cosine'}}}}"
            )
        connection.run("CALL db.awaitIndexes(300)")

    def drop_vector_index(self, connection: Connection) -> None:
        connection.run(f"DROP INDEX {cypher.VECTOR_INDEX} IF EXISTS")

    def reader(self, connection: Connection) -> neo4j.Driver:
        """Community has no roles: the same user, in READ access mode (which refuses every write) behind guard.py."""
        return connection.driver

    def retryable(self, error: BaseException) -> bool:
        return False


class ArcadeDialect:
    """The embedded server. Its search indexes are made by SQL over HTTP, under the names the Cypher procedures ask for."""

    def __init__(self, endpoint: Endpoint, database: str) -> None:
        self.endpoint, self.database = endpoint, database

    def create_search_indexes(self, connection: Connection, dimension: int | None) -> None:
        for label in cypher.LABELS:
            self.sql(f"CREATE VERTEX TYPE {label} IF NOT EXISTS")
        for name in cypher.RELATIONSHIPS:
            self.sql(f"CREATE EDGE TYPE {name} IF NOT EXISTS")
        self.sql("CREATE PROPERTY Feature.label IF NOT EXISTS STRING")
        self.sql("CREATE PROPERTY Feature.embedding IF NOT EXISTS ARRAY_OF_FLOATS")
        self.sql(f"CREATE INDEX {cypher.FULL_TEXT_INDEX} IF NOT EXISTS ON Feature (label) FULL_TEXT")
        if dimension is not None:
            metadata = json.dumps({"dimensions": int(dimension), "similarity": "COSINE"})
            self.sql(
                f"CREATE INDEX {cypher.VECTOR_INDEX} IF NOT EXISTS ON Feature (embedding) LSM_VECTOR METADATA {metadata}"
            )

    def drop_vector_index(self, connection: Connection) -> None:
        self.sql(f"DROP INDEX {cypher.VECTOR_INDEX} IF EXISTS")

    def reader(self, connection: Connection) -> neo4j.Driver:
        """A second driver as the user `reader`, whom the server lets read only: access mode alone is not enforced."""
        return connection.open_driver("reader", self.endpoint.reader_password)

    def retryable(self, error: BaseException) -> bool:
        """The loser of a race for a new key gets a constraint error; the second time it finds the key and goes on."""
        return isinstance(error, driver.ConstraintError)

    def sql(self, command: str) -> Any:
        credentials = base64.b64encode(f"root:{self.endpoint.root_password}".encode()).decode()
        call = urllib.request.Request(
            f"http://127.0.0.1:{self.endpoint.http_port}/api/v1/command/{self.database}",
            data=json.dumps({"language": "sql", "command": command}).encode(),
            headers={"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
            method="POST",
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback: no proxy
        try:
            with opener.open(call, timeout=300) as answer:
                return json.loads(answer.read())["result"]
        except urllib.error.HTTPError as error:
            said = error.read().decode("utf-8", "replace")[:300]
            raise StoreUnavailable(
                f"The embedded graph server refused a command: {said}", "Its log says more."
            ) from error


Dialect = Neo4jDialect | ArcadeDialect
