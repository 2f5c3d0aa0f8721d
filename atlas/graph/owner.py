"""The process that owns one embedded graph server: starts its Java, waits until it answers, watches idleness, stops it.

Run by `atlas.graph.embedded` as a detached process: `python -P owner.py FOLDER HEAP IDLE_SECONDS PACKAGE`. It imports neither
the driver nor the rest of atlas, so that it starts at once and stays small. Exit codes: 0 stopped, 1 the server failed,
3 another owner has the folder.

FOLDER/server.json (mode 0600, replaced atomically) is all that other processes know: state (`starting` or `ready`), pids with
their start times, ports and the passwords of `root` (ours) and `reader` (untrusted Cypher). Passwords are new at every
start and never on a command line: Java reads root's from a file that is removed when the server is ready.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

DATABASE = "atlas"
READER_GROUP = {
    "database": DATABASE,
    "name": "reader",
    "resultSetLimit": -1,
    "readTimeout": -1,
    "access": [],
    "types": {"*": {"access": ["readRecord"]}},
}
FOLDER_TAKEN = 3  # exit code
START_SECONDS = 120.0
STOP_SECONDS = 30.0
BACKSTOP_MILLISECONDS = 300_000  # the server's only time limit is per database; ours per query are shorter


def main(folder: Path, heap: str, idle_seconds: float, package: Path) -> int:
    os.umask(0o077)
    try:
        lock = FileLock(folder / "owner.lock", timeout=0)
        lock.acquire()
    except Timeout:
        return FOLDER_TAKEN
    stop_requested: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stop_requested.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop_orphan(folder)
    state = {"state": "starting", "owner": identity(os.getpid()), "passwords": fresh_passwords()}
    write_state(folder, state)
    java: subprocess.Popen | None = None
    try:
        java = start_java(folder, heap, package, state)
        wait_until_ready(java, state, stop_requested)
        (folder / "root.secret").unlink(missing_ok=True)
        state["state"] = "ready"
        write_state(folder, state)
        log("ready")
        watch(folder, java, state, idle_seconds, stop_requested)
        failed = java.poll() is not None and not stop_requested
    except RuntimeError as error:
        log(f"failed: {error}")
        failed = not stop_requested
    finally:
        (folder / "root.secret").unlink(missing_ok=True)
        if java is not None:
            stop_process(java)
        (folder / "server.json").unlink(missing_ok=True)
        lock.release()
    return int(failed)


def start_java(folder: Path, heap: str, package: Path, state: dict[str, Any]) -> subprocess.Popen:
    state["bolt_port"], state["http_port"] = free_ports(2)
    # Users are made anew at every start, so that a lost or half-written password file never locks anybody out.
    for name in ("server-users.jsonl", "server-groups.json"):
        (folder / "config" / name).unlink(missing_ok=True)
    (folder / "root.secret").write_text(state["passwords"]["root"])
    settings = {
        "server.rootPath": folder,
        "server.rootPasswordPath": folder / "root.secret",
        # Production mode would hide every error text from the client; what it closes is closed here one by one.
        "server.mode": "development",
        "server.httpIncomingHost": "127.0.0.1",
        "server.httpIncomingPort": state["http_port"],
        "server.plugins": "Bolt:com.arcadedb.bolt.BoltProtocolPlugin",
        "bolt.host": "127.0.0.1",
        "bolt.port": state["bolt_port"],
        "bolt.defaultDatabase": DATABASE,
        "server.defaultDatabases": f"{DATABASE}[]",
        "opencypher.loadCsv.allowFileUrls": "false",
        "opencypher.loadCsv.allowRemoteUrls": "false",
        "txWalFlush": 2,
    }
    command = [
        str(package / "jre" / "bin" / "java"),
        f"-Xmx{heap}",
        "--add-modules",
        "jdk.incubator.vector",
        "--enable-native-access=ALL-UNNAMED",
        "-cp",
        str(package / "jars" / "*"),
        *(f"-Darcadedb.{name}={value}" for name, value in settings.items()),
        "com.arcadedb.server.ArcadeDBServer",
    ]
    # A session of its own: a signal to the owner's process group must not stop Java before the owner asks it to.
    java = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, start_new_session=True)
    state["java"] = identity(java.pid)
    write_state(folder, state)
    return java


def wait_until_ready(java: subprocess.Popen, state: dict[str, Any], stop_requested: list[int]) -> None:
    """Until HTTP and Bolt answer and the reader exists. Raises RuntimeError when Java ends, on a stop or after START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        if stop_requested:
            raise RuntimeError("stopped while starting")
        if java.poll() is not None:
            raise RuntimeError(f"Java ended with code {java.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"the server did not answer within {START_SECONDS:.0f} seconds")
        try:
            request(state, "GET", "/api/v1/ready")
            databases = request(state, "GET", "/api/v1/databases")["result"]
            with socket.create_connection(("127.0.0.1", state["bolt_port"]), timeout=1):
                pass
            if DATABASE in databases:
                break
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.1)
    try:
        request(state, "POST", "/api/v1/server/groups", READER_GROUP)
        reader = {"name": "reader", "password": state["passwords"]["reader"], "databases": {DATABASE: ["reader"]}}
        request(state, "POST", "/api/v1/server/users", reader)
        limit = f"ALTER DATABASE `arcadedb.command.timeout` {BACKSTOP_MILLISECONDS}"
        request(state, "POST", f"/api/v1/command/{DATABASE}", {"language": "sql", "command": limit})
    except (OSError, urllib.error.URLError) as error:
        raise RuntimeError(f"the server's users could not be made: {error}") from error


