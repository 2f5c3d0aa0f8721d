"""What can break around a running command: signals, kills, stores that are damaged, full or taken, outputs that go away."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from atlas import Atlas, circuit_file
from atlas.catalog import Catalog
from atlas.graph import embedded
from atlas.settings import Settings, load_settings
from tests.conftest import make_circuit
from tests.graph_content import graph_content

FILES = 40


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Path]:
    """One embedded server for this file."""
    folder = tmp_path_factory.mktemp("faults") / "home"
    yield folder
    embedded.stop(folder)


def start(home: Path, *arguments: object, **options) -> subprocess.Popen:
    environment = {**os.environ, "ATLAS_HOME": str(home), "ATLAS_ACTOR": "tester", "ATLAS_EMBEDDED_HEAP": "512m"}
    # A process started in the background ignores SIGINT and so would its children; a user's does not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True} | options
    return subprocess.Popen([sys.executable, "-m", "atlas", *map(str, arguments)], env=environment, **options)


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "Traceback" not in (err or "")
    assert "unexpected" not in (err or "")
    return process.returncode, out, err


def command(home: Path, *arguments: object, **options) -> tuple[int, str, str]:
    return ended(start(home, *arguments, **options))


def wait_for(what: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def write_files(folder: Path, what: str) -> Path:
    folder.mkdir()
    for number in range(FILES):
        circuit = make_circuit(f"{what} {number}", features=(number, number + 1))
        (folder / f"{number}.circuit").write_bytes(circuit_file.to_bytes(circuit))
    return folder


def circuits_of(home: Path) -> int:
    with contextlib.suppress(sqlite3.OperationalError), sqlite3.connect(home / "catalog.sqlite") as catalog:
        return catalog.execute("SELECT count(*) FROM circuits").fetchone()[0]
    return 0


def assert_graph_equals_a_rebuilt_one(home: Path) -> None:
    with Atlas.open(settings=Settings(home=home, embedded_heap="512m")) as atlas:
        before = graph_content(atlas)
        atlas.rebuild()
        assert graph_content(atlas) == before


@pytest.mark.embedded
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_import_that_is_ended_keeps_what_is_finished_and_goes_on_later(home, tmp_path, number) -> None:
    folder = write_files(tmp_path / "in", f"end by {number.name}")
    before = circuits_of(home)
    process = start(home, "import", folder, "--json")
    wait_for(lambda: circuits_of(home) > before + 2 or process.poll() is not None)
    os.killpg(process.pid, number)
    code, out, err = ended(process)
    kept = circuits_of(home) - before
    assert 0 < kept < FILES
    if number == signal.SIGINT:
        assert code == 1
        assert json.loads(out)["error"]["message"] == "Interrupted."
        assert len(err.splitlines()) == 1
    assert_graph_equals_a_rebuilt_one(home)
    code, out, err = command(home, "import", folder, "--json")
    assert (code, err) == (0, "")
    assert sum(item["already"] for item in json.loads(out)["loaded"]) == kept
    assert circuits_of(home) == before + FILES


@pytest.mark.embedded
def test_a_rebuild_that_is_interrupted_is_finished_by_the_next_question(home, tmp_path) -> None:
    assert command(home, "import", write_files(tmp_path / "in", "rebuild"), "--json")[0] == 0
    with Atlas.open(settings=Settings(home=home)) as atlas:
        before = graph_content(atlas)
        seen = len(atlas.circuits(limit=None))
        process = start(home, "rebuild")
        wait_for(lambda: len(atlas._projector._connect().circuit_ids()) < seen or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    code, out, err = ended(process)
    assert (code, out) == (1, "")
    assert err.startswith("Interrupted.")
    with Atlas.open(settings=Settings(home=home)) as atlas:
        assert graph_content(atlas) == before


@pytest.mark.embedded
def test_a_server_that_is_killed_between_two_verbs_is_started_again(home) -> None:
    assert command(home, "up")[0] == 0
    status = embedded.status(home)
    psutil.Process(status.java_pid).kill()
    assert command(home, "cypher", "RETURN 1 AS one", "--json")[:2] == (
        0,
        '{"columns": ["one"], "rows": [[1]], "truncated": false}\n',
    )


@pytest.mark.embedded
@pytest.mark.slow  # the driver tries for half a minute before it gives the dead server up
def test_a_server_that_is_killed_during_an_import_is_started_again(home, tmp_path) -> None:
    folder = write_files(tmp_path / "in", "killed server")
    before = circuits_of(home)
    process = start(home, "import", folder, "--json")
    wait_for(lambda: circuits_of(home) > before + 2 or process.poll() is not None)
    psutil.Process(embedded.status(home).java_pid).kill()
    code, out, err = ended(process)
    assert (code, len(json.loads(out)["loaded"])) == (0, FILES), err
    assert_graph_equals_a_rebuilt_one(home)


@pytest.mark.embedded
@pytest.mark.slow  # the server lets its clients half a minute to go
def test_down_while_another_process_uses_the_server_costs_that_one_a_new_start(home, tmp_path) -> None:
    with Atlas.open(settings=Settings(home=home, embedded_heap="512m")) as atlas:
        assert atlas.cypher("RETURN 1 AS one").rows == [[1]]
        assert json.loads(command(home, "down", "--json")[1]) == {"stopped": True}
        assert atlas.cypher("RETURN 1 AS one").rows == [[1]]
    assert json.loads(command(home, "down", "--json")[1]) == {"stopped": True}


@pytest.mark.embedded
def test_two_processes_that_begin_at_once_in_an_empty_home_share_one_server(tmp_path) -> None:
    home = tmp_path / "home"
    (tmp_path / "one.circuit").write_bytes(circuit_file.to_bytes(make_circuit()))
    try:
        both = [start(home, "import", tmp_path / "one.circuit", "--json") for _ in range(2)]
        results = [ended(process) for process in both]
        assert [code for code, _, _ in results] == [0, 0], results
        assert sorted(json.loads(out)["loaded"][0]["already"] for _, out, _ in results) == [False, True]
        assert command(home, "doctor")[0] == 0
    finally:
        assert embedded.stop(home)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_pages_end_with_the_command_and_free_their_port(tmp_path, number) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(tmp_path / "home", "ui", "--no-browser", "--port", port, "--json")
    url = json.loads(process.stdout.readline())["url"]
    assert url.endswith(str(port))
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    process.send_signal(number)  # to the command alone, as a process manager does
    code, _, err = ended(process)
    assert (code, err) == (0, "")
    assert not psutil.wait_procs(family, timeout=5)[1]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def spoiled(home: Path, fault: str) -> None:
    """An atlas with one circuit, without a graph server, and then a fault."""
    home.mkdir(exist_ok=True)
    if fault == "folder":
        (home / "catalog.sqlite").mkdir()
        return
    if fault == "another program's":
        with sqlite3.connect(home / "catalog.sqlite") as other:
            other.execute("CREATE TABLE circuits (voltage)")
        return
    with Atlas.open(settings=Settings(home=home)):
        pass
    file = home / "catalog.sqlite"
    if fault == "garbage":
        file.write_bytes(b"no database" * 1000)
    elif fault == "cut off":
        os.truncate(file, 50_000)
    elif fault == "newer":
        with sqlite3.connect(file) as catalog:
            catalog.execute("UPDATE alembic_version SET version_num = '9999'")


@pytest.mark.parametrize(
    ("fault", "type", "text"),
    [
        ("garbage", "StoreUnavailable", "not an SQLite database"),
        ("cut off", "StoreUnavailable", "damaged"),
        ("newer", "SchemaMismatch", "newer version"),
        ("folder", "StoreUnavailable", "cannot be opened"),
        ("another program's", "StoreUnavailable", "belongs to another program"),
    ],
)
@pytest.mark.parametrize("verb", [["circuits"], ["up"], ["import", "x.json"], ["rebuild"], ["ui", "--no-browser"]])
def test_a_catalog_that_cannot_be_used_is_one_sentence(atlas_command, tmp_path, fault, type, text, verb) -> None:
    spoiled(tmp_path / "home", fault)
    result = atlas_command(*verb, "--json")
    assert result.code == 1
    assert result.json["error"]["type"] == type
    assert text in result.json["error"]["message"]
    checks = atlas_command("doctor", "--json")
    assert checks.code == 1
    assert [check["name"] for check in checks.json if not check["ok"]] == ["catalog"]


def test_a_damaged_circuit_is_named_and_can_be_deleted(filled) -> None:
    atlas_command, ids = filled
    catalog = Catalog(load_settings().resolved_catalog_url())
    with catalog.engine.begin() as connection:
        connection.execute(text("UPDATE circuits SET blob = substr(blob, 1, 500) WHERE id = :id"), {"id": ids["a-c"]})
    catalog.close()
    for verb in (["show", "a-c"], ["compare", "a-b", "a-c"], ["paths", "token:a", "logit:x"]):
        error = atlas_command(*verb, "--json").json["error"]
        assert error["type"] == "StoreUnavailable"
        assert ids["a-c"] in error["message"]
        assert f"atlas delete {ids['a-c']}" in error["hint"]
    assert atlas_command("delete", "a-c", "--yes", "--json").json == {"deleted": ids["a-c"]}
    assert atlas_command("paths", "token:a", "logit:x", "--json").code == 0
    assert atlas_command("doctor").code == 0


@pytest.mark.skipif(os.geteuid() != 0 or not sys.platform.startswith("linux"), reason="mounting needs root on Linux")
@pytest.mark.parametrize("full_from", ["the beginning", "the first circuit on"])
def test_a_full_disk_is_named(atlas_command, tmp_path, monkeypatch, full_from) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("this container may not mount")
    monkeypatch.setenv("ATLAS_HOME", str(small))
    monkeypatch.setenv("ATLAS_GRAPH_URL", "bolt://127.0.0.1:1")
    (tmp_path / "one.circuit").write_bytes(circuit_file.to_bytes(make_circuit()))
    try:
        if full_from != "the beginning":
            assert atlas_command("circuits", "--json").json == []
        with contextlib.suppress(OSError), open(small / "filler", "wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        for verb in (["circuits"], ["import", tmp_path / "one.circuit"], ["rebuild"]):
            error = atlas_command(*verb, "--json").json["error"]
            assert error["type"] == "StoreUnavailable"
            assert "disk is full" in error["message"]
        (small / "filler").unlink()
        assert atlas_command("circuits", "--json").json == []
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path, form) -> None:
    with open("/dev/full", "w") as full:
        code, _, err = command(tmp_path / "home", "circuits", *form, stdout=full)
        assert (code, len(err.splitlines())) == (1, 1)
        assert "cannot be written" in err
        code, _, err = command(tmp_path / "home", "show", "nothing", *form, stdout=full)
        assert (code, len(err.splitlines())) == (1, 1)
        assert "no circuit" in err


def test_a_reader_that_goes_away_is_no_failure(tmp_path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert command(tmp_path / "home", "circuits", stdout=writing)[::2] == (0, "")
    finally:
        os.close(writing)


def test_an_output_that_is_no_utf_8_still_gives_json(tmp_path) -> None:
    environment = {**os.environ, "ATLAS_HOME": str(tmp_path / "home"), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "atlas", "show", "café ☕", "--json"], env=environment, capture_output=True, timeout=60
    )
    assert done.returncode == 1
    assert "café ☕" in json.loads(done.stdout)["error"]["message"]
    assert b"Traceback" not in done.stderr
