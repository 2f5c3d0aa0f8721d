"""Fixtures of real servers: `embedded_home`, `neo4j_server`, `postgres_server` and `postgres_url`; and, over both kinds of
each store, `graph_settings`, `catalog_settings` and `store_pair`.

Each test process starts a server at its first use and stops it, by its pid, at the end. Between tests a graph server is
emptied; on Postgres every test has a database of its own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from atlas.graph import GraphStore, embedded
from atlas.settings import Settings
from tests.servers.neo4j_server import Neo4jServer, RunningNeo4j, in_docker, jars
from tests.servers.postgres_server import PostgresServer, binaries


@pytest.fixture(scope="session")
def embedded_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose embedded graph server runs until the end of the session."""
    home = tmp_path_factory.mktemp("embedded")
    embedded.start(Settings(home=home, embedded_idle_seconds=900, embedded_heap="512m"))
    yield home
    embedded.stop(home)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def neo4j_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neo4jServer | RunningNeo4j]:
    """A real Neo4j, with url, user and password."""
    folder = jars()
    container = in_docker() if folder is None else None
    if container is not None:
        yield container
        return
    if folder is None:
        _not_here(
            "the Neo4j jars are not here: set ATLAS_NEO4J_JARS, or fill .cache/neo4j/lib (tests/servers/neo4j/pom.xml)"
        )
    home = tmp_path_factory.mktemp("neo4j")
    server = Neo4jServer(folder, home)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real Postgres: `url(database)`, `kill()` (-9) and `start()`."""
    found = binaries()
    if found is None:
        _not_here("Postgres is not here: run scripts/test-servers.sh, or install the package postgresql")
    folder = Path(tempfile.mkdtemp(prefix="atlas-postgres-"))  # not pytest's own: closed to the account it runs under
    server = PostgresServer(found, folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The address of an empty database, for ATLAS_CATALOG_URL."""
    name = f"atlas_{uuid.uuid4().hex}"
    postgres_server.create(name)
    yield postgres_server.url(name)
    postgres_server.drop(name)


def _not_here(message: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


EMBEDDED = pytest.param("embedded", marks=pytest.mark.embedded)
NEO4J = pytest.param("neo4j", marks=pytest.mark.neo4j)


@pytest.fixture(params=[EMBEDDED, NEO4J])
def graph_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of an empty graph, once on each server. `home` of the embedded one is shared by the whole session."""
    return empty_graph(request, request.param, tmp_path)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def catalog_settings(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """Settings of an empty catalog, once on each database; the graph server is not started."""
    if request.param == "sqlite":
        return settings
    return settings.model_copy(update={"catalog_url": request.getfixturevalue("postgres_url")})


@pytest.fixture(
    params=[
        pytest.param("laptop", marks=pytest.mark.embedded),
        pytest.param("servers", marks=[pytest.mark.neo4j, pytest.mark.postgres]),
    ]
)
def store_pair(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of an empty atlas, once as on a laptop (SQLite, embedded server) and once as in a lab (Postgres, Neo4j)."""
    if request.param == "laptop":
        return empty_graph(request, "embedded", tmp_path)
    return request.getfixturevalue("lab_settings")


@pytest.fixture
def lab_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of an empty atlas on Postgres and Neo4j."""
    settings = empty_graph(request, "neo4j", tmp_path)
    return settings.model_copy(update={"catalog_url": request.getfixturevalue("postgres_url")})


def empty_graph(request: pytest.FixtureRequest, server: str, tmp_path: Path) -> Settings:
    """Settings of an emptied graph on `server` (embedded or neo4j), with a catalog of its own in SQLite."""
    if server == "embedded":
        settings = Settings(
            home=request.getfixturevalue("embedded_home"),
            actor="tester",
            catalog_url=f"sqlite:///{tmp_path / 'catalog.sqlite'}",
            embedded_idle_seconds=900,
            embedded_heap="512m",
        )
    else:
        running = request.getfixturevalue("neo4j_server")
        settings = Settings(
            home=tmp_path / "home",
            actor="tester",
            graph_url=running.url,
            graph_user=running.user,
            graph_password=running.password,
        )
    store = GraphStore.connect(settings)
    try:
        store.clear()
    finally:
        store.close()
    return settings


def environment_of(settings: Settings) -> dict[str, str]:
    """These settings as environment variables, for a process of its own."""
    values = {
        "ATLAS_HOME": str(settings.home),
        "ATLAS_ACTOR": settings.actor,
        "ATLAS_CATALOG_URL": settings.catalog_url,
        "ATLAS_GRAPH_URL": settings.graph_url,
        "ATLAS_GRAPH_USER": settings.graph_user,
        "ATLAS_GRAPH_PASSWORD": settings.graph_password.get_secret_value(),
        "ATLAS_EMBEDDED_HEAP": settings.embedded_heap,
    }
    return {name: value for name, value in values.items() if value}
