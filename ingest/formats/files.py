"""Find graph files and read their bytes, unpacked and within limits."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from pathlib import Path
from typing import BinaryIO

from atlas.errors import InputRejected

SUFFIXES = (".json", ".json.gz", ".circuit", ".safetensors", ".pt", ".pth")
INDEX_NAME = "graph-metadata.json"  # an index beside the graphs, not a graph
GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
# Packed graph files unpack to 5 to 12 times their size; a much larger ratio is a file made to fill the memory.
_MAX_RATIO = 250
_RATIO_FREE = 16 * 2**20


def find_files(paths: list[str | Path] | tuple[str | Path, ...]) -> list[Path]:
    """The files to import, in order: a file is itself (whatever its name), a folder every graph file below it, sorted.

    A path that does not exist is returned too, so that reading it gives one rejected entry for it.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = []
        for folder, _, names in os.walk(path):
            inside += [Path(folder, name) for name in names if _is_graph_name(name)]
        found += sorted(inside)
    return found


def _is_graph_name(name: str) -> bool:
    return name != INDEX_NAME and not name.startswith(".") and name.lower().endswith(SUFFIXES)


def read_bytes(source: str | Path | bytes, name: str, limit: int) -> bytes:
    """The content of `source`, gunzipped when it starts like gzip, at most `limit` bytes. Raises InputRejected."""
    if isinstance(source, bytes):
        return _unpack(io.BytesIO(source), len(source), name, limit)
    path = Path(source)
    if path.exists() and not path.is_file():
        raise InputRejected(f"{name} is not a file.", "Pass a graph file or a folder of them.")
    try:
        with path.open("rb") as stream:
            return _unpack(stream, os.fstat(stream.fileno()).st_size, name, limit)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise InputRejected(f"{name} cannot be read: {reason}.", "Check the path and its permissions.") from error


def _unpack(stream: BinaryIO, size: int, name: str, limit: int) -> bytes:
    head = stream.read(2)
    stream.seek(0)
    if head != GZIP_MAGIC:
        if size > limit:
            raise _too_large(name, limit)
        return stream.read()
    parts: list[bytes] = []
    total = 0
    try:
        with gzip.GzipFile(fileobj=stream, mode="rb") as packed:
            while part := packed.read(_CHUNK):
                parts.append(part)
                total += len(part)
                if total > limit:
                    raise _too_large(name, limit)
                if total > _RATIO_FREE and total > _MAX_RATIO * size:
                    raise InputRejected(
                        f"{name} unpacks to more than {_MAX_RATIO} times its size, which no graph does.",
                        "Unpack it yourself if you trust it.",
                    )
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputRejected(f"{name} is a damaged gzip file.", "Download or pack it again.") from error
    return b"".join(parts)


def _too_large(name: str, limit: int) -> InputRejected:
    return InputRejected(
        f"{name} is larger than {limit} bytes unpacked.", "Raise ATLAS_IMPORT_MAX_BYTES if the file is wanted."
    )
