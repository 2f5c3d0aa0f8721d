from __future__ import annotations

from collections.abc import Iterator

import pytest

from atlas import Atlas
from atlas.settings import Settings

PASSWORD = "a long enough password"


@pytest.fixture
def atlas(catalog_settings: Settings) -> Iterator[Atlas]:
    """An empty atlas, once on each database; its local actor is `tester`."""
    with Atlas.open(settings=catalog_settings) as opened:
        yield opened


@pytest.fixture
def group(atlas: Atlas) -> dict[str, Atlas]:
    """Role -> the atlas as admin1, editor1, reader1; their passwords are PASSWORD only where a test sets one."""
    for role in ("admin", "editor", "reader"):
        atlas.add_person(f"{role}1", role)
    return {role: atlas.acting_as(f"{role}1") for role in ("admin", "editor", "reader")}
