"""The lines of an open bundle, and the look at all of it that comes before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from pydantic import ValidationError

from atlas.bundle.archive import BundleReader
from atlas.bundle.lines import (
    BACKUP_LINES,
    EXPORT_LINES,
    CircuitLine,
    CollectionLine,
    InterventionLine,
    Line,
    MeasurementLine,
    ModelLine,
    latest,
)
from atlas.catalog import circuits, models
from atlas.catalog.migrate import HEAD
from atlas.circuit import Circuit
from atlas.circuit_file import from_bytes
from atlas.errors import InputRejected, SchemaMismatch

Report = Callable[[int, int, str], None]
L = TypeVar("L", bound=Line)


def lines(reader: BundleReader, kind: type[L]) -> Iterator[L]:
    """The records of a kind, one part of them in memory. Raises InputRejected naming the member and the line."""
    context = {"latest": latest()} if reader.manifest.kind == "export" else None
    for name in reader.parts(kind.kind):
        for number, data in enumerate(reader.read(name).splitlines(), start=1):
            try:
                yield kind.model_validate_json(data, context=context)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = ".".join(map(str, first["loc"])) or "the line"
                what = first["msg"].removeprefix("Value error, ").rstrip(".")
                raise _rejected(reader, name, number, f"{where}: {what}") from error


def circuit_of(reader: BundleReader, circuit_id: str) -> tuple[Circuit, bytes]:
    """The circuit and its file. Raises InputRejected when the content has another id."""
    name = f"circuits/{circuit_id}.safetensors"
    data = reader.read(name)
    circuit = from_bytes(data, f"{name} in {reader.path}")
    if circuit.id != circuit_id:
        raise reader.damaged(f"{name} holds the circuit {circuit.id}", name)
    return circuit, data


def check_whole(reader: BundleReader, report: Report) -> None:
    """Read every member. Raises InputRejected or SchemaMismatch for whatever could stop the writing half way."""
    if reader.manifest.catalog_schema > HEAD:
        raise SchemaMismatch(
            f"{reader.path} was written by a newer version of this program (catalog schema "
            f"{reader.manifest.catalog_schema}; this one knows {HEAD}).",
            "Upgrade circuit-atlas.",
        )
    allowed = BACKUP_LINES if reader.manifest.kind == "backup" else EXPORT_LINES
    if unknown := reader.kinds() - {kind.kind for kind in allowed}:
        raise InputRejected(
            f"{reader.path} holds records of the kind {min(unknown)!r}, which no {reader.manifest.kind} has.",
            "Ask for the file again.",
        )
    ids = set(reader.circuits())
    for kind in allowed:
        report(0, 0, f"checking {kind.kind}")
        count, last = 0, None
        for line in lines(reader, kind):
            if last is not None and line.key <= last:
                raise _rejected(reader, kind.kind, count + 1, f"{line.key!r} is out of order or there twice")
            last = line.key
            count += 1
            _check_references(reader, line, ids, count)
        if count != reader.manifest.counts.get(kind.kind, 0):
            raise reader.damaged(
                f"it has {count} records of the kind {kind.kind}, the manifest says otherwise", kind.kind
            )
    described = {line.id for line in lines(reader, CircuitLine)}
    if described != ids:
        raise reader.damaged(f"the circuit {min(described ^ ids)} has no file or no record")
    for number, circuit_id in enumerate(sorted(ids)):
        report(number, len(ids), f"checking {circuit_id}")
        circuits.check(circuit_of(reader, circuit_id)[0])


def _check_references(reader: BundleReader, line: Line, ids: set[str], number: int) -> None:
    """What a later step would stumble over: names that are folders, members that are not in the file."""
    if isinstance(line, ModelLine):
        for name in (line.name, *line.aliases):
            models.check_name(name, "model")
        for part in line.sets:
            for name in (part.name, *part.aliases):
                models.check_name(name, "transcoder set")
    if isinstance(line, InterventionLine | MeasurementLine) and line.circuit_id not in ids:
        raise _rejected(reader, line.kind, number, f"the circuit {line.circuit_id} is not in the file")
    if isinstance(line, CollectionLine) and (lost := {member.circuit for member in line.members} - ids):
        raise _rejected(reader, line.kind, number, f"the circuit {min(lost)} is not in the file")


def _rejected(reader: BundleReader, name: str, number: int, what: str) -> InputRejected:
    return InputRejected(
        f"{reader.path} cannot be used: {name} line {number}, {what}.", "Ask for the file again.", f"{name}:{number}"
    )
