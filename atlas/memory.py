"""Keeps the memory of a process with many threads from growing through fragmentation."""

from __future__ import annotations

import contextlib
import ctypes
import sys

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h of glibc
LARGE_BYTES = 1 << 20  # blocks from here on are given back to the system when they are freed
# a batch's arrays are smaller and used again at once; mapping each anew takes a tenth of the time
LARGE_WHEN_TRACING = 2 << 20
ARENAS = 4


def limit_fragmentation(large_bytes: int = LARGE_BYTES) -> None:
    """Call before any thread is started. Does nothing where the C library is not glibc.

    By default glibc makes up to 8 heaps per core, one for each busy thread, and raises the size from which blocks are mapped
    one by one up to 32 MiB, so that a circuit's arrays leave holes in all of them. The resident set then creeps up although
    what is alive does not (benchmarks/users.py). Tracing on two threads takes a tenth less memory with it.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, ARENAS)
        mallopt(_M_MMAP_THRESHOLD, large_bytes)
