"""Ids, times and texts as the catalog stores them. All are made here, never by the database."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel

from atlas.plain import plain

T = TypeVar("T")
_counter = itertools.count()


def now() -> str:
    """UTC as ISO 8601 with microseconds and offset: of fixed width, so that text order is time order."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def new_id() -> str:
    """32 hex digits; ids made later by one process sort later (nanoseconds, then a counter, then random bytes)."""
    return f"{time.time_ns():016x}{next(_counter) & 0xFFFFFF:06x}{os.urandom(5).hex()}"


def clean(text: str) -> str:
    """Text that every database can hold: Postgres refuses NUL, no database takes half a surrogate pair."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def jsonable(value: Any) -> Any:
    """A copy for a JSON column: texts `clean`, numbers that are not finite or have more than 64 bits None. `value`: a record,
    or what JSON knows."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return None
    if isinstance(value, dict):
        return {clean(str(key)): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return jsonable(value.model_dump()) if isinstance(value, BaseModel) else plain(value)


def finite(value: Any) -> float | None:
    """A float, or None for None, NaN and infinities."""
    return None if value is None or not math.isfinite(value) else float(value)


def chunks(items: Iterable[T], size: int = 500) -> Iterator[Sequence[T]]:
    """Lists of at most `size` items: databases limit the parameters of one statement."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
