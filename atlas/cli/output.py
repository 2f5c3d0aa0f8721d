"""What the command line prints: one JSON document with --json, else text; progress and logs go to stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from atlas.errors import AtlasError
from atlas.plain import plain

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


class PlainConsole(Console):
    """Prints text as it is: no markup, no emoji codes, and control characters from files never reach the terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would end the process here, as a failure

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(visible(each) if isinstance(each, str) else each for each in objects), **options)


def stdout() -> Console:
    console = PlainConsole()
    # a pipe has no width to fit into: rows stay on one line, for grep and for the eye
    return console if console.is_terminal else PlainConsole(width=400)


def stderr() -> Console:
    return PlainConsole(stderr=True, soft_wrap=True)


def visible(text: str) -> str:
    """`text` with control characters replaced by signs that can be seen; line ends and tabs stay."""
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)


def emit(value: BaseModel | list | dict, as_json: bool, text: Callable[[Console], None]) -> None:
    """Print `value` as JSON, or call `text` with a console. Raises AtlasError when stdout cannot be written."""
    try:
        if as_json:
            _print_json(plain(value))
        else:
            text(stdout())
            sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()  # the reader of our output went away: not our failure
    except OSError as error:
        drop_stdout()
        reason = error.strerror or type(error).__name__
        raise AtlasError(f"The output cannot be written: {reason}.", "Send it somewhere else.") from error


def drop_stdout() -> None:
    """Nothing more can be printed: not now, and not when Python empties its buffers at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_json(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a file name that is no UTF-8, or a terminal that is not
        text = json.dumps(value, allow_nan=False)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def emit_error(error: AtlasError, as_json: bool) -> None:
    if as_json:
        body = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
        try:
            _print_json({"error": body})
        except OSError:  # stderr still says it
            drop_stdout()
    stderr().print(str(error))


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]], *, title: str | None = None) -> Table:
    """A plain table; cells are shown as they are, never as markup. Numbers are right-aligned."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    out = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        numeric = bool(cells) and all(_is_number(row[number]) for row in cells)
        out.add_column(visible(name), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        out.add_row(*(Text(cell) for cell in row))
    return out


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return visible(str(value).replace("\n", "␤").replace("\t", " "))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell == "-"
    return True


def _silent(done: int, total: int, what: str = "") -> None:
    pass


@contextlib.contextmanager
def progress_bar(description: str, quiet: bool = False) -> Iterator[Callable[[int, int, str], None]]:
    """Yields `report(done, total, what)`; draws on stderr when that is a terminal."""
    console = stderr()
    if quiet or not console.is_terminal:
        yield _silent
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=None)

        def report(done: int, total: int, what: str = "") -> None:
            bar.update(task, completed=done, total=total, description=_cell(f"{description} {what}".rstrip()))

        yield report
