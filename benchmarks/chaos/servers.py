"""Servers that can be killed: each yields settings and a function that kills -9, starts again and says how long that took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from pydantic import SecretStr

from atlas.graph import embedded
from atlas.settings import Settings
from tests.servers.neo4j_server import Neo4jServer, jars
from tests.servers.postgres_server import PostgresServer, binaries

Killable = tuple[Settings, Callable[[], float]]


@contextmanager
def embedded_server(folder: Path) -> Iterator[Killable]:
    """The embedded graph server with a catalog in SQLite. The next use starts it again: here the loader's or ours."""
    settings = Settings(home=folder / "home", actor="chaos", embedded_heap="512m")
    try:
        yield settings, kill_embedded(settings)
    finally:
        embedded.stop(settings.home)


def kill_embedded(settings: Settings) -> Callable[[], float]:
    def kill() -> float:
        status = embedded.status(settings.home)
        if status.java_pid is not None:
            process = psutil.Process(status.java_pid)
            process.kill()
            psutil.wait_procs([process], 10)
        began = time.monotonic()
        embedded.start(settings)
        return time.monotonic() - began

    return kill


@contextmanager
def neo4j_server(folder: Path) -> Iterator[Killable]:
    """A Neo4j from its jars with a catalog in SQLite."""
    found = jars()
    assert found is not None, "the Neo4j jars are not here: set ATLAS_NEO4J_JARS or run scripts/test-servers.sh"
    server = Neo4jServer(found, folder / "neo4j")
    server.start()
    settings = Settings(
        home=folder / "home",
        actor="chaos",
        graph_url=server.url,
        graph_user=server.user,
        graph_password=SecretStr(server.password),
    )
    try:
        yield settings, restarted(server)
    finally:
        server.stop()


@contextmanager
def postgres_server(folder: Path) -> Iterator[Killable]:
    """A catalog in Postgres, projected to the embedded graph server."""
    found = binaries()
    assert found is not None, "Postgres is not here: run scripts/test-servers.sh"
    folder.chmod(0o711)  # the account that Postgres runs under must get through
    server = PostgresServer(found, folder / "postgres")
    server.start()
    settings = Settings(home=folder / "home", actor="chaos", catalog_url=server.url("postgres"), embedded_heap="512m")
    try:
        yield settings, restarted(server)
    finally:
        embedded.stop(settings.home)
        server.stop()


def restarted(server: Neo4jServer | PostgresServer) -> Callable[[], float]:
    def kill() -> float:
        server.kill()
        began = time.monotonic()
        server.start()
        return time.monotonic() - began

    return kill
