"""What the verbs of causal work share: where a circuit's model is, files of prompts, checks of options."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from atlas.cli.main import extra
from atlas.errors import InputRejected, UsageError
from atlas.records import Record

if TYPE_CHECKING:
    from atlas.api import Atlas

R = TypeVar("R", bound=Record)

Circuit = Annotated[str, typer.Argument(help="Circuit id, unique id prefix or unique name.")]
Model = Annotated[
    str | None, typer.Option(help="Folder or hub name of the circuit's model, where no profile of atlas.toml names it.")
]
Transcoders = Annotated[str | None, typer.Option(help="The same for its transcoder set.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: the GPU if there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float64, bfloat16 or float16; default float32.")]
Queue = Annotated[bool, typer.Option("--queue", help="Leave it to a worker (`atlas worker`).")]
MOST_PROMPTS = 1_000


def loaded(
    atlas: Atlas, circuit: str, model: str | None, transcoders: str | None, device: str | None, dtype: str | None
) -> dict[str, Any]:
    """`model` and `transcoders` as the engines take them. Raises ModelRejected, which says what is missing."""
    if transcoders is not None and model is None:
        raise UsageError("--transcoders belongs to a model.", "Pass --model too, or leave both out.")
    with extra("ingest", "This"):
        from ingest.worker.models import LoadedModels
    return LoadedModels(atlas.settings, device, dtype).of_circuit(atlas, circuit, model, transcoders)


def checked(request: type[R], **values: Any) -> R:
    """The request, or UsageError with the first value that it does not take."""
    try:
        return request(**values)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part)[:60] for part in fault["loc"]).replace("_", "-")
        said = fault["msg"][:1].lower() + fault["msg"][1:]
        raise UsageError(f"--{place}: {said}.", "See --help.") from None


def not_with_queue(queue: bool, **options: object) -> None:
    """Raises UsageError for options that only work done here takes."""
    given = [name for name, value in options.items() if value is not None]
    if queue and given:
        raise UsageError(
            f"--{given[0]} is for work done here; a worker has its own.", f"Leave --{given[0]} or --queue out."
        )


def texts(file: Path) -> list[str]:
    """The prompts of a file: one a line, or the column `prompt` of a .csv or .jsonl. Raises InputRejected."""
    try:
        data = file.read_bytes()
        if file.suffix.lower() not in (".csv", ".jsonl"):
            found = [line for line in data.decode("utf-8-sig").splitlines() if line.strip()]
        else:
            found = _column(file, data)
    except (OSError, UnicodeDecodeError) as error:
        reason = (getattr(error, "strerror", None) or "it is not UTF-8").lower()
        raise InputRejected(f"{file} cannot be read as text: {reason}.", "Pass one prompt a line, as UTF-8.") from error
    if not found:
        raise InputRejected(f"{file} holds no prompt.", "Write one a line.")
    if len(found) > MOST_PROMPTS:
        raise InputRejected(f"{file} holds {len(found):,} prompts.", f"Pass at most {MOST_PROMPTS:,}.")
    return found


def finite(option: str, value: float) -> float:
    if not math.isfinite(value):
        raise UsageError(f"{option} is {value}.", "Pass a finite number.")
    return value


def _column(file: Path, data: bytes) -> list[str]:
    from atlas.prompt_files import numbered_prompts

    rows, rejected = numbered_prompts(file.name, data)
    if rejected:
        raise InputRejected(
            f"{file} line {rejected[0].line}: {rejected[0].reason}.", "Mend the line.", f"line {rejected[0].line}"
        )
    for line, row in rows:
        if row.prompt is None:
            raise InputRejected(f"{file} line {line} has no prompt.", "Write its text.", f"line {line}")
    return [row.prompt or "" for _, row in rows]
