"""Files of prompt pairs: `.jsonl`, or `.csv` with a header row; keys and columns are the fields of `PromptPair`. No torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from atlas.causal_records import PromptPair
from atlas.errors import InputRejected
from atlas.prompt_files import file_rows

FIELDS = tuple(PromptPair.model_fields)
MAX_PAIRS = 10_000


def read_pairs(path: str | Path) -> list[PromptPair]:
    """The pairs of a file, in its order. Empty cells are not given; spaces of an answer are kept.

    A row that cannot be used rejects the file with its line: without it a mean over the pairs would be another mean.
    Raises InputRejected.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputRejected(
            f"{path} cannot be read: {error.strerror or error}.", "Name a .jsonl or .csv file."
        ) from error
    pairs: list[PromptPair] = []
    for line, given in file_rows(path.name, data, FIELDS, needed={"clean"}):
        if isinstance(given, ValueError):
            raise _rejected(path, line, str(given))
        try:
            pairs.append(PromptPair.model_validate(given))
        except ValidationError as error:
            fault = error.errors()[0]
            field = ".".join(str(part)[:60] for part in fault["loc"])
            said = {"missing": "is missing", "extra_forbidden": f"is not known; known are {', '.join(FIELDS)}"}
            raise _rejected(path, line, f"{field} {said.get(fault['type'], 'is not text')}") from None
        if len(pairs) > MAX_PAIRS:
            raise InputRejected(f"{path.name} has more than {MAX_PAIRS:,} pairs.", "Split it into several files.")
    if not pairs:
        raise InputRejected(f"{path.name} holds no prompt pair.", "Give it one row for each pair.")
    return pairs


def _rejected(path: Path, line: int, reason: str) -> InputRejected:
    hint = 'A row is such as {"clean": ..., "corrupted": ..., "answer": " Mary", "wrong": " John"}.'
    return InputRejected(f"{path.name}, line {line}: {reason.rstrip('.')}.", hint, f"line {line}")
