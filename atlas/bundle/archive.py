"""The file itself: a zip whose manifest lists the sha256 of every member. Written and read one member at a time.

Nothing in it is ever unpacked to a path, and nothing is believed before its length and hash were checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atlas.errors import InputRejected, SchemaMismatch

VERSION = 1  # of this file format; a reader of each released version stays
MANIFEST = "manifest.json"
SUFFIX = ".atlas"
CIRCUITS = re.compile(r"circuits/(c\d{1,4}-[0-9a-f]{16,128})\.safetensors")
RECORDS = re.compile(r"([a-z]{1,32})/\d{6}\.jsonl")

_MAX_RATIO = 200  # unpacked to packed; the densest real bundle has about 10
_FREE_RATIO_BYTES = 32 * 2**20  # below this no ratio is suspect
_MAX_DIRECTORY_BYTES = 256 * 2**20  # the list of members, which Python holds in memory
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    ValueError,  # also UnicodeDecodeError
    EOFError,
    OSError,
    OverflowError,
)


class Member(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class EncoderName(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    dimension: int = Field(gt=0, le=1_000_000)


class Manifest(BaseModel):
    """What a bundle says about itself. `counts` are records by kind."""

    model_config = ConfigDict(extra="forbid")
    format: Literal["circuit-atlas"] = "circuit-atlas"
    version: int = VERSION
    kind: Literal["export", "backup"]
    program: str = Field(description="version of the program that wrote it")
    catalog_schema: str = Field(description="schema revision of the catalog it was read from", max_length=64)
    catalog: str | None = Field(None, description="id of the catalog it was read from")
    made_at: str
    made_by: str
    encoder: EncoderName | None = Field(None, description="what made the embeddings of the labels")
    counts: dict[str, int] = Field(default_factory=dict)
    members: dict[str, Member] = Field(default_factory=dict)


class BundleWriter:
    """Writes members in the order given; memory holds one member and the list of names."""

    def __init__(self, file: IO[bytes], manifest: Manifest) -> None:
        self.manifest = manifest
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED)

    def add(self, name: str, data: bytes) -> None:
        self.manifest.members[name] = Member(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        self._put(name, data)

    def finish(self) -> None:
        """Write the manifest, which must come last: it lists all the others."""
        self._put(MANIFEST, self.manifest.model_dump_json().encode())
        self._zip.close()

    def _put(self, name: str, data: bytes) -> None:
        info = zipfile.ZipInfo(name, _zip_time(self.manifest.made_at))
        info.external_attr = 0o600 << 16
        # Weights hardly shrink, and the fastest level finds what there is; text shrinks well at the usual one.
        level = 1 if name.startswith("circuits/") else 6
        self._zip.writestr(info, data, zipfile.ZIP_DEFLATED, level)


def _zip_time(at: str) -> tuple[int, int, int, int, int, int]:
    numbers = [int(part) for part in re.split(r"[-T:.+]", at)[:6]]
    return tuple(numbers)  # type: ignore[return-value]


class BundleReader:
    """An open bundle whose list of members has been checked against its manifest. `max_bytes` limits each member unpacked."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._file = _opened(path)
        try:
            _check_directory(self._file, path)
            with self._damage():
                self._zip = zipfile.ZipFile(self._file)
            self._members = self._checked_members()
            self.manifest = self._read_manifest()
            self._compare_names()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._zip.close()
        self._file.close()

    def circuits(self) -> list[str]:
        """Ids of the circuit files, sorted."""
        return sorted(found[1] for name in self._members if (found := CIRCUITS.fullmatch(name)))

    def parts(self, kind: str) -> list[str]:
        """Names of the members with records of this kind, in order."""
        return sorted(name for name in self._members if (found := RECORDS.fullmatch(name)) and found[1] == kind)

    def kinds(self) -> set[str]:
        return {found[1] for name in self._members if (found := RECORDS.fullmatch(name))}

    def read(self, name: str) -> bytes:
        """A member, with the length and hash that the manifest lists. Raises InputRejected."""
        said = self.manifest.members[name]
        data = self._read(name)
        if len(data) != said.bytes or hashlib.sha256(data).hexdigest() != said.sha256:
            raise self.damaged(f"{name} is not what the manifest lists (sha256)", name)
        return data

    def damaged(self, what: str, place: str = "") -> InputRejected:
        return InputRejected(f"{self.path} is damaged: {what}.", "Make or copy the file again.", place)

    def _read(self, name: str) -> bytes:
        with self._damage(name), self._zip.open(self._members[name]) as member:
            return member.read(self._members[name].file_size)  # without a number, zipfile unpacks up to 2 GiB at once

    def _checked_members(self) -> dict[str, zipfile.ZipInfo]:
        found: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            name = info.filename
            if name in found:
                raise self.damaged(f"the member {name} is in it twice", name)
            if not (name == MANIFEST or CIRCUITS.fullmatch(name) or RECORDS.fullmatch(name)):
                raise InputRejected(
                    f"{self.path} holds {name!r}, which is no part of a bundle.",
                    "Pass a file that `atlas export --all` or `atlas backup` wrote.",
                    name,
                )
            if info.file_size > self.max_bytes:
                raise InputRejected(
                    f"{self.path}: {name} has {info.file_size} bytes, more than the {self.max_bytes} allowed.",
                    "Raise ATLAS_IMPORT_MAX_BYTES if you trust the file.",
                    name,
                )
            found[name] = info
        unpacked = sum(info.file_size for info in found.values())
        if unpacked > max(_FREE_RATIO_BYTES, _MAX_RATIO * os.fstat(self._file.fileno()).st_size):
            raise InputRejected(
                f"{self.path} unpacks to {unpacked} bytes, more than {_MAX_RATIO} times its size.",
                "No bundle is that dense; ask for the file again.",
            )
        return found

    def _read_manifest(self) -> Manifest:
        if MANIFEST not in self._members:
            raise InputRejected(
                f"{self.path} is a zip file without a {MANIFEST}.",
                "Pass a file that `atlas export --all` or `atlas backup` wrote.",
                MANIFEST,
            )
        data = self._read(MANIFEST)
        version = _version(data)
        if version is not None and version > VERSION:
            raise SchemaMismatch(
                f"{self.path} was written by a newer version of this program (file format {version}; "
                f"this one reads up to {VERSION}).",
                "Upgrade circuit-atlas.",
            )
        try:
            return Manifest.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "its content"
            raise self.damaged(f"{MANIFEST} cannot be read ({where}: {first['msg']})", MANIFEST) from error

    def _compare_names(self) -> None:
        listed = set(self.manifest.members)
        there = set(self._members) - {MANIFEST}
        for name in sorted(listed - there):
            raise self.damaged(f"{name[:200]!r} is missing", name)
        for name in sorted(there - listed):
            raise self.damaged(f"{name} is not listed in the manifest", name)
        for name, member in self.manifest.members.items():
            if member.bytes != self._members[name].file_size:
                raise self.damaged(f"{name} has not the length that the manifest lists", name)

    @contextlib.contextmanager
    def _damage(self, name: str = "its list of members") -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            raise self.damaged(f"{name} cannot be read", name) from error


