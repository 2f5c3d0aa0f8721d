from __future__ import annotations

from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher

from atlas import Atlas, credentials
from atlas.settings import Settings

PASSWORD = "a long enough password"


@pytest.fixture(autouse=True)
def _cheap_hashing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same function with little work; `real_cost` in a test's arguments leaves it as it is."""
    if "real_cost" not in request.fixturenames:
        monkeypatch.setattr(credentials, "_HASHER", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
        credentials._nobody.cache_clear()
    yield
    credentials._nobody.cache_clear()


@pytest.fixture
def real_cost() -> None:
    """Passwords are hashed as in use."""


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
