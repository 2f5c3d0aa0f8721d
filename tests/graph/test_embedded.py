"""The embedded server's owner process: shared, private, healing, and gone when it should be."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from atlas.errors import StoreUnavailable
from atlas.graph import GraphStore, embedded, owner
from atlas.settings import Settings

pytestmark = pytest.mark.embedded


@pytest.fixture
def home(tmp_path):
    yield tmp_path / "home with space"
    embedded.stop(tmp_path / "home with space")


def settings(home, **changes):
    return Settings(home=home, **({"embedded_heap": "256m", "embedded_idle_seconds": 120} | changes))


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def alive(pid):
    """A process that has ended but was not waited for by its parent (this test) is not alive."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def java_of(home):
    return psutil.Process(embedded.status(home).java_pid)


def test_all_processes_of_a_home_share_one_private_server(home):
    """Four at once start one server; nobody else can read its passwords; it writes nothing to the caller's output."""
    code = (
        "import sys; from pathlib import Path; from atlas.settings import Settings; from atlas.graph import embedded\n"
        f"print(embedded.start(Settings(home=Path({str(home)!r}), embedded_heap='256m')).bolt_port)"
    )
    with ThreadPoolExecutor(4) as pool:
        runs = list(
            pool.map(lambda _: subprocess.run([sys.executable, "-c", code], capture_output=True, text=True), range(4))
        )

    assert {run.stdout for run in runs} == {f"{runs[0].stdout.strip()}\n"}
    assert {run.stderr for run in runs} == {""}
    state = home / "graph" / "server.json"
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "graph").stat().st_mode) == 0o700
    passwords = json.loads(state.read_text())["passwords"].values()
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if any(password in command for password in passwords)]
    readable = [path for path in (home / "graph").rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert not [path for path in readable if any(password in path.read_text("latin-1") for password in passwords)]
    assert not (home / "graph" / "root.secret").exists()
    for connection in java_of(home).net_connections(kind="tcp"):
        assert connection.laddr.ip.removeprefix("::ffff:") == "127.0.0.1"
    assert os.getsid(embedded.status(home).pid) != os.getsid(0)


def test_stopping_stops_everything_and_again_is_fine(home):
    assert embedded.stop(home) is False
    embedded.start(settings(home))
    status = embedded.status(home)
    assert status.running
    assert status.memory_bytes

    assert embedded.stop(home) is True

    assert not alive(status.pid)
    assert not alive(status.java_pid)
    assert embedded.stop(home) is False
    assert embedded.status(home) == embedded.EmbeddedStatus(running=False)


def test_data_outlives_a_stop_and_open_stores_connect_again(home, make_circuit, project):
    store = GraphStore.connect(settings(home))
    store.ensure_schema()
    circuit = make_circuit()
    store.put_circuit(project(circuit))
    embedded.stop(home)

    assert store.circuit_ids() == {circuit.id: "ready"}
    assert store.read("MATCH (c:Circuit) RETURN c.id", limit=5, timeout=10).rows == [[circuit.id]]
    store.close()


def test_a_killed_server_is_started_again_with_its_data(home, make_circuit, project):
    store = GraphStore.connect(settings(home))
    store.ensure_schema()
    circuit = make_circuit()
    store.put_circuit(project(circuit))
    status = embedded.status(home)

    java_of(home).kill()
    wait_for(lambda: not alive(status.pid))  # the owner leaves with its server

    assert store.circuit_ids() == {circuit.id: "ready"}
    store.close()


def test_a_killed_owner_leaves_no_server_behind(home):
    first = embedded.start(settings(home))
    status = embedded.status(home)
    os.kill(status.pid, signal.SIGKILL)
    wait_for(lambda: not alive(status.pid))

    second = embedded.start(settings(home))

    assert second != first
    assert not alive(status.java_pid)
    assert embedded.status(home).running


def test_pids_that_now_belong_to_others_are_not_touched(home):
    """After a reboot a pid of the file may be anybody's: the start time tells."""
    folder = home / "graph"
    folder.mkdir(parents=True)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        stranger = {"pid": bystander.pid, "started": owner.identity(bystander.pid)["started"] - 100}
        state = {"state": "ready", "owner": stranger, "java": stranger, "bolt_port": 1, "http_port": 2}
        (folder / "server.json").write_text(json.dumps(state | {"passwords": {"root": "a", "reader": "b"}}))

        assert embedded.status(home).running is False
        assert embedded.stop(home) is False
        assert embedded.start(settings(home)).bolt_port != 1
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "ready"}', '{"owner": {"pid": "x"}}'])
def test_a_damaged_state_file_counts_as_none(home, content):
    (home / "graph").mkdir(parents=True)
    (home / "graph" / "server.json").write_text(content)

    assert embedded.status(home).running is False
    assert embedded.stop(home) is False


