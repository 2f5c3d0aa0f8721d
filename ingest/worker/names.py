"""What a worker is called, the lock that keeps its name to one process, and whether the worker of a name is dead."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator

import psutil
import torch

from atlas.catalog import Catalog, workers
from atlas.errors import UsageError

SILENT_SECONDS = 3 * workers.HEARTBEAT_SECONDS
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def default_name(device: str) -> str:
    """Host and device, so that a worker that is started again goes by its old name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{socket.gethostname()}-{device}").strip("-._")[:80]


def full_device(device: torch.device) -> str:
    """`cuda` with its number, so that one GPU has one name."""
    if device.type == "cuda" and device.index is None:
        return f"cuda:{torch.cuda.current_device()}"
    return str(device)


def checked(name: str) -> str:
    """Raises UsageError for a name that could not name a lock file."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"The worker name {name[:80]!r} cannot be used.",
            "Use up to 80 letters, digits, dots, dashes and underscores, a letter or digit first.",
        )
    return name


def lock_name(worker: str) -> str:
    return f"worker-{worker}"


class NameLock:
    """Holds names of this catalog until `release` or the end of the process, however it ends."""

    def __init__(self, catalog: Catalog, *names: str) -> None:
        self._catalog = catalog
        self._names = names
        self._held: dict[str, contextlib.ExitStack] = {}

    def acquire(self) -> str | None:
        """Take all names; returns one that another process holds, or None."""
        for name in self._names:
            stack = contextlib.ExitStack()
            if not stack.enter_context(self._catalog.lock(name, 0)):
                stack.close()
                self.release()
                return name
            self._held[name] = stack
        return None

    def keep(self) -> str | None:
        """Take again what a restart of the database server has dropped; returns a name that is lost to another process.

        To be called after every failure to reach the catalog and now and then without one.
        """
        if self._catalog.is_sqlite:
            return None  # a lock file goes with the process only
        for name in self._names:
            stack = contextlib.ExitStack()
            if stack.enter_context(self._catalog.lock(name, 0)):
                _close(self._held.pop(name, None))  # ours was gone: this one is new
                self._held[name] = stack
            else:
                stack.close()  # held, by us as far as can be told; the worker row says if not
        return None

    def release(self) -> None:
        for stack in self._held.values():
            _close(stack)
        self._held.clear()


def _close(stack: contextlib.ExitStack | None) -> None:
    if stack is not None:
        with contextlib.suppress(Exception):  # its connection may be gone, and the lock with it
            stack.close()


class Others:
    """The other workers of the queue, as this one sees them.

    Their silence is measured by this worker's clock, from when their last sign of life was first seen: clocks of two hosts
    need not agree.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._seen: dict[str, tuple[str, float]] = {}

    @contextlib.contextmanager
    def if_dead(self, worker: str) -> Iterator[bool]:
        """Whether the worker of that name is dead; while this is open no new one can start under the name.

        Dead is who does not hold the lock of the name and has stopped, has no process on this host, or has given no sign of
        life for `SILENT_SECONDS`; or who, lock or not, has given none for `workers.LOST_SECONDS` (a host that hangs).
        """
        with self._catalog.read() as session:
            row = workers.get(session, worker)
        silent = self._silence(worker, row.alive_at if row is not None else "")
        with self._catalog.lock(lock_name(worker), 0) as free:
            if not free:
                yield silent > workers.LOST_SECONDS
                return
            here = row is not None and row.host == socket.gethostname()
            gone = row is None or row.stopped_at is not None
            yield gone or (here and not _runs(row.pid)) or silent > SILENT_SECONDS  # type: ignore[union-attr]

    def _silence(self, worker: str, stamp: str) -> float:
        now = time.monotonic()
        before, since = self._seen.get(worker, ("", now))
        if stamp != before or worker not in self._seen:
            self._seen[worker] = (stamp, now)
            return 0.0
        return now - since


def _runs(pid: int) -> bool:
    return pid != os.getpid() and psutil.pid_exists(pid)
