"""From an empty database and from every released schema to the newest, on both databases; by several processes at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
from importlib import resources
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import event, text

from atlas import Atlas
from atlas.catalog import Catalog, circuits, migrate
from atlas.catalog.tables import Base
from atlas.errors import SchemaMismatch, StoreUnavailable
from atlas.settings import Settings
from tests.conftest import make_circuit
from tests.data import make_catalog_0001, make_catalog_0002

DATA = Path(__file__).resolve().parents[1] / "data"
MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
RELEASED = ["0001", "0002"]
ANSWERS = {"0001": make_catalog_0001.answers, "0002": make_catalog_0002.answers}


@pytest.fixture(params=RELEASED)
def revision(request) -> str:
    return request.param


@pytest.fixture
def released(revision, catalog_settings, tmp_path) -> Settings:
    """Settings of a catalog that an earlier version filled; its graph server is down."""
    file = tmp_path / "released.sqlite"
    shutil.copy(DATA / f"catalog-{revision}.sqlite", file)
    settings = catalog_settings.model_copy(update={"graph_url": "bolt://127.0.0.1:9"})
    if settings.catalog_url:
        _copy_to(file, Catalog(settings.catalog_url), revision)
        return settings
    return settings.model_copy(update={"catalog_url": f"sqlite:///{file}"})


def _copy_to(file: Path, target: Catalog, revision: str) -> None:
    """The same rows in a database that the migrations have brought to `revision`."""
    with resources.as_file(resources.files("migrations")) as folder, target.engine.begin() as connection:
        config = migrate.alembic_config(str(folder))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        tables = sa.MetaData()
        tables.reflect(connection)
        with sqlite3.connect(file) as source:
            source.row_factory = sqlite3.Row
            for table in tables.sorted_tables:
                rows = [dict(row) for row in source.execute(f"SELECT * FROM {table.name}")]
                if table.name != "alembic_version" and rows:
                    connection.execute(table.insert(), [_typed(table, row) for row in rows])
        source.close()
        connection.execute(text("SELECT setval('projection_outbox_seq_seq', (SELECT max(seq) FROM projection_outbox))"))
    target.close()


def _typed(table: sa.Table, row: dict) -> dict:
    """SQLite keeps JSON as text and booleans as numbers."""

    def value(name: str, given):
        kind = table.c[name].type
        if given is None:
            return None
        if isinstance(kind, sa.JSON):
            return json.loads(given)
        return bool(given) if isinstance(kind, sa.Boolean) else given

    return {name: value(name, given) for name, given in row.items()}


def test_the_migrations_make_the_tables_of_the_code(catalog):
    with catalog.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_the_newest_migration_is_the_head_that_opening_looks_for():
    scripts = ScriptDirectory(str(MIGRATIONS))
    assert scripts.get_current_head() == migrate.HEAD
    assert [script.revision for script in scripts.walk_revisions()][1:] == RELEASED[::-1]


def test_a_released_catalog_answers_after_the_migration_what_it_answered_before(released, revision):
    with Atlas.open(settings=released) as atlas:
        assert migrate.revision(atlas.catalog) == migrate.HEAD
        _same(ANSWERS[revision](atlas), json.loads((DATA / f"catalog-{revision}.json").read_text()))
        with atlas.catalog.engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def _same(now, before, place: str = "answers") -> None:
    """Everything that was said before is said still; new fields may have come."""
    if isinstance(before, dict):
        assert set(before) <= set(now), place
        for name in before:
            _same(now[name], before[name], f"{place}.{name}")
    elif isinstance(before, list):
        assert len(now) == len(before), place
        for number, pair in enumerate(zip(now, before, strict=True)):
            _same(*pair, f"{place}[{number}]")
    else:
        assert now == before, place


def test_what_a_released_catalog_had_announced_reaches_the_graph_store(revision, store_pair, tmp_path):
    file = tmp_path / "released.sqlite"
    shutil.copy(DATA / f"catalog-{revision}.sqlite", file)
    settings = store_pair.model_copy(update={"catalog_url": f"sqlite:///{file}"})
    if store_pair.catalog_url.startswith("postgresql"):
        _copy_to(file, Catalog(store_pair.catalog_url), revision)
        settings = store_pair
    with Atlas.open(settings=settings) as atlas:
        announced = atlas.resolve("added-while-down")
        assert atlas.graph.circuit_ids() == {announced: "ready"}
        atlas.add(make_circuit("a new one"))  # the numbers of the outbox go on
        atlas.rebuild()
        assert atlas.graph.circuit_ids() == dict.fromkeys(atlas.catalog.circuit_ids(), "ready")


def _open_and_add(url: str, barrier, number: int) -> None:
    barrier.wait()
    opened = Catalog.open(url)
    for index in range(5):
        circuit = make_circuit(f"p{number} {index}")
        opened.write(str(number), lambda session, circuit=circuit: circuits.insert_circuit(session, circuit))
    opened.close()


def _at_once(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    workers = [context.Process(target=_open_and_add, args=(url, barrier, number)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_several_processes_open_a_new_catalog_and_write_at_once(catalog_settings):
    url = catalog_settings.resolved_catalog_url()
    _at_once(url)
    opened = Catalog.open(url)
    assert opened.count_circuits() == 10
    opened.close()


def test_several_processes_migrate_a_released_catalog_and_write_at_once(released):
    _at_once(released.catalog_url)
    opened = Catalog.open(released.catalog_url)
    assert migrate.revision(opened) == migrate.HEAD
    assert opened.count_circuits() == 4 + 10
    opened.close()


def _killed_while_migrating(url: str, statement: str) -> None:
    opened = Catalog(url)

    @event.listens_for(opened.engine, "after_cursor_execute")
    def _kill(connection, cursor, sent, *rest) -> None:
        if statement in sent:
            os.kill(os.getpid(), signal.SIGKILL)

    migrate.upgrade(opened)


@pytest.mark.parametrize("statement", ["CREATE TABLE measurements", "UPDATE alembic_version SET version_num='0003'"])
def test_a_migration_that_is_killed_leaves_the_catalog_as_it_was(released, revision, statement):
    child = multiprocessing.get_context("spawn").Process(
        target=_killed_while_migrating, args=(released.catalog_url, statement)
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    opened = Catalog(released.catalog_url)
    assert migrate.revision(opened) == revision
    migrate.upgrade(opened)
    assert (migrate.revision(opened), opened.count_circuits()) == (migrate.HEAD, 4)
    opened.close()


def test_a_new_file_is_in_write_ahead_mode_and_holds_its_references(sqlite_catalog):
    with sqlite_catalog.engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1


def test_a_catalog_of_a_newer_program_is_one_sentence(catalog, url):
    with catalog.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match="newer version") as error:
        Catalog.open(url)
    assert "Upgrade" in error.value.hint
    with catalog.engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"


def test_a_database_of_another_program_is_left_alone(catalog_settings):
    url = catalog_settings.resolved_catalog_url()
    opened = Catalog(url)
    if opened.is_sqlite:
        opened.file.parent.mkdir(parents=True)
    with opened.engine.begin() as connection:
        connection.execute(text("CREATE TABLE circuits (voltage INTEGER)"))
    with pytest.raises(StoreUnavailable, match="belongs to another program"):
        Catalog.open(url)
    with opened.engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["circuits"]
    opened.close()


def test_a_released_file_that_cannot_be_written_is_not_migrated_in_one_sentence(tmp_path):
    file = tmp_path / "released.sqlite"
    shutil.copy(DATA / "catalog-0001.sqlite", file)
    with pytest.raises(StoreUnavailable, match="read-only"):
        Catalog.open(f"sqlite:///file:{file}?mode=ro&uri=true")


@pytest.fixture
def reader_url(postgres_server, postgres_url) -> str:
    """The same database for a role that may only read."""
    role, password = f"reader_{postgres_url[-8:]}", "reads-only"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), password))
        connection.execute(
            sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {}").format(
                sql.Identifier(role)
            )
        )
        yield postgres_server.url(postgres_url.rsplit("/", 1)[1], role, password)
        connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.mark.postgres
def test_a_role_without_write_rights_reads_and_is_told_in_one_sentence_what_it_may_not(postgres_url, reader_url):
    with pytest.raises(StoreUnavailable, match="refuses this user the right") as error:
        Catalog.open(reader_url)  # an empty database: the tables cannot be made
    assert "Grant" in error.value.hint
    whole = Catalog.open(postgres_url)
    whole.write("me", lambda session: circuits.insert_circuit(session, make_circuit()))
    whole.close()
    opened = Catalog.open(reader_url)
    assert opened.count_circuits() == 1
    with pytest.raises(StoreUnavailable, match="refuses this user the right") as error:
        opened.write("me", lambda session: circuits.insert_circuit(session, make_circuit("c d")))
    assert "reads-only" not in str(error.value)
    opened.close()


@pytest.mark.postgres
def test_a_standby_of_postgres_is_read_and_not_written(postgres_url):
    Catalog.open(postgres_url).close()
    opened = Catalog.open(f"{postgres_url}?options=-c%20default_transaction_read_only%3Don")
    assert opened.count_circuits() == 0
    with pytest.raises(StoreUnavailable, match="is read-only"):
        opened.write("me", lambda session: circuits.insert_circuit(session, make_circuit()))
    opened.close()
