"""`atlas import` and `atlas export`."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from atlas.cli.main import app, opened
from atlas.cli.output import Json, emit, progress_bar, table
from atlas.errors import InputRejected, SchemaMismatch, UsageError
from atlas.records import BundleImport, ImportResult, RejectedFile

if TYPE_CHECKING:
    from atlas.api import Atlas


class ExportFormat(StrEnum):
    neuronpedia = "neuronpedia"
    graphml = "graphml"
    circuit = "circuit"


@app.command("import")
def import_files(
    paths: Annotated[list[Path], typer.Argument(help="Graph files or folders of them.", metavar="PATH...")],
    collection: Annotated[
        str | None, typer.Option("--in", help="Collection to put the circuits in; made if it is new.")
    ] = None,
    json: Json = False,
) -> int:
    """Load graph files of other tools, circuit files, or whole atlases (.atlas) into the atlas."""
    from ingest.load import import_paths

    bundles = [path for path in paths if path.suffix == ".atlas" and not path.is_dir()]
    graphs = [path for path in paths if path not in bundles]
    with opened() as atlas, progress_bar("Importing", json) as report:
        result = import_paths(atlas, graphs, collection=collection, progress=report)
        for path in bundles:
            _add_bundle(result, atlas, path, collection, report)

    def text(console):
        known = sum(item.already for item in result.loaded)
        console.print(
            f"{len(result.loaded) - known} loaded, {known} already in the atlas, {len(result.rejected)} rejected"
        )
        if result.loaded:
            rows = [
                [i.path, i.circuit, i.nodes, i.edges, "already" if i.already else "new", _mended(i.mended)]
                for i in result.loaded
            ]
            console.print(table(["file", "circuit", "nodes", "edges", "", "mended"], rows))
        for bundle in result.bundles:
            _show_bundle(console, bundle)
        if result.rejected:
            console.print(table(["rejected", "reason"], [[item.path, item.reason] for item in result.rejected]))

    emit(result, json, text)
    return 1 if result.rejected else 0


def _mended(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {what}" for what, number in counts.items())


def _add_bundle(
    result: ImportResult, atlas: Atlas, path: Path, collection: str | None, report: Callable[[int, int, str], None]
) -> None:
    from atlas.bundle import import_bundle

    try:
        brought = import_bundle(atlas, path, report, collection=collection)
    except (InputRejected, SchemaMismatch) as error:
        result.rejected.append(RejectedFile(path=str(path), reason=str(error)))
        return
    result.loaded += brought.loaded
    result.bundles += brought.bundles


def _show_bundle(console: Console, bundle: BundleImport) -> None:
    console.print(
        f"{bundle.path}, made by {bundle.made_by} at {bundle.made_at[:19]}: {counted(bundle.added) or 'nothing'} new"
    )
    if bundle.left_out:
        console.print(f"left out: {counted(bundle.left_out)}")
    if bundle.signed:
        console.print(f"You are no admin here: what others wrote is signed as {bundle.signed!r}.")
    for conflict in bundle.conflicts:
        console.print(conflict)


def counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in counts.items() if number)


@app.command("export")
def export_circuit(
    circuit: Annotated[str | None, typer.Argument(help="Circuit id, unique id prefix or unique name.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
    format: Annotated[ExportFormat | None, typer.Option("--format", help="File format of one circuit.")] = None,
    whole: Annotated[
        bool, typer.Option("--all", help="Write all circuits, labels, annotations and history to one .atlas file.")
    ] = False,
    json: Json = False,
) -> None:
    """Write one circuit to a file, or with --all the whole atlas."""
    if output is None:
        raise UsageError("No file is named.", "Pass one with -o FILE.")
    if whole:
        _export_all(circuit, output, format, json)
        return
    if circuit is None:
        raise UsageError("No circuit is named.", "Name one, or pass --all for the whole atlas.")
    if format is None:
        raise UsageError("No file format is named.", "Pass --format neuronpedia, graphml or circuit.")
    from ingest.load import export_bytes

    with opened() as atlas:
        data = export_bytes(atlas, circuit, format.value)
    try:
        _write_whole(output, data)
    except OSError as error:
        raise InputRejected(
            f"{output} cannot be written: {error.strerror}.", "Choose another place with -o."
        ) from error
    emit({"path": str(output)}, json, lambda console: console.print(str(output), markup=False))


def _export_all(circuit: str | None, output: Path, format: ExportFormat | None, json: bool) -> None:
    if circuit is not None or format is not None:
        raise UsageError("--all writes everything, in its own format.", "Leave the circuit and --format out.")
    if output.suffix != ".atlas":
        raise UsageError(f"{output} has not the ending .atlas.", "`atlas import` knows such files by it.")
    from atlas.bundle import export_all

    with opened() as atlas, progress_bar("Exporting", json) as report:
        result = export_all(atlas, output, report)
    emit(
        result, json, lambda console: console.print(f"{result.path}: {counted(result.counts)}, {result.bytes:,} bytes")
    )


def _write_whole(output: Path, data: bytes) -> None:
    """All of `data` or the file as it was. Raises OSError."""
    place = output.resolve()  # through a link, which stays a link
    if place.exists() and not place.is_file():
        place.write_bytes(data)  # a device or a pipe is written to; replacing it by a file would break the machine
        return
    part = place.parent / f".{os.getpid()}.part"
    try:
        part.write_bytes(data)
        part.replace(place)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
