"""`atlas backup` and `atlas restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atlas.cli.files import counted
from atlas.cli.main import app, opened
from atlas.cli.output import Json, emit, progress_bar
from atlas.settings import load_settings


@app.command()
def backup(
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write; a file there is replaced.")],
    json: Json = False,
) -> None:
    """Write everything to one file: circuits, labels, history, accounts, jobs. Only you may read it: it holds hashes."""
    from atlas.backup import backup as write

    with opened() as atlas, progress_bar("Backing up", json) as report:
        result = write(atlas, output, report)
    emit(
        result,
        json,
        lambda console: console.print(
            f"{result.path}: {counted(result.counts)}; {result.bytes:,} bytes, written and read again "
            f"in {result.seconds:.1f} s"
        ),
    )


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `atlas backup` wrote.", metavar="FILE")],
    json: Json = False,
) -> None:
    """Fill an empty home or database from a backup, and build its graph. Everybody signs in again afterwards."""
    from atlas.backup import restore as fill

    with progress_bar("Restoring", json) as report:
        result = fill(load_settings(), file, report)
    emit(
        result,
        json,
        lambda console: console.print(
            f"{counted(result.counts)}, as of {result.made_at[:19]}, in {result.seconds:.1f} s", markup=False
        ),
    )
