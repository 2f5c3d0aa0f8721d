"""`atlas collections`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from atlas.cli.main import opened
from atlas.cli.nouns import LIST, noun
from atlas.cli.output import Json, emit, table, visible
from atlas.errors import UsageError
from atlas.group_records import Changed

Name = Annotated[str, typer.Argument(help="Name of the collection.")]
Circuits = Annotated[
    list[str], typer.Argument(help="Circuit ids, unique id prefixes or unique names.", metavar="CIRCUIT...")
]

collections = noun("collections", "Named sets of circuits.")


@collections.command(LIST)
def list_collections(json: Json = False) -> None:
    """List the collections."""
    with opened() as atlas:
        rows = atlas.collections()

    def show_text(console):
        if not rows:
            console.print("There is no collection. `atlas collections add NAME CIRCUIT...` makes one.")
            return
        cells = [[r.name, r.circuits, r.author, r.created_at[:16], r.note] for r in rows]
        console.print(table(["name", "circuits", "by", "made", "note"], cells))

    emit(list(rows), json, show_text)


@collections.command("add")
def add(name: Name, circuits: Circuits, json: Json = False) -> None:
    """Put circuits into a collection, which is made if it is new."""
    with opened() as atlas:
        changed = atlas.collect(name, circuits)
    _report(changed, json, "put into", "were in it already")


@collections.command("remove")
def remove(name: Name, circuits: Circuits, json: Json = False) -> None:
    """Take circuits out of a collection; they stay in the atlas."""
    with opened() as atlas:
        changed = atlas.uncollect(name, circuits)
    _report(changed, json, "taken out of", "were not in it")


@collections.command("rename")
def rename(name: Name, new: Annotated[str, typer.Argument(help="The new name.")], json: Json = False) -> None:
    """Give a collection another name; its notes go with it."""
    with opened() as atlas:
        info = atlas.rename_collection(name, new)
    emit(info, json, lambda console: console.print(f"{info.name} has {info.circuits} circuits"))


@collections.command("delete")
def delete(
    name: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False, json: Json = False
) -> None:
    """Delete a collection; its circuits stay in the atlas."""
    if not yes and not json:
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError("This asks before it deletes, and there is nobody to ask.", "Pass --yes.")
        typer.confirm(f"Delete the collection {visible(name)}?", abort=True, err=True)
    with opened() as atlas:
        changed = atlas.delete_collection(name)
    emit(changed, json, lambda console: console.print(f"deleted {name}; its circuits stay"))


def _report(changed: Changed, json: bool, done: str, otherwise: str) -> None:
    rest = f", {changed.already} {otherwise}" if changed.already else ""
    emit(changed, json, lambda console: console.print(f"{changed.changed} {done} the collection{rest}"))
