"""The one table of verbs that work over HTTP; arguments and results are derived from the methods of `Atlas`.

A new verb is one row of `ROWS`. Server, client and the page about them are made from this table.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model

from atlas.access import Role
from atlas.api import Atlas
from atlas.causal_requests import REQUESTS as CAUSAL
from atlas.errors import InputRejected
from atlas.records import Table

Kind = Literal["question", "write"]
Check = Callable[[Atlas, dict[str, Any]], None]

# arguments that only a program on the same machine can pass
LOCAL_ONLY = {"progress"}
# what a caller may ask for at most: from elsewhere nobody may keep the server busy for hours
BOUNDS: dict[str, Any] = {
    "limit": Field(ge=0, le=10_000),
    "null_graphs": Field(ge=0, le=2_000),
    "seed": Field(ge=0, le=2**63 - 1),
    "days": Field(gt=0, le=36_500),
}
LONGEST_NAME = 200
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def _rows_of_the_server(atlas: Atlas, given: dict[str, Any]) -> None:
    """Whoever asks from elsewhere may lower the row limit of the settings, not raise it."""
    limit = given.get("limit")
    given["limit"] = min(limit, atlas.settings.cypher_row_limit) if limit is not None else None


def _no_folders(atlas: Atlas, given: dict[str, Any]) -> None:
    for request in given.get("requests", []):
        for name in (request.model, request.transcoders):
            refuse_folder(name)


def _no_folders_in_arguments(atlas: Atlas, given: dict[str, Any]) -> None:
    arguments = given.get("arguments", {})
    if given.get("kind") in CAUSAL:  # prompts may look like folders, and `model` alone could be one
        if arguments.get("model") is not None:
            refuse_folder(str(arguments["model"]))
        return
    for value in arguments.values():
        if isinstance(value, str) and ("/" in value or "\\" in value or value.startswith((".", "~"))):
            refuse_folder(value)


def refuse_folder(name: str | None) -> None:
    """Raises InputRejected for anything but a hub name: a path would let callers point at files of the server."""
    if name is None:
        return
    if len(name) > LONGEST_NAME or not HUB_NAME.fullmatch(name) or ".." in name or Path(name).exists():
        raise InputRejected(
            f"{name[:200]!r} is not the name of a model or transcoder set on a hub; folders are not taken from elsewhere.",
            "Name a profile of the server's atlas.toml, or NAME or OWNER/NAME on the hub.",
        )


@dataclass(frozen=True)
class Row:
    """`role` is told on the page about the API; the method itself checks it."""

    name: str
    kind: Kind = "question"
    role: Role = "reader"
    check: Check | None = None


ROWS = (
    Row("overview"),
    Row("circuits"),
    Row("resolve"),
    Row("find_trace"),
    Row("show"),
    Row("edge"),
    Row("node_labels"),
    Row("feature"),
    Row("features_without_label"),
    Row("concepts"),
    Row("search"),
    Row("paths"),
    Row("compare"),
    Row("cypher", check=_rows_of_the_server),
    Row("interventions"),
    Row("intervention"),
    Row("edge_marks"),
    Row("measurements"),
    Row("annotations"),
    Row("collections"),
    Row("jobs"),
    Row("job"),
    Row("job_counts"),
    Row("workers"),
    Row("estimate_traces", check=_no_folders),
    Row("whoami"),
    Row("people"),
    Row("tokens"),
    Row("audit"),
    Row("news"),
    Row("visited", "write"),
    Row("delete", "write", "editor"),
    Row("put_labels", "write", "editor"),
    Row("define_concept", "write", "editor"),
    Row("delete_concept", "write", "editor"),
    Row("add_intervention", "write", "editor"),
    Row("add_interventions", "write", "editor"),
    Row("add_measurement", "write", "editor"),
    Row("annotate", "write", "editor"),
    Row("change_annotation", "write", "editor"),
    Row("remove_annotation", "write", "editor"),
    Row("undo", "write", "editor"),
    Row("create_collection", "write", "editor"),
    Row("collect", "write", "editor"),
    Row("uncollect", "write", "editor"),
    Row("rename_collection", "write", "editor"),
    Row("delete_collection", "write", "editor"),
    Row("enqueue_traces", "write", "editor", _no_folders),
    Row("enqueue", "write", "editor", _no_folders_in_arguments),
    Row("cancel_job", "write", "editor"),
    Row("retry_job", "write", "editor"),
    Row("cancel_batch", "write", "editor"),
    Row("retry_batch", "write", "editor"),
    Row("new_token", "write"),
    Row("revoke_token", "write"),
    Row("change_person", "write"),
    Row("add_person", "write", "admin"),
)


@dataclass(frozen=True)
class Verb:
    """One verb: what it takes, what it gives, and who may ask for it."""

    row: Row
    method: Callable[..., Any]
    arguments: type[BaseModel]
    result: Any = field(repr=False)  # a type
    is_table: bool

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def about(self) -> str:
        return inspect.getdoc(self.method) or ""

    @property
    def adapter(self) -> TypeAdapter[Any]:
        return _adapter(self.name)

    def ask(self, atlas: Atlas, arguments: BaseModel) -> Any:
        """Call the method of `atlas`."""
        given = {name: getattr(arguments, name) for name in type(arguments).model_fields}
        if self.row.check is not None:
            self.row.check(atlas, given)
        return getattr(atlas, self.name)(**given)

    def read(self, value: Any) -> Any:
        """The result from JSON. Raises pydantic's ValidationError."""
        found = self.adapter.validate_python(value)
        return Table(found) if self.is_table else found


def _derive(row: Row) -> Verb:
    method = getattr(Atlas, row.name)
    hints = get_type_hints(method, include_extras=True)
    fields: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(method).parameters.items())[1:]:
        if name in LOCAL_ONLY:
            continue
        hint = _listed(hints[name])
        if name in BOUNDS:
            known = get_args(hint) or (hint,)
            bounded: Any = Annotated[known[0], BOUNDS[name]]  # type: ignore[valid-type]
            hint = bounded | None if len(known) > 1 else bounded
        fields[name] = (hint, ... if parameter.default is parameter.empty else parameter.default)
    title = "".join(part.capitalize() for part in row.name.split("_")) + "Arguments"
    arguments = create_model(title, __config__=ConfigDict(extra="forbid"), **fields)
    result = hints["return"]
    is_table = get_origin(result) is Table
    return Verb(row, method, arguments, list[get_args(result)[0]] if is_table else result, is_table)  # type: ignore[misc]


def _listed(hint: Any) -> Any:
    return list[get_args(hint)[0]] if get_origin(hint) is Iterable else hint  # type: ignore[misc]


VERBS = {row.name: _derive(row) for row in ROWS}


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(VERBS[name].result)
