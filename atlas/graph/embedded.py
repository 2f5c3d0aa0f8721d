"""The graph server that comes with the installation: started at first use, shared by all processes of a home, stopped when idle.

The server itself runs under `owner.py`, a detached process. Here is what callers need: `start`, `stop`, `status`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import psutil
from filelock import FileLock, Timeout

from atlas.errors import StoreUnavailable
from atlas.graph import owner
from atlas.graph.trouble import disk_is_full
from atlas.settings import Settings

_LOG_BYTES = 10 * 2**20  # a longer log is put aside at the next start
_SAYS_NOTHING = (
    "at ",
    "...",
    "Error: Could not create the Java Virtual Machine",
    "Error: A fatal exception has occurred",
)
_OWN_SERVER = "Set ATLAS_GRAPH_URL to a Neo4j server (bolt:// or neo4j://) to use that instead."


@dataclass(frozen=True)
class Endpoint:
    """Where the server listens, and the passwords of `root` (ours) and `reader` (untrusted Cypher)."""

    bolt_port: int
    http_port: int
    root_password: str
    reader_password: str

    @property
    def url(self) -> str:
        return f"bolt://127.0.0.1:{self.bolt_port}"


@dataclass(frozen=True)
class EmbeddedStatus:
    running: bool
    address: str = ""
    pid: int | None = None
    java_pid: int | None = None
    memory_bytes: int | None = None


def start(settings: Settings) -> Endpoint:
    """The running server of `settings.home`, started if need be (about 3 s). Raises StoreUnavailable in one sentence."""
    folder = _make_folder(settings.embedded_folder)
    try:
        with FileLock(folder / "server.lock", timeout=owner.START_SECONDS + owner.STOP_SECONDS):
            endpoint = _running(folder)
            if endpoint is None:
                endpoint = _launch(folder, settings)
            os.utime(folder / "server.json")  # tells the idle watch that somebody is about to connect
            return endpoint
    except Timeout as error:
        raise StoreUnavailable(
            f"Another process has been starting or stopping the graph server in {folder} for minutes.",
            "Run `atlas down`, then try again.",
        ) from error
    except OSError as error:
        raise _folder_trouble(folder, error) from error


def stop(home: Path) -> bool:
    """Stops the server of `home`; False when none was running."""
    folder = home / "graph"
    if not folder.is_dir():
        return False
    state = _state(folder)
    process = owner.same_process(state.get("owner"))
    java = owner.same_process(state.get("java"))
    for each in (process, java):
        if each is None:
            continue
        if each is java and process is not None:
            break  # its owner has stopped it
        with suppress(psutil.NoSuchProcess):
            each.terminate()
            if not _ended(state["owner" if each is process else "java"], owner.STOP_SECONDS + 5):
                each.kill()
    if java is not None and owner.same_process(state.get("java")) is not None:
        java.kill()
    if process is not None or java is not None:
        _forget(folder, state)
    return process is not None or java is not None


def _ended(who: dict[str, Any], seconds: float) -> bool:
    """Waits until that process has ended. psutil's own wait would take a child of a living starter, not yet reaped, for alive."""
    deadline = time.monotonic() + seconds
    while owner.same_process(who) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def status(home: Path) -> EmbeddedStatus:
    """What runs for `home`; starts nothing."""
    state = _state(home / "graph")
    process, java = owner.same_process(state.get("owner")), owner.same_process(state.get("java"))
    if process is None or java is None or state.get("state") != "ready":
        return EmbeddedStatus(running=False)
    try:
        memory = java.memory_info().rss
    except psutil.Error:
        memory = None
    return EmbeddedStatus(True, f"bolt://127.0.0.1:{state['bolt_port']}", process.pid, java.pid, memory)


def _running(folder: Path) -> Endpoint | None:
    """The server that answers, after waiting for one that is starting; None when there is none."""
    deadline = time.monotonic() + owner.START_SECONDS
    while time.monotonic() < deadline:
        state = _state(folder)
        if owner.same_process(state.get("owner")) is None:
            return None
        if state.get("state") == "ready":
            if owner.same_process(state.get("java")) is None:
                time.sleep(0.1)  # its owner is about to notice and to leave
                continue
            return _endpoint(state)
        time.sleep(0.05)
    return None