def watch(
    folder: Path, java: subprocess.Popen, state: dict[str, Any], idle_seconds: float, stop_requested: list[int]
) -> None:
    """Returns when Java has ended, a stop is asked for, or nobody was connected for `idle_seconds` (0 = never)."""
    process = psutil.Process(java.pid)
    last_used = time.monotonic()
    look_at = 0.0
    while java.poll() is None and not stop_requested:
        time.sleep(0.2)
        if java.poll() is not None:
            break  # by now the note may be another owner's
        if not keep_state(folder, state):
            log("the folder is gone")
            return
        if idle_seconds <= 0 or time.monotonic() < look_at:
            continue
        look_at = time.monotonic() + min(5.0, idle_seconds / 4)
        if connected(process, state["bolt_port"]) or opened_since(folder, time.time() - idle_seconds):
            last_used = time.monotonic()
        if time.monotonic() - last_used < idle_seconds:
            continue
        try:
            # Nobody can be between reading server.json and connecting while this lock is ours.
            with FileLock(folder / "server.lock", timeout=0):
                if opened_since(folder, time.time() - idle_seconds):
                    continue
                (folder / "server.json").unlink(missing_ok=True)
                log(f"idle for {idle_seconds:g} seconds")
                stop_process(java)
                stop_requested.append(0)
        except Timeout:
            continue


def keep_state(folder: Path, state: dict[str, Any]) -> bool:
    """Writes server.json again when somebody damaged or removed it: without it nobody finds the server. False: no folder."""
    try:
        with suppress(ValueError):
            if json.loads((folder / "server.json").read_text()) == state:
                return True
    except FileNotFoundError:
        if not folder.is_dir():
            return False
    log("server.json was damaged; written again")
    write_state(folder, state)
    return True


def connected(process: psutil.Process, port: int) -> bool:
    try:
        return any(
            c.status == psutil.CONN_ESTABLISHED and c.laddr and c.laddr.port == port
            for c in process.net_connections(kind="tcp")
        )
    except psutil.Error:
        return False


def opened_since(folder: Path, moment: float) -> bool:
    """Whoever opens the store touches server.json, so that the server is not stopped before it has connected."""
    try:
        return (folder / "server.json").stat().st_mtime > moment
    except OSError:
        return False


def stop_process(java: subprocess.Popen) -> None:
    if java.poll() is None:
        java.terminate()
        try:
            java.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            java.kill()
            java.wait()


def stop_orphan(folder: Path) -> None:
    """Ends the Java of an owner that was killed: nobody watches it any more."""
    try:
        process = same_process(json.loads((folder / "server.json").read_text()).get("java"))
    except (OSError, ValueError, AttributeError):
        return
    if process is None:
        return
    log(f"ending the server {process.pid} of an earlier owner")
    try:
        process.terminate()
        process.wait(STOP_SECONDS)
    except psutil.TimeoutExpired:
        process.kill()
    except psutil.NoSuchProcess:
        pass


def identity(pid: int) -> dict[str, float]:
    """A pid with its start time; a recycled pid has another start time."""
    return {"pid": pid, "started": psutil.Process(pid).create_time()}


def same_process(who: Any) -> psutil.Process | None:
    """The live process that `identity` described, else None."""
    try:
        process = psutil.Process(int(who["pid"]))
        alive = abs(process.create_time() - float(who["started"])) < 0.5 and process.status() != psutil.STATUS_ZOMBIE
        return process if alive else None
    except (psutil.Error, KeyError, TypeError, ValueError):
        return None


def write_state(folder: Path, state: dict[str, Any]) -> None:
    temporary = folder / "server.json.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(state, file)
    os.replace(temporary, folder / "server.json")


def request(state: dict[str, Any], method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    credentials = base64.b64encode(f"root:{state['passwords']['root']}".encode()).decode()
    call = urllib.request.Request(
        f"http://127.0.0.1:{state['http_port']}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
        method=method,
    )
    # No proxy from the environment: this is loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(call, timeout=30) as answer:
        content = answer.read()
    return json.loads(content) if content else None


def fresh_passwords() -> dict[str, str]:
    return {"root": secrets.token_urlsafe(24), "reader": secrets.token_urlsafe(24)}


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def log(message: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), "owner:", message, flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), Path(sys.argv[4])))
