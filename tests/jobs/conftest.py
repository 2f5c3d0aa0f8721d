"""An atlas of which only the catalog is used, on both databases; and worker processes on real stores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from atlas import Atlas
from atlas.group_records import TraceRequest
from atlas.settings import Settings


@pytest.fixture
def atlas(catalog_settings: Settings) -> Iterator[Atlas]:
    """An empty atlas whose graph server is never asked."""
    with Atlas.open(settings=catalog_settings) as opened:
        yield opened


@pytest.fixture
def laptop(settings: Settings) -> Iterator[Atlas]:
    """The same on SQLite only."""
    with Atlas.open(settings=settings) as opened:
        yield opened


def asked(*prompts: str, **fields: object) -> list[TraceRequest]:
    return [TraceRequest(prompt=prompt, **({"profile": "demo"} | fields)) for prompt in prompts]  # type: ignore[arg-type]
