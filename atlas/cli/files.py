"""`atlas import` and `atlas export`."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from atlas.cli.main import app, opened
from atlas.cli.output import Json, emit, progress_bar, table
from atlas.errors import InputRejected


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
    """Load graph files of other tools, or circuit files, into the atlas."""
    from ingest.load import import_paths

    with opened() as atlas, progress_bar("Importing", json) as report:
        result = import_paths(atlas, paths, collection=collection, progress=report)

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
        if result.rejected:
            console.print(table(["rejected", "reason"], [[item.path, item.reason] for item in result.rejected]))

    emit(result, json, text)
    return 1 if result.rejected else 0


def _mended(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {what}" for what, number in counts.items())


@app.command("export")
def export_circuit(
    circuit: Annotated[str, typer.Argument(help="Circuit id, unique id prefix or unique name.")],
    format: Annotated[ExportFormat, typer.Option("--format", help="File format.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")],
    json: Json = False,
) -> None:
    """Write one circuit to a file."""
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
