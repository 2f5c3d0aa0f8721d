"""How much memory there is, and what running out of it looks like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from atlas.errors import ModelRejected

T = TypeVar("T")
GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def available() -> int:
    """Bytes that this process can still take: free on the machine, and within the limits of its control groups."""
    free = psutil.virtual_memory().available
    for limit, used, files in _limits():
        free = min(free, max(limit - used + files, 0))
    return free


def threads_that_fit(device: torch.device, bytes_each: int) -> int:
    """How many pieces of work of so many bytes are done beside one another: one on a GPU, on a CPU as many as torch has threads
    and an eighth of the free memory can hold."""
    if device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), available() // 8 // max(bytes_each, 1)))


def _limits() -> Iterator[tuple[int, int, int]]:
    """Of this process's group and those above it: limit, used, and of that what is files, given up when it is needed."""
    with suppress(OSError):  # another system
        for line in OWN_GROUP.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                base, names, files = GROUPS, ("memory.max", "memory.current"), "inactive_file"
            elif "memory" in controllers.split(","):
                base, files = GROUPS / "memory", "total_inactive_file"
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            else:
                continue
            inner = base / path.lstrip("/")  # inside a container the path can be that of the machine outside
            for group in (inner, *inner.parents):
                if group.is_relative_to(base):
                    with suppress(OSError, ValueError):  # no limit
                        limit, used = (int((group / name).read_text()) for name in names)
                        rows = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
                        yield limit, used, int(rows.get(files, 0))


def if_it_fits(
    work: Callable[[], T], rows: int, single: str, advice: str = "Use a shorter prompt or another device."
) -> T | None:
    """What `work` gives; None when memory ran out on the way, so that a batch of fewer than these rows can be tried.

    Raises ModelRejected when there is one row only. single: what one row is, in words.
    """
    try:
        return work()
    except (MemoryError, RuntimeError) as error:  # torch's own are RuntimeErrors
        if not _out_of_memory(error):
            raise
        if rows <= 1:
            raise ModelRejected(f"There is not enough memory for a single {single}.", advice) from error
    # outside of the block, at whose end the exception lets go of the failed batch's tensors
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return None


def _out_of_memory(error: Exception) -> bool:
    # on the CPU torch has no class of its own for it
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
