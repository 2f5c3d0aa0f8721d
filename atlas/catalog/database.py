"""Opening the catalog: engine, transactions, locks. SQLite and Postgres by the same code; what differs is in this file."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import orjson
from filelock import FileLock, Timeout
from sqlalchemy import Engine, create_engine, event, exc, make_url, text
from sqlalchemy.orm import Session

from atlas.catalog import circuits
from atlas.catalog.faults import translated
from atlas.errors import StoreUnavailable, UsageError

T = TypeVar("T")
_ATTEMPTS = 5
_RACES = {"40001", "40P01"}  # Postgres: serialization failure, deadlock


class Catalog:
    """A migrated catalog. `read` and `write` give sessions; both translate faults to StoreUnavailable."""

    def __init__(self, url: str, *, busy_seconds: float = 30.0) -> None:
        try:
            self.url = make_url(url)
        except exc.ArgumentError:
            raise UsageError(
                "ATLAS_CATALOG_URL is not a database address.",
                "It looks like sqlite:////folder/catalog.sqlite or postgresql://user:password@host/database.",
            ) from None
        if self.url.get_backend_name() == "sqlite" and not self.url.database:
            raise UsageError("The catalog cannot be an in-memory database.", "Name a file in ATLAS_CATALOG_URL.")
        if self.url.drivername == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg")  # one driver, whatever SQLAlchemy's default is
        self.place = self.url.render_as_string(hide_password=True)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.place = str(self.file)
        self.engine = self._engine(busy_seconds)

    @classmethod
    def open(cls, url: str, *, busy_seconds: float = 30.0) -> Catalog:
        """Open and migrate. Raises StoreUnavailable, SchemaMismatch (written by a newer program) or UsageError."""
        from atlas.catalog import migrate

        catalog = cls(url, busy_seconds=busy_seconds)
        try:
            if catalog.is_sqlite:
                with translated(catalog.place):
                    catalog.file.parent.mkdir(parents=True, exist_ok=True)
            migrate.upgrade(catalog)
        except BaseException:
            catalog.close()
            raise
        return catalog

    @property
    def file(self) -> Path:
        """The SQLite file."""
        name = str(self.url.database)
        return Path(name.removeprefix("file:").split("?")[0])

    def _engine(self, busy_seconds: float) -> Engine:
        options: dict[str, Any] = {"json_serializer": _to_json, "json_deserializer": orjson.loads}
        if self.is_sqlite:
            options["connect_args"] = {"timeout": busy_seconds, "check_same_thread": False}
        else:
            options["pool_pre_ping"] = True
            if not self.url.query.get("connect_timeout"):
                options["connect_args"] = {"connect_timeout": 10}
        try:
            engine = create_engine(self.url, **options)
        except exc.NoSuchModuleError:
            raise UsageError(
                f"ATLAS_CATALOG_URL names an unknown kind of database: {self.url.drivername}.",
                "Use sqlite:// or postgresql://.",
            ) from None
        except ModuleNotFoundError as error:
            raise StoreUnavailable(
                f"The catalog at {self.place} needs the Python package {error.name}, which is not installed.",
                f"Run `pip install {error.name}`.",
            ) from error
        if self.is_sqlite:
            _tune_sqlite(engine)
        return engine

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading, seeing one state of the catalog throughout."""
        with translated(self.place), Session(self.engine, expire_on_commit=False) as session:
            if not self.is_sqlite:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session

    def write(self, actor: str, work: Callable[[Session], T]) -> T:
        """Do `work` in one transaction: all of it or nothing. `actor` signs what it writes (`audit.record`).

        Work that lost a race for a unique key (the same new model, say) or a deadlock is done again, so it must not change
        anything but the database.
        """
        with translated(self.place):
            for _ in range(_ATTEMPTS - 1):
                try:
                    return self._write_once(actor, work)
                except exc.DBAPIError as error:
                    if not _lost_race(error):
                        raise
            return self._write_once(actor, work)

    def _write_once(self, actor: str, work: Callable[[Session], T]) -> T:
        with Session(self.engine, expire_on_commit=False, info={"actor": actor}) as session, session.begin():
            session.connection(execution_options={"atlas_write": True})
            return work(session)

    def count_circuits(self) -> int:
        with self.read() as session:
            return circuits.counts(session)[0]

    def circuit_ids(self) -> list[str]:
        """All ids, oldest first."""
        with self.read() as session:
            return circuits.ids(session)

    @contextmanager
    def lock(self, name: str, wait: float = -1) -> Iterator[bool]:
        """Hold a lock that all processes of this catalog share; yields False when it was not had in `wait` seconds.

        -1 waits for ever. A process that dies lets go. SQLite: a lock file beside the catalog; Postgres: advisory lock.
        """
        if self.is_sqlite:
            guard = FileLock(f"{self.file}.{name}.lock")
            with translated(self.place):
                held = _acquired(guard, wait)
            try:
                yield held
            finally:
                guard.release()
            return
        yield from self._advisory_lock(name, wait)

    def _advisory_lock(self, name: str, wait: float) -> Iterator[bool]:
        number = int.from_bytes(hashlib.sha256(f"circuit-atlas {name}".encode()).digest()[:8], "big", signed=True)
        deadline = time.monotonic() + wait
        with translated(self.place):
            connection = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            while True:
                with translated(self.place):
                    held = bool(connection.scalar(text("SELECT pg_try_advisory_lock(:n)"), {"n": number}))
                if held or (wait >= 0 and time.monotonic() >= deadline):
                    break
                time.sleep(0.05)
            try:
                yield held
            finally:
                if held:
                    try:
                        connection.execute(text("SELECT pg_advisory_unlock(:n)"), {"n": number})
                    except exc.DBAPIError:  # the server went away, and the lock with it: what was done under it is done
                        connection.invalidate()
        finally:
            connection.close()

    def close(self) -> None:
        self.engine.dispose()


def _lost_race(error: exc.DBAPIError) -> bool:
    return isinstance(error, exc.IntegrityError) or getattr(error.orig, "sqlstate", "") in _RACES


def _acquired(guard: FileLock, wait: float) -> bool:
    try:
        guard.acquire(timeout=wait, poll_interval=0.02)
    except Timeout:  # an OSError to Python, but no fault of the disk
        return False
    return True


def _tune_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late to make DDL transactional
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # A writer takes the write lock first: upgrading a read transaction fails at once when another writes.
        options = connection.get_execution_options()
        if not options.get("atlas_bare"):
            connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("atlas_write") else "BEGIN")


def _to_json(value: Any) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()
