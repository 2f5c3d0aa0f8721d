"""Bring a catalog to the newest schema. Safe when several processes open a new catalog at once.

The usual open costs one SELECT: Alembic is imported only when the revision differs from HEAD.
"""

from __future__ import annotations

import threading
from importlib import resources
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from atlas.catalog.faults import translated
from atlas.errors import SchemaMismatch, StoreUnavailable

if TYPE_CHECKING:
    from alembic.config import Config

    from atlas.catalog.database import Catalog

HEAD = "0003"
_alembic_globals = threading.Lock()  # Alembic keeps its context in module globals


def upgrade(catalog: Catalog) -> None:
    """Migrate to HEAD. Raises SchemaMismatch when a newer program wrote the catalog, StoreUnavailable."""
    if revision(catalog) == HEAD:
        return
    with catalog.lock("migrate"):
        found = revision(catalog)  # another process may have migrated while this one waited
        if found == HEAD:
            return
        if found is None:
            _refuse_foreign(catalog)
        if catalog.is_sqlite:
            _use_write_ahead_log(catalog)
        with _alembic_globals, translated(catalog.place), resources.as_file(resources.files("migrations")) as folder:
            from alembic import command
            from alembic.script import ScriptDirectory

            config = alembic_config(str(folder))
            known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
            if found is not None and found not in known:
                raise SchemaMismatch(
                    f"The catalog at {catalog.place} was written by a newer version of this program (schema {found}).",
                    "Upgrade circuit-atlas.",
                )
            with catalog.engine.connect().execution_options(atlas_write=True) as connection, connection.begin():
                config.attributes["connection"] = connection
                command.upgrade(config, "head")


def revision(catalog: Catalog) -> str | None:
    """The schema revision of the catalog, None for an empty database."""
    with translated(catalog.place), catalog.engine.connect() as connection:
        return _revision(connection)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.scalar(text("SELECT version_num FROM alembic_version"))


def alembic_config(folder: str) -> Config:
    """Alembic's configuration for the migrations in `folder`, without an ini file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _refuse_foreign(catalog: Catalog) -> None:
    from atlas.catalog.tables import Base

    with translated(catalog.place), catalog.engine.connect() as connection:
        taken = sorted(set(inspect(connection).get_table_names()) & set(Base.metadata.tables))
    if taken:
        raise StoreUnavailable(
            f"The database at {catalog.place} belongs to another program: it has a table {taken[0]} that no atlas made.",
            "Point ATLAS_HOME or ATLAS_CATALOG_URL elsewhere.",
        )


def _use_write_ahead_log(catalog: Catalog) -> None:
    """Readers and the writer stop blocking each other; the file remembers it. Not possible inside a transaction."""
    with translated(catalog.place), catalog.engine.connect().execution_options(atlas_bare=True) as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