def test_it_stops_when_nobody_was_connected_for_a_while(home):
    store = GraphStore.connect(settings(home, embedded_idle_seconds=2))
    status = embedded.status(home)

    time.sleep(5)
    assert embedded.status(home).running  # the open store keeps it
    store.close()

    wait_for(lambda: not alive(status.pid))
    assert not alive(status.java_pid)
    assert embedded.status(home).running is False


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StoreUnavailable, match="cannot be used"):
        embedded.start(settings(tmp_path / "file"))


def test_a_server_that_dies_at_its_start_is_one_sentence_with_its_last_line(home):
    with pytest.raises(StoreUnavailable, match="did not start") as caught:
        embedded.start(settings(home, embedded_heap="lots"))

    assert "Invalid maximum heap size" in caught.value.message
    assert "\n" not in str(caught.value)
    assert embedded.status(home).running is False


def test_a_platform_without_the_server_is_pointed_to_an_address(home, monkeypatch):
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)

    with pytest.raises(StoreUnavailable, match="not available") as caught:
        embedded.start(settings(home))

    assert "ATLAS_GRAPH_URL" in caught.value.hint


def test_a_folder_opened_by_somebody_else_is_one_sentence(home):
    """A server without an owner has the files open, and the note about it is lost."""
    embedded.start(settings(home))
    status, java = embedded.status(home), java_of(home)
    os.kill(status.pid, signal.SIGKILL)
    wait_for(lambda: not alive(status.pid))
    (home / "graph" / "server.json").unlink()
    try:
        with pytest.raises(StoreUnavailable, match="open"):
            embedded.start(settings(home))
    finally:
        java.kill()
        wait_for(lambda: not alive(java.pid))
    assert embedded.start(settings(home)).bolt_port


def test_a_taken_port_is_replaced_by_another(home, monkeypatch):
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    try:
        endpoint = embedded.start(settings(home))
        assert endpoint.bolt_port != taken.getsockname()[1]
    finally:
        taken.close()


@pytest.mark.skipif(not Path("/dev/full").exists() or os.geteuid() != 0, reason="needs to mount a small disk")
def test_a_full_disk_is_one_sentence(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        with pytest.raises(StoreUnavailable, match=r"disk .* is full") as caught:
            GraphStore.connect(settings(disk / "home")).ensure_schema()
        assert "\n" not in str(caught.value)
    finally:
        embedded.stop(disk / "home")
        subprocess.run(["umount", disk], check=False)


def test_a_damaged_or_removed_note_of_a_running_server_is_written_again(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", embedded_heap="512m")
    first = embedded.start(settings)
    note = tmp_path / "home" / "graph" / "server.json"
    try:
        for damage in (lambda: note.write_text("{"), note.unlink):
            damage()
            deadline = time.monotonic() + 10
            while not embedded.status(settings.home).running and time.monotonic() < deadline:
                time.sleep(0.1)
            assert embedded.start(settings).url == first.url
        assert note.stat().st_mode & 0o777 == 0o600
    finally:
        assert embedded.stop(settings.home)
