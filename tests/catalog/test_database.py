"""Opening, migrating, locking, and every way in which the database itself fails."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from atlas import Atlas
from atlas.catalog import Catalog, circuits
from atlas.errors import StoreUnavailable, UsageError
from atlas.settings import Settings
from tests.conftest import make_circuit

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"


def test_a_current_catalog_opens_without_alembic(catalog, url):
    code = f"import sys; from atlas.catalog import Catalog; Catalog.open({url!r}); print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_lock_is_had_by_one_at_a_time_and_let_go_by_the_dead(catalog, url):
    code = (
        "import sys, time; from atlas.catalog import Catalog\n"
        f"with Catalog.open({url!r}).lock('test') as held:\n"
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


def test_a_catalog_locked_by_another_process_is_one_sentence(sqlite_catalog):
    holder = sqlite3.connect(sqlite_catalog.file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    waiting = Catalog(str(sqlite_catalog.url), busy_seconds=0.1)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="locked by another process"):
        waiting.write("me", lambda session: circuits.insert_circuit(session, make_circuit()))
    assert time.monotonic() - began < 5
    with waiting.read() as session:  # readers go on
        assert circuits.listing(session) == []
    holder.close()


def test_a_full_disk_is_one_sentence_and_loses_nothing(sqlite_catalog):
    first = sqlite_catalog.write("me", lambda session: circuits.insert_circuit(session, make_circuit())).id
    with sqlite_catalog.engine.connect() as connection:  # the pool's only connection: the next writer gets it
        pages = connection.scalar(text("PRAGMA page_count"))
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))
    big = make_circuit(" ".join(f"word{n}" for n in range(20_000)))
    with pytest.raises(StoreUnavailable, match="disk is full") as error:
        sqlite_catalog.write("me", lambda session: circuits.insert_circuit(session, big))
    assert str(sqlite_catalog.file) in error.value.message
    assert sqlite_catalog.circuit_ids() == [first]


def test_a_read_only_file_is_read_but_not_written(sqlite_catalog):
    sqlite_catalog.write("me", lambda session: circuits.insert_circuit(session, make_circuit()))
    read_only = Catalog.open(f"sqlite:///file:{sqlite_catalog.file}?mode=ro&uri=true")
    assert read_only.count_circuits() == 1
    with pytest.raises(StoreUnavailable, match="read-only"):
        read_only.write("me", lambda session: circuits.insert_circuit(session, make_circuit("c d")))
    read_only.close()


def test_an_empty_file_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "catalog.sqlite").touch()
    with pytest.raises(StoreUnavailable, match="read-only"):
        Catalog.open(f"sqlite:///file:{tmp_path / 'catalog.sqlite'}?mode=ro&uri=true")


def test_a_file_that_is_no_database_is_one_sentence(tmp_path):
    (tmp_path / "catalog.sqlite").write_text("not a database" * 100)
    with pytest.raises(StoreUnavailable, match="not an SQLite database"):
        Catalog.open(f"sqlite:///{tmp_path / 'catalog.sqlite'}")


def test_a_damaged_database_is_one_sentence(sqlite_catalog):
    sqlite_catalog.write("me", lambda session: circuits.insert_circuit(session, make_circuit()))
    sqlite_catalog.close()
    content = bytearray(sqlite_catalog.file.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    sqlite_catalog.file.write_bytes(content)
    with pytest.raises(StoreUnavailable, match="damaged"):
        Catalog.open(str(sqlite_catalog.url)).count_circuits()


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


def test_a_home_that_is_a_file_or_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(StoreUnavailable, match=r"cannot be made|cannot be used"):
            Atlas.open(settings=Settings(home=home))
