"""What the two servers do differently, in a few hooks: search indexes, who runs untrusted Cypher within which
limits, what to retry, and emptying a whole label at once.

Measured on Neo4j 5.26.30 and ArcadeDB 26.10.2; everything else in this package is the same text for both.
"""

from __future__ import annotations

import base64
import json
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import neo4j
from neo4j import exceptions as driver

from atlas.errors import QueryRefused, StoreUnavailable
from atlas.graph import cypher
from atlas.graph.embedded import Endpoint
from atlas.graph.trouble import disk_is_full, to_atlas_error

if TYPE_CHECKING:
    from atlas.graph.connection import Connection


READ_FETCH = 1_000  # rows of untrusted queries that travel at a time
_FORBIDDEN_OPERATORS = ("Show", "Terminate", "LoadCSV")


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

    def truncate(self, name: str) -> bool:
        return False

    @contextmanager
    def open_read(
        self, connection: Connection, text: str, params: dict[str, Any], timeout: float
    ) -> Iterator[neo4j.Result]:
        """Community has no roles, so the same user reads: in READ access mode, which refuses every write, and after a
        look at the plan, because that mode still lets administration commands through. The server enforces `timeout`."""
        options = {"default_access_mode": neo4j.READ_ACCESS, "fetch_size": READ_FETCH}
        with connection.session(**options) as session, session.begin_transaction(timeout=timeout) as transaction:
            core = text.removeprefix("EXPLAIN ")
            summary = transaction.run(f"EXPLAIN {core}", params).consume()
            forbidden = [name for name in _operators(summary.plan or {}) if name.startswith(_FORBIDDEN_OPERATORS)]
            if summary.query_type != "r" or forbidden:
                raise QueryRefused("The query is not a pure read.", "Only reading queries run here.")
            yield transaction.run(text, params)

    def retryable(self, error: BaseException) -> bool:
        return False


class ArcadeDialect:
    """The embedded server. Its search indexes are made by SQL over HTTP, under the names the Cypher procedures ask for."""

    def __init__(self, endpoint: Endpoint, database: str, folder: Path) -> None:
        self.endpoint, self.database, self.folder = endpoint, database, folder

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

    def truncate(self, name: str) -> bool:
        """Empties a node label or relationship type at once: deleting 2 million relationships takes minutes here.

        Between types the graph is inconsistent, so this is for clearing everything only.
        """
        self.sql(f"TRUNCATE TYPE {name} UNSAFE")
        return True

    @contextmanager
    def open_read(
        self, connection: Connection, text: str, params: dict[str, Any], timeout: float
    ) -> Iterator[neo4j.Result]:
        """As the user `reader`, whom the server lets read only; access modes are not enforced here.

        Neither are time limits, and closing a result makes the server compute the rest: so the query carries a mark by
        which a second session finds and stops it, after `timeout` seconds or when not all rows were wanted.
        """
        mark = f"atlas:{uuid.uuid4().hex}"
        ended = threading.Event()

        def watch() -> None:
            wait = timeout
            while not ended.wait(wait):
                self._terminate(connection, mark)
                wait = 0.5

        watcher = threading.Thread(target=watch, name="cypher-timeout", daemon=True)
        session = connection.reader_session(fetch_size=READ_FETCH)
        try:
            watcher.start()
            answer = session.run(f"{text}\n/* {mark} */", params)
            yield answer
            if not answer.closed() and answer.peek() is not None:
                self._terminate(connection, mark)
        finally:
            ended.set()
            # The answer was cut off on purpose, or its error is already on its way up.
            with suppress(driver.Neo4jError, driver.DriverError):
                session.close()
            watcher.join()

    def _terminate(self, connection: Connection, mark: str) -> None:
        try:
            with connection.reader_session() as session:
                for row in session.run("SHOW TRANSACTIONS").data():
                    if mark in row["currentQuery"]:
                        session.run(f"TERMINATE TRANSACTIONS '{row['transactionId']}'").consume()
        except (driver.Neo4jError, driver.DriverError):
            pass  # it has ended by itself meanwhile

    def retryable(self, error: BaseException) -> bool:
        """The loser of a race for a new key gets a constraint error; the second time it finds the key and goes on.

        Two writers on one page get a transient error, for longer than this server's driver goes on trying.
        """
        return isinstance(error, driver.ConstraintError | driver.TransientError)

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
            if disk_is_full(self.folder):
                raise to_atlas_error(error, self.endpoint.url, folder=self.folder) from error
            said = error.read().decode("utf-8", "replace")[:300]
            raise StoreUnavailable(
                f"The embedded graph server refused a command: {said}", "Its log says more."
            ) from error


def _operators(plan: Mapping[str, Any]) -> Iterator[str]:
    yield str(plan.get("operatorType", ""))
    for child in plan.get("children") or []:
        yield from _operators(child)


Dialect = Neo4jDialect | ArcadeDialect