class _AnyManifest(BaseModel):
    """The one thing that a manifest of every version says."""

    version: int


def _version(data: bytes) -> int | None:
    try:
        return _AnyManifest.model_validate_json(data).version
    except ValidationError:
        return None


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputRejected(f"{path} cannot be read: {reason}.", "Check the path and its mode.") from error


_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCAL = struct.Struct("<4s5H3L2H")


def _check_directory(file: IO[bytes], path: Path) -> None:
    """Refuse, before zipfile reads it into memory, a list of members that is missing or absurdly long."""
    try:
        length = os.fstat(file.fileno()).st_size
        file.seek(max(0, length - _END.size - 2**16))
        tail = file.read()
        place = tail.rfind(b"PK\x05\x06")
        whole = place >= 0 and len(tail) - place >= _END.size
        size = _END.unpack_from(tail, place)[5] if whole else 0
        wide = tail.rfind(b"PK\x06\x06", 0, max(place, 0))
        if size == 0xFFFFFFFF and wide >= 0:
            size = _END64.unpack_from(tail, wide)[8]
        begin = _begin(file)
    except (OSError, struct.error) as error:
        raise InputRejected(f"{path} cannot be read as a zip file.", "Make or copy the file again.") from error
    if begin is None:
        raise InputRejected(
            f"{path} is not an .atlas file.", "Pass a file that `atlas export --all` or `atlas backup` wrote."
        )
    if not whole:
        last = _cut_member(file, length)
        raise InputRejected(
            f"{path} is cut off after {length} bytes, in or after the member {last}.",
            "Make or copy the file again.",
            last,
        )
    if size > _MAX_DIRECTORY_BYTES:
        raise InputRejected(
            f"{path} has a list of members of {size} bytes, more than the {_MAX_DIRECTORY_BYTES} allowed.",
            "Ask for the file again.",
        )


def _begin(file: IO[bytes]) -> bytes | None:
    file.seek(0)
    start = file.read(4)
    return start if start in (b"PK\x03\x04", b"PK\x05\x06") else None


def _cut_member(file: IO[bytes], length: int) -> str:
    """The last member that begins in a file without an end: our writer puts every length before the data."""
    place, name = 0, "the first"
    while place + _LOCAL.size <= length:
        file.seek(place)
        head = _LOCAL.unpack(file.read(_LOCAL.size))
        if head[0] != b"PK\x03\x04":
            break
        name = file.read(head[9]).decode("utf-8", "replace")[:200]
        place += _LOCAL.size + head[9] + head[10] + head[7]
    return name
