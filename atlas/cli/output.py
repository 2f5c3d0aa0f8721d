"""What the command line prints: one JSON document with --json, else text; progress and logs go to stderr."""

from __future__ import annotations

import contextlib
import json
import math
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

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def stdout() -> Console:
    console = Console(highlight=False)
    # a pipe has no width to fit into: rows stay on one line, for grep and for the eye
    return console if console.is_terminal else Console(highlight=False, width=400)


def stderr() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def emit(value: BaseModel | list | dict, as_json: bool, text: Callable[[Console], None]) -> None:
    """Print `value` as JSON, or call `text` with a console."""
    if as_json:
        sys.stdout.write(json.dumps(plain(value), ensure_ascii=False, allow_nan=False) + "\n")
        sys.stdout.flush()
    else:
        text(stdout())


def plain(value: Any) -> Any:
    """JSON-able copy; NaN and infinity, which JSON lacks, become null."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def emit_error(error: AtlasError, as_json: bool) -> None:
    if as_json:
        body = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
        sys.stdout.write(json.dumps({"error": body}, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    stderr().print(Text(str(error)))


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]], *, title: str | None = None) -> Table:
    """A plain table; cells are shown as they are, never as markup. Numbers are right-aligned."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    out = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        numeric = bool(cells) and all(_is_number(row[number]) for row in cells)
        out.add_column(name, justify="right" if numeric else "left", overflow="fold")
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
    # control characters from files must not reach the terminal
    return "".join(char if char.isprintable() else "␤" if char == "\n" else "�" for char in str(value))


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
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=None)

        def report(done: int, total: int, what: str = "") -> None:
            bar.update(task, completed=done, total=total, description=f"{description} {what}".rstrip())

        yield report
