"""Arrays of an .npz file, memory-mapped where they are stored uncompressed.

An .npz is a zip of .npy files. `numpy.load` always reads the members; here the place of an uncompressed one in the zip is
found and mapped, so that a row costs no more than its own bytes. Compressed members are read.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy

from atlas.errors import ModelRejected

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., length of the name, length of the extra field
_DAMAGES = (
    OSError,
    ValueError,
    EOFError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
)


def is_npz(file: Path) -> bool:
    """Whether the file begins as a zip does. Raises ModelRejected when it cannot be read."""
    try:
        with open(file, "rb") as stream:
            return stream.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise ModelRejected(f"{file} cannot be read.", "Fetch the set again.") from error


def read_npz(file: Path) -> dict[str, torch.Tensor]:
    """All arrays by name. Raises ModelRejected: damaged, or not of plain numbers."""
    try:
        with zipfile.ZipFile(file) as archive, open(file, "rb") as stream:
            return {
                member.filename.removesuffix(".npy"): _tensor(file, archive, stream, member)
                for member in archive.infolist()
                if member.filename.endswith(".npy")
            }
    except (*_DAMAGES, TypeError) as error:
        raise ModelRejected(f"{file} is not a readable .npz file.", "Fetch the set again.") from error


def _tensor(file: Path, archive: zipfile.ZipFile, stream: IO[bytes], member: zipfile.ZipInfo) -> torch.Tensor:
    if member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1:  # bit 0: encrypted
        array = _map(file, stream, member)
    else:
        with archive.open(member) as opened:
            array = npy.read_array(opened, allow_pickle=False)
    return torch.from_numpy(array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")))


def _map(file: Path, stream: IO[bytes], member: zipfile.ZipInfo) -> np.ndarray:
    stream.seek(member.header_offset)
    signature, name, extra = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise zipfile.BadZipFile(member.filename)
    begin = member.header_offset + _LOCAL_HEADER.size + name + extra
    stream.seek(begin)
    version = npy.read_magic(stream)
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, by_columns, dtype = header(stream)
    if dtype.hasobject or stream.tell() - begin + int(np.prod(shape)) * dtype.itemsize != member.file_size:
        raise ValueError(member.filename)
    if 0 in shape:
        return np.zeros(shape, dtype)
    # copy on write: never written, but torch wants memory that could be
    return np.memmap(file, dtype, mode="c", offset=stream.tell(), shape=shape, order="F" if by_columns else "C")