def _launch(folder: Path, settings: Settings) -> Endpoint:
    package = _package()
    log = folder / "server.log"
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(folder / "server.log.old")
    begin = log.stat().st_size if log.exists() else 0
    process = _spawn(folder, log, package, settings)
    deadline = time.monotonic() + owner.START_SECONDS + 10
    while time.monotonic() < deadline:
        state = _state(folder)
        if state.get("state") == "ready" and owner.same_process(state.get("owner")) is not None:
            return _endpoint(state)
        code = process.poll()
        if code == owner.FOLDER_TAKEN and not state:
            time.sleep(0.2)  # an owner that is just leaving: it holds the folder until it is gone
            process = _spawn(folder, log, package, settings)
        elif code is not None and code != owner.FOLDER_TAKEN:
            break
        time.sleep(0.05)
    raise _why(log, begin)


def _spawn(folder: Path, log: Path, package: Path, settings: Settings) -> subprocess.Popen:
    heap, idle = settings.embedded_heap, str(settings.embedded_idle_seconds)
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-P", owner.__file__, str(folder), heap, idle, str(package)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _why(log: Path, begin: int) -> StoreUnavailable:
    """Why the server did not start, from what it wrote to its log after `begin`."""
    text = _log_since(log, begin)
    if "No space left on device" in text or disk_is_full(log.parent):
        return StoreUnavailable(
            f"The disk of {log.parent} is full, so the embedded graph server cannot start.",
            "Free some space, then try again.",
        )
    if "is locked by another" in text or "LockException" in text:
        return StoreUnavailable(
            f"Another graph server that does not belong to this atlas has the folder {log.parent} open.",
            "Stop that process, then try again.",
        )
    return StoreUnavailable(
        f"The embedded graph server did not start; its log {log} ends with: {_telling_line(text)}.",
        _OWN_SERVER,
    )


def _log_since(log: Path, begin: int) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(begin)
            return file.read()[-200_000:].decode("utf-8", "replace")
    except OSError:
        return ""


def _telling_line(text: str) -> str:
    """The last line that tells something: not the owner's own, not a stack frame."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_SAYS_NOTHING) and " owner: " not in line]
    return (telling or lines or ["(nothing)"])[-1][:300].rstrip(".")


def _package() -> Path:
    spec = find_spec("arcadedb_embedded")
    folder = Path(next(iter(spec.submodule_search_locations or []))) if spec else None
    if folder is None or not any((folder / "jre" / "bin" / name).exists() for name in ("java", "java.exe")):
        raise StoreUnavailable("The embedded graph server is not available for this platform.", _OWN_SERVER)
    return folder


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise _folder_trouble(folder, error) from error
    return folder


def _folder_trouble(folder: Path, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(
        f"The folder {folder} of the embedded graph server cannot be used: {error.strerror or error}.",
        "Free some space or set ATLAS_HOME to a folder that can be written.",
    )


def _state(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / "server.json").read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _forget(folder: Path, state: dict[str, Any]) -> None:
    if _state(folder) == state:
        (folder / "server.json").unlink(missing_ok=True)


def _endpoint(state: dict[str, Any]) -> Endpoint:
    passwords = state["passwords"]
    return Endpoint(state["bolt_port"], state["http_port"], passwords["root"], passwords["reader"])


def leftover(home: Path) -> Literal["none", "alive", "orphan", "stale"]:
    """What server.json of `home` speaks of: a server with its owner, a Java without one, or nothing that runs."""
    folder = home / "graph"
    if not (folder / "server.json").exists():
        return "none"
    state = _state(folder)
    if owner.same_process(state.get("owner")) is not None:
        return "alive"
    return "orphan" if owner.same_process(state.get("java")) is not None else "stale"


def clear_leftover(home: Path) -> None:
    """Stop a Java without its owner and remove a note of nothing; a living server is left alone."""
    with FileLock(home / "graph" / "server.lock", timeout=owner.START_SECONDS + owner.STOP_SECONDS):
        if leftover(home) == "orphan":
            stop(home)
        if leftover(home) == "stale":
            (home / "graph" / "server.json").unlink(missing_ok=True)


def is_running(folder: Path, endpoint: Endpoint) -> bool:
    """Whether the server that `start` gave as `endpoint` is still there (one small file is read; nothing is sent)."""
    state = _state(folder)
    return (
        state.get("state") == "ready"
        and _endpoint(state) == endpoint
        and owner.same_process(state.get("java")) is not None
    )
