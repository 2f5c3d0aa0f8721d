from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from atlas.catalog import Catalog, circuits
from atlas.circuit import Circuit
from atlas.settings import Settings


@pytest.fixture
def catalog(catalog_settings: Settings) -> Iterator[Catalog]:
    """An empty catalog, once on each database."""
    opened = Catalog.open(catalog_settings.resolved_catalog_url())
    yield opened
    opened.close()


@pytest.fixture
def url(catalog_settings: Settings) -> str:
    """The address of `catalog`, with the password."""
    return catalog_settings.resolved_catalog_url()


@pytest.fixture
def sqlite_catalog(settings: Settings) -> Iterator[Catalog]:
    """For what only a file can have."""
    opened = Catalog.open(settings.resolved_catalog_url())
    yield opened
    opened.close()


@pytest.fixture
def write(catalog: Catalog) -> Callable[..., Any]:
    """`write(function, *arguments)` calls function(session, *arguments) in a transaction of `tester`."""
    return lambda function, *arguments, **options: catalog.write(
        "tester", lambda session: function(session, *arguments, **options)
    )


@pytest.fixture
def read(catalog: Catalog) -> Callable[..., Any]:
    def ask(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        with catalog.read() as session:
            return function(session, *arguments, **options)

    return ask


@pytest.fixture
def keep(write: Callable[..., Any]) -> Callable[[Circuit], str]:
    """Stores a circuit, returns its id."""
    return lambda circuit: write(circuits.insert_circuit, circuit).id
