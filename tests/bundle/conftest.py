"""Places for an atlas to be: on a laptop (SQLite, embedded server) and in a lab (Postgres, Neo4j)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atlas import Atlas
from atlas.graph import GraphStore
from atlas.settings import Settings
from tests.bundle import places

Place = Callable[..., Settings]


@pytest.fixture
def laptop(embedded_home: Path, tmp_path: Path) -> Place:
    """`laptop()`: settings of an empty atlas. There is one graph server: what it held of the one before is gone."""
    made: list[Settings] = []

    def settings(actor: str = "tester") -> Settings:
        catalog = tmp_path / f"catalog-{len(made)}.sqlite"
        new = Settings(home=embedded_home, actor=actor, catalog_url=f"sqlite:///{catalog}", embedded_heap="512m")
        made.append(new)
        return cleared(new)

    return settings


@pytest.fixture
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """`lab()`: settings of an empty atlas on servers. One a test."""
    url, neo4j = request.getfixturevalue("postgres_url"), request.getfixturevalue("neo4j_server")

    def settings(actor: str = "tester") -> Settings:
        return cleared(
            Settings(
                home=tmp_path / "lab",
                actor=actor,
                catalog_url=url,
                graph_url=neo4j.url,
                graph_user=neo4j.user,
                graph_password=neo4j.password,
            )
        )

    return settings


def cleared(settings: Settings) -> Settings:
    store = GraphStore.connect(settings)
    store.clear()
    store.close()
    return settings


@pytest.fixture
def source(laptop: Place) -> Iterator[Atlas]:
    """A filled atlas on a laptop."""
    with Atlas.open(settings=laptop()) as atlas:
        places.fill(atlas)
        yield atlas
