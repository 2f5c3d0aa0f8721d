"""The driver, held in one place: sessions, managed transactions with retries, and a new connection when the embedded server
was stopped in between."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import neo4j
from neo4j import exceptions as driver_errors

from atlas.errors import StoreUnavailable
from atlas.graph import cypher, embedded
from atlas.graph.dialect import ArcadeDialect, Dialect, Neo4jDialect
from atlas.graph.trouble import first_line, translated
from atlas.settings import Settings

log = logging.getLogger(__name__)
T = TypeVar("T")
WRITE_SECONDS = 900.0  # time limit of one write transaction, where the server knows such limits
PATIENCE = 30.0  # seconds for which passing trouble is tried again: a deadlock, a Neo4j that starts again
FIRST_WAIT, LONGEST_WAIT = 0.05, 1.0  # seconds between attempts
RACES = 9  # attempts of a transaction whose failure the dialect calls retryable: it may also be a real fault


class Connection:
    """Raises StoreUnavailable from every method, in one sentence."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.endpoint: embedded.Endpoint | None = None
        self._reader: neo4j.Driver | None = None
        self._reconnecting = threading.RLock()
        self.connect()

    def connect(self) -> None:
        settings = self.settings
        if settings.graph_url:
            self.address, self.user = settings.graph_url, settings.graph_user
            self.database: str | None = settings.graph_database or None
            self.dialect: Dialect = Neo4jDialect()
            password = settings.graph_password.get_secret_value()
        else:
            endpoint = self.endpoint = embedded.start(settings)
            self.address, self.user = endpoint.url, "root"
            self.database = embedded.owner.DATABASE
            self.dialect = ArcadeDialect(endpoint, self.database, settings.embedded_folder)
            password = endpoint.root_password
        with self.translated():
            self.driver = self.open_driver(self.user, password)
            try:
                self.driver.verify_connectivity()
                self.server = self._server_name()
            except BaseException:
                self.driver.close()
                raise

    def open_driver(self, user: str, password: str) -> neo4j.Driver:
        return neo4j.GraphDatabase.driver(
            self.address,
            auth=(user, password),
            connection_timeout=10.0,
            connection_acquisition_timeout=60.0,
            notifications_min_severity="OFF",
            user_agent="circuit-atlas",
        )

    def _server_name(self) -> str:
        agent = self.driver.get_server_info().agent
        if "ArcadeDB" in agent:
            name = "ArcadeDB " + agent.split("ArcadeDB", 1)[1].strip(" )")
            if self.settings.graph_url:
                raise StoreUnavailable(
                    f"ATLAS_GRAPH_URL names an ArcadeDB server at {self.address}, which the atlas only runs itself.",
                    "Leave ATLAS_GRAPH_URL empty for the embedded server, or name a Neo4j server.",
                )
            return f"{name} (embedded)"
        rows = self.run(cypher.COMPONENTS)
        versions = [row["versions"][0] for row in rows if row["name"] == "Neo4j Kernel"]
        return f"Neo4j {versions[0] if versions else agent.removeprefix('Neo4j/')}"

    def reader_session(self, **options: Any) -> neo4j.Session:
        """A session of the embedded server's user `reader`."""
        with self._reconnecting:
            if self._reader is None:
                assert self.endpoint is not None
                self._reader = self.open_driver("reader", self.endpoint.reader_password)
            return self._reader.session(database=self.database, **options)

    def refresh(self) -> None:
        """Connects again when the embedded server was stopped or started anew since the last call."""
        if self.endpoint is None:
            return
        with self._reconnecting:
            if not embedded.is_running(self.settings.embedded_folder, self.endpoint):
                self.close()
                self.connect()

    def translated(self) -> AbstractContextManager[None]:
        """Turns whatever the driver raises inside into one sentence."""
        folder = self.settings.embedded_folder if self.endpoint is not None else None
        return translated(self.address, self.user, folder)

    def session(self, **options: Any) -> neo4j.Session:
        return self.driver.session(database=self.database, **options)

    def run(self, statement: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """One statement of ours in a transaction of its own: schema commands. Two processes may make the schema at once: one
        that the server ends for the other's sake is tried again, and what the other has made meanwhile is there."""
        with self.translated():
            for attempt in range(RACES - 1):
                try:
                    return self._run_once(statement, parameters or {})
                except driver_errors.TransientError:
                    time.sleep(0.1 * 2**attempt)
                except driver_errors.ClientError as error:
                    if "IF NOT EXISTS" in statement and "AlreadyExists" in (error.code or ""):
                        return []  # seen in a race of two such statements
                    raise
            return self._run_once(statement, parameters or {})

    def _run_once(self, statement: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        with self.session() as session:
            return session.run(statement, parameters).data()

    def read(self, statement: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Rows of one reading statement of ours, retried on passing trouble."""
        return self._healed(
            lambda: self._retried(neo4j.READ_ACCESS, lambda tx: tx.run(statement, parameters or {}).data())
        )

    def write(self, work: Callable[[neo4j.Transaction], T]) -> T:
        """`work` in one transaction; it may run several times, so it must depend on nothing but the server's state."""
        return self._healed(lambda: self._retried(neo4j.WRITE_ACCESS, work))

    def _retried(self, access: str, work: Callable[[neo4j.Transaction], T]) -> T:
        """The driver's own managed transactions wait up to half a minute more than a server needs to come back."""
        began, wait, attempt = time.monotonic(), FIRST_WAIT, 0
        while True:
            attempt += 1
            try:
                with (
                    self.session(default_access_mode=access) as session,
                    session.begin_transaction(timeout=WRITE_SECONDS) as transaction,
                ):
                    result = work(transaction)
                    transaction.commit()
                    return result
            except (driver_errors.Neo4jError, driver_errors.DriverError) as error:
                lost_race = self.dialect.retryable(error) and attempt < RACES
                if not (lost_race or self._passes(error)) or time.monotonic() - began > PATIENCE:
                    raise
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def _passes(self, error: driver_errors.Neo4jError | driver_errors.DriverError) -> bool:
        """Whether the same may succeed soon. A dead embedded server is no such case: it is started again on other ports."""
        return error.is_retryable() and (self.endpoint is None or isinstance(error, driver_errors.TransientError))

    def _healed(self, call: Callable[[], T]) -> T:
        """`call`, once more on a new connection when the embedded server went away meanwhile."""
        self.refresh()
        with self.translated():
            try:
                return call()
            except (driver_errors.ServiceUnavailable, driver_errors.SessionExpired, driver_errors.AuthError) as error:
                if self.settings.graph_url:
                    raise
                log.warning("the embedded graph server went away (%s); starting it again", first_line(error))
        self.refresh()
        with self.translated():
            return call()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None
        self.driver.close()
