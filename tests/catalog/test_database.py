"""Opening, migrating, locking, and every way in which the database itself fails."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from atlas import Atlas
from atlas.catalog import Catalog, circuits, migrate
from atlas.catalog.tables import Base
from atlas.errors import SchemaMismatch, StoreUnavailable, UsageError
from atlas.settings import Settings
from tests.conftest import make_circuit

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"


def test_the_migrations_make_the_tables_of_the_code(catalog):
    with catalog.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_the_newest_migration_is_the_head_that_opening_looks_for():
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == migrate.HEAD


def test_a_current_catalog_opens_without_alembic(catalog):
    code = (
        "import sys; from atlas.catalog import Catalog; "
        f"Catalog.open('sqlite:///{catalog.file}'); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_catalog_of_a_newer_program_is_one_sentence(catalog):
    with catalog.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match="newer version") as error:
        Catalog.open(str(catalog.url))
    assert "Upgrade" in error.value.hint


def _open_and_add(url: str, barrier, number: int) -> None:
    barrier.wait()
    opened = Catalog.open(url)
    for index in range(5):
        circuit = make_circuit(f"p{number} {index}")
        opened.write(str(number), lambda session, circuit=circuit: circuits.insert_circuit(session, circuit))


def test_several_processes_open_a_new_catalog_and_write_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    url, barrier = f"sqlite:///{tmp_path / 'new' / 'catalog.sqlite'}", context.Barrier(2)
    workers = [context.Process(target=_open_and_add, args=(url, barrier, number)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert Catalog.open(url).count_circuits() == 10


def test_a_migration_killed_half_way_leaves_nothing_behind(tmp_path):
    opened = Catalog(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    with opened.engine.connect() as connection:
        connection.execute(text("CREATE TABLE half (x TEXT)"))
        connection.rollback()  # what the database does with the transaction of a killed process
    assert migrate.revision(opened) is None
    migrate.upgrade(opened)
    with opened.engine.connect() as connection:
        assert not connection.dialect.has_table(connection, "half")
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1


def test_a_lock_is_had_by_one_at_a_time_and_let_go_by_the_dead(catalog):
    code = (
        "import sys, time; from atlas.catalog import Catalog\n"
        f"with Catalog.open('sqlite:///{catalog.file}').lock('test') as held:\n"
        "    print(held, flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline().strip() == "True"
        with catalog.lock("test", wait=0.1) as held:
            assert held is False
        with catalog.lock("other", wait=0) as held:
            assert held is True
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with catalog.lock("test", wait=5) as held:
        assert held is True


def test_a_catalog_locked_by_another_process_is_one_sentence(catalog):
    holder = sqlite3.connect(catalog.file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    waiting = Catalog(str(catalog.url), busy_seconds=0.1)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="locked by another process"):
        waiting.write("me", lambda session: circuits.insert_circuit(session, make_circuit()))
    assert time.monotonic() - began < 5
    with waiting.read() as session:  # readers go on
        assert circuits.listing(session) == []
    holder.close()


def test_a_full_disk_is_one_sentence_and_loses_nothing(catalog):
    first = catalog.write("me", lambda session: circuits.insert_circuit(session, make_circuit())).id
    with catalog.engine.connect() as connection:  # the pool's only connection: the next writer gets it
        pages = connection.scalar(text("PRAGMA page_count"))
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))
    big = make_circuit(" ".join(f"word{n}" for n in range(20_000)))
    with pytest.raises(StoreUnavailable, match="disk is full") as error:
        catalog.write("me", lambda session: circuits.insert_circuit(session, big))
    assert str(catalog.file) in error.value.message
    assert catalog.circuit_ids() == [first]


def test_a_read_only_catalog_is_read_but_not_written(catalog):
    catalog.write("me", lambda session: circuits.insert_circuit(session, make_circuit()))
    read_only = Catalog.open(f"sqlite:///file:{catalog.file}?mode=ro&uri=true")
    assert read_only.count_circuits() == 1
    with pytest.raises(StoreUnavailable, match="read-only"):
        read_only.write("me", lambda session: circuits.insert_circuit(session, make_circuit("c d")))


def test_a_file_that_is_no_database_is_one_sentence(tmp_path):
    (tmp_path / "catalog.sqlite").write_text("not a database" * 100)
    with pytest.raises(StoreUnavailable, match="not an SQLite database"):
        Catalog.open(f"sqlite:///{tmp_path / 'catalog.sqlite'}")


def test_a_damaged_database_is_one_sentence(catalog):
    catalog.write("me", lambda session: circuits.insert_circuit(session, make_circuit()))
    catalog.close()
    content = bytearray(catalog.file.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    catalog.file.write_bytes(content)
    with pytest.raises(StoreUnavailable, match="damaged"):
        Catalog.open(str(catalog.url)).count_circuits()


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("nonsense", UsageError, "not a database address"),
        ("sqlite://", UsageError, "in-memory"),
        ("sqlite:////proc/nowhere/catalog.sqlite", StoreUnavailable, "cannot be used"),
        ("martian://host/db", UsageError, "unknown kind of database"),
    ],
)
def test_an_address_that_cannot_be_opened_is_one_sentence(url, error, words):
    with pytest.raises(error, match=words):
        Catalog.open(url)


def test_an_unreachable_server_is_one_sentence_without_the_password():
    with pytest.raises(StoreUnavailable) as error:
        Catalog.open("postgresql://ada:secret@127.0.0.1:9/atlas")
    assert "secret" not in str(error.value)
    assert "psycopg" in error.value.message


def test_a_home_that_is_a_file_or_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(StoreUnavailable, match=r"cannot be made|cannot be used"):
            Atlas.open(settings=Settings(home=home))
