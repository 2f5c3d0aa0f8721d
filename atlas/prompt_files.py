"""Files of prompts to trace: `.csv` with a header row, or `.jsonl`; columns and keys are the fields of `TraceRequest`.

A file that cannot be read as a whole is rejected as a whole; a row that cannot be used is listed with its line and the
others are kept.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from atlas.errors import InputRejected
from atlas.group_records import RejectedRow, TraceRequest

MAX_BYTES = 64 * 2**20
MAX_ROWS = 100_000
MAX_CHARACTERS = 100_000  # of one prompt: more than any model here reads
DELIMITERS = ",;\t"  # spreadsheets write the last two in some countries and formats
FIELDS = tuple(TraceRequest.model_fields)
_LISTS = {"targets", "token_ids"}


def read_prompts(name: str, data: bytes) -> tuple[list[TraceRequest], list[RejectedRow]]:
    """The requests of a file, in its order, and the rows that cannot be used, by line (counted from 1).

    `name` ends in .csv or .jsonl. Cells: empty = not given; `targets` and `token_ids` are separated by commas or a JSON list;
    everything else is as `atlas trace` takes it. Neither model nor profile need be given here. Raises InputRejected for a
    file that is too large, of another kind or encoding, empty, or has an unknown column.
    """
    numbered, rejected = numbered_prompts(name, data)
    return [request for _, request in numbered], rejected


def numbered_prompts(name: str, data: bytes) -> tuple[list[tuple[int, TraceRequest]], list[RejectedRow]]:
    """`read_prompts` with the line of each request. Raises InputRejected."""
    requests: list[tuple[int, TraceRequest]] = []
    rejected: list[RejectedRow] = []
    for line, given in file_rows(name, data, FIELDS, needed={"prompt", "token_ids"}):
        if len(requests) + len(rejected) >= MAX_ROWS:
            raise InputRejected(f"{name} has more than {MAX_ROWS:,} rows.", "Split it into several files.")
        try:
            requests.append((line, _request(given)))
        except ValueError as error:
            rejected.append(RejectedRow(line=line, reason=str(error)))
    if not requests and not rejected:
        raise InputRejected(f"{name} holds no prompt.", "Give it one row for each prompt.")
    return requests, rejected


def file_rows(
    name: str, data: bytes, fields: tuple[str, ...], needed: set[str]
) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
    """(line it begins at, what it says or why it cannot be read) of each row that is not blank.

    fields: the columns a .csv may have; needed: it must have one of these. Raises InputRejected for a file that is too large,
    of another kind or encoding, or has an unknown column.
    """
    if len(data) > MAX_BYTES:
        raise InputRejected(
            f"{name} has {len(data):,} bytes; at most {MAX_BYTES:,} are read.", "Split it into several files."
        )
    kind = name.lower().rpartition(".")[2]
    if kind not in {"csv", "jsonl"}:
        raise InputRejected(f"{name} is neither .csv nor .jsonl.", "Save it as one of the two.")
    text = _text(name, data)
    yield from _csv_rows(name, text, fields, needed) if kind == "csv" else _json_rows(text)


def _text(name: str, data: bytes) -> str:
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputRejected(
            f"{name} is not text in UTF-8: line {line} has the byte 0x{data[error.start]:02x}.",
            "Save it as UTF-8 (in a spreadsheet: CSV UTF-8).",
            f"line {line}",
        ) from error


def _csv_rows(
    name: str, text: str, fields: tuple[str, ...], needed: set[str]
) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
    head_line = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=head_line.count)
    # strict: otherwise a quote that is never closed would swallow the rest of the file in silence
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    head: list[str] = []
    while True:
        began = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if not head:
                raise InputRejected(
                    f"The header of {name} is not readable as CSV: {error}.",
                    "Name the columns in its first line.",
                    "line 1",
                ) from error
            lines = "" if reader.line_num <= began else f" (lines {began} to {reader.line_num} were read as one row)"
            yield began, ValueError(f"the quotes are not closed or something follows them: {error}{lines}")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if not head:
            head = _checked_head(name, cells, fields, needed)
        elif len(cells) > len(head) and any(cell.strip() for cell in cells[len(head) :]):
            yield (
                began,
                ValueError(f"has {len(cells)} cells for {len(head)} columns; put quotes around a text with commas"),
            )
        else:
            yield began, {column: cell for column, cell in zip(head, cells, strict=False) if cell.strip()}


def _checked_head(name: str, cells: list[str], fields: tuple[str, ...], needed: set[str]) -> list[str]:
    head = [cell.strip().lower() for cell in cells]
    while head and not head[-1]:
        head.pop()
    known = f"Columns are {', '.join(fields)}; the first line of the file names those used."
    unknown = [column for column in head if column not in fields]
    if unknown:
        raise InputRejected(f"{name} has a column {unknown[0][:60]!r}, which is not known.", known, "line 1")
    if len(set(head)) < len(head):
        twice = next(column for column in head if head.count(column) > 1)
        raise InputRejected(f"{name} has the column {twice!r} twice.", known, "line 1")
    if not needed & set(head):
        raise InputRejected(f"{name} has no column `{min(needed)}`.", known, "line 1")
    return head


def _json_rows(text: str) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
    # not splitlines(): it would also cut at separators that may stand inside a JSON string
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
        except json.JSONDecodeError as error:
            yield number, ValueError(f"is not JSON: {error.msg} at character {error.colno}")
        except (RecursionError, ValueError):  # nested too deep; a number of thousands of digits
            yield number, ValueError("is not JSON that can be read here")
        else:
            if isinstance(given, dict):
                yield number, {key: value for key, value in given.items() if value is not None}
            else:
                yield number, ValueError('is not an object such as {"prompt": "The capital of France is"}')


def _request(given: dict[str, Any] | ValueError) -> TraceRequest:
    """Raises ValueError with what is wrong, to be read after "line N"."""
    if isinstance(given, ValueError):
        raise given
    values = {key: _listed(key, value) if key in _LISTS else value for key, value in given.items()}
    try:
        request = TraceRequest.model_validate(values)
    except ValidationError as error:
        raise ValueError("; ".join(_sentence(fault) for fault in error.errors()[:3])) from None
    if (request.prompt is None) == (request.token_ids is None):
        raise ValueError("needs either a prompt or token_ids, and not both")
    if request.prompt is not None and not request.prompt.strip():
        raise ValueError("the prompt is blank")
    if request.prompt is not None and len(request.prompt) > MAX_CHARACTERS:
        raise ValueError(f"the prompt has {len(request.prompt):,} characters; at most {MAX_CHARACTERS:,} are read")
    if request.token_ids is not None and not (request.token_ids and min(request.token_ids) >= 0):
        raise ValueError("token_ids must be whole numbers from 0 on, at least one")
    if request.profile is not None and (request.model is not None or request.transcoders is not None):
        raise ValueError("profile names the model and its transcoders already; leave either out")
    texts = [request.prompt, request.model, request.transcoders, request.profile, request.collection]
    for text in [*texts, *(request.targets or [])]:
        if text is not None and ("\x00" in text or not _whole(text)):
            raise ValueError("has a character that no database can hold (NUL or half a surrogate pair)")
    return request


def _listed(key: str, value: Any) -> Any:
    """A cell as a list: of JSON if it looks like one, else by commas; numbers also by spaces."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError(f"{key} begins like a JSON list and is none") from None
    # targets keep their spaces: " Paris" is another token than "Paris"
    parts = value.split(",") if key == "targets" else text.replace(",", " ").split()
    return [part for part in parts if part]


_KINDS = {
    "int_parsing": "is not a whole number",
    "int_from_float": "is not a whole number",
    "float_parsing": "is not a number",
    "bool_parsing": "is neither true nor false",
    "string_type": "is not text",
}


def _sentence(fault: Any) -> str:
    place = ".".join(str(part)[:60] for part in fault["loc"])
    said = fault["msg"][:1].lower() + fault["msg"][1:]
    if fault["type"] == "extra_forbidden":
        return f"{place} is not known; known are {', '.join(FIELDS)}"
    return f"{place} {_KINDS[fault['type']]}" if fault["type"] in _KINDS else f"{place}: {said}"


def _whole(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
