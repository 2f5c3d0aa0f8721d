"""The result of one look."""

from __future__ import annotations

from atlas.errors import AtlasError
from atlas.records import Record


class Check(Record):
    """`ok`: all is well now. `mended`: it was not before. `hint` says what to do about what is left."""

    name: str
    ok: bool
    found: str
    hint: str = ""
    mended: bool = False


MEND = "Run `atlas doctor --mend`."


def told(name: str, error: AtlasError) -> Check:
    return Check(name=name, ok=False, found=error.message, hint=error.hint)


def nothing(name: str) -> Check:
    """Nothing to say: left out of the answer."""
    return Check(name=name, ok=True, found="")
