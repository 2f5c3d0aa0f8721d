"""What can go wrong with the database, as StoreUnavailable sentences that name the database and the next step."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import exc

from atlas.errors import StoreUnavailable

_SQLITE = {
    sqlite3.SQLITE_FULL: ("has no room left: the disk is full", "Free some space and try again."),
    sqlite3.SQLITE_READONLY: ("is read-only", "Make the file and its folder writable, or set ATLAS_HOME."),
    sqlite3.SQLITE_BUSY: ("is locked by another process", "Wait for the other process to end and try again."),
    sqlite3.SQLITE_LOCKED: ("is locked by another process", "Wait for the other process to end and try again."),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "Check that its folder exists and is writable, or set ATLAS_HOME."),
    sqlite3.SQLITE_CORRUPT: ("is damaged", "Restore the file from a backup."),
    sqlite3.SQLITE_NOTADB: ("is not an SQLite database", "Point ATLAS_HOME or ATLAS_CATALOG_URL elsewhere."),
    sqlite3.SQLITE_IOERR: ("cannot be read or written: the disk reports an error", "Check the disk and try again."),
    sqlite3.SQLITE_PERM: ("may not be opened by this user", "Check the owner and the mode of the file."),
    sqlite3.SQLITE_AUTH: ("may not be opened by this user", "Check the owner and the mode of the file."),
    sqlite3.SQLITE_TOOBIG: ("cannot hold a record this large", "Prune the circuit before it is added."),
}
_POSTGRES = {
    "53100": ("has no room left: the disk is full", "Free some space on its server and try again."),
    "25006": ("is read-only", "Connect to the primary server."),
    "42501": ("refuses this user the right to do that", "Grant the user rights on the database."),
    "55P03": ("is locked by another process", "Wait for the other process to end and try again."),
    "40P01": ("is locked by another process", "Try again."),
    "28P01": ("refuses the password", "Check user and password in ATLAS_CATALOG_URL."),
    "28000": ("refuses the user", "Check user and password in ATLAS_CATALOG_URL."),
    "3D000": ("does not exist", "Create the database, or correct ATLAS_CATALOG_URL."),
}

_SHARED_MEMORY = 64 * 1024  # bytes that SQLite needs beside a catalog, even to read it
_CONNECTING = {"password authentication failed": "28P01", "role ": "28000", "does not exist": "3D000"}


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Raise StoreUnavailable for faults of the database at `place` (an address without password).

    Mistakes of this program (a wrong statement, a broken constraint) pass through as they are.
    """
    try:
        yield
    except exc.IntegrityError:
        raise
    except (exc.OperationalError, exc.DatabaseError, exc.TimeoutError) as error:
        fault = _describe(error, place)
        if fault is None:
            raise
        raise StoreUnavailable(f"The catalog at {place} {fault[0]}.", fault[1]) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StoreUnavailable(
            f"The catalog at {place} cannot be used: {reason}.", "Check the folder, or set ATLAS_HOME."
        ) from error


def _describe(error: exc.SQLAlchemyError, place: str) -> tuple[str, str] | None:
    cause = getattr(error, "orig", None)
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        primary = code & 0xFF
        if primary == sqlite3.SQLITE_IOERR and _is_full(place):
            primary = sqlite3.SQLITE_FULL  # not even the shared memory beside the file could be made
        return _SQLITE.get(primary)
    state = getattr(cause, "sqlstate", None)
    if state in _POSTGRES:
        return _POSTGRES[state]
    if isinstance(error, exc.TimeoutError):
        return "gives no free connection", "Try again, or raise the number of connections of its server."
    if isinstance(error, exc.OperationalError) or getattr(error, "connection_invalidated", False):
        text = str(cause)  # the driver gives no code when it cannot connect
        for words, state in _CONNECTING.items():
            if words in text:
                return _POSTGRES[state]
        return "cannot be reached", "Check ATLAS_CATALOG_URL and that the database server runs."
    return None


def _is_full(place: str) -> bool:
    try:
        return shutil.disk_usage(Path(place).parent).free < _SHARED_MEMORY
    except OSError:
        return False
