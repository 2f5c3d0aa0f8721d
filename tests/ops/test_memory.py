"""Fragmentation: after a large block was freed, the next one is still mapped alone, so that freeing it gives it back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, sys
from atlas import memory

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
if sys.argv[1] == "limited":
    memory.limit_fragmentation()
libc.free(libc.malloc(16 << 20))
before = libc.mallinfo2().hblkhd
libc.malloc(8 << 20)
print((libc.mallinfo2().hblkhd - before) >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library is left as it is")
@pytest.mark.parametrize(("how", "mapped"), [("plain", 0), ("limited", 8)])
def test_large_blocks_are_mapped_alone_whatever_was_freed_before(how: str, mapped: int) -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    assert int(ran.stdout) == mapped
