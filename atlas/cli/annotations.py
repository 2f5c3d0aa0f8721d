"""`atlas annotate` and `atlas notes`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from atlas.cli.main import app, opened
from atlas.cli.nouns import LIST, noun
from atlas.cli.output import Json, emit, table
from atlas.errors import UsageError
from atlas.group_records import AnnotationKind, AnnotationRow

SUBJECT = "CIRCUIT, CIRCUIT#NODE, CIRCUIT#SOURCE->TARGET, feature:KEY, concept:NAME or collection:NAME."
Id = Annotated[str, typer.Argument(help="Id, as `atlas notes` and `atlas notes --history` list it.", metavar="ID")]
Nodes = Annotated[str | None, typer.Option(help="Keys of the nodes of a supernode, with commas between them.")]

notes = noun("notes", "Notes, tags, names and supernodes: what is said now, or with --history every entry.")


class Kind(StrEnum):
    note = "note"
    tag = "tag"
    name = "name"
    supernode = "supernode"


@app.command()
def annotate(
    subject: Annotated[str, typer.Argument(help=SUBJECT)],
    note: Annotated[str | None, typer.Option(help="Add a note.")] = None,
    tag: Annotated[str | None, typer.Option(help="Add a tag.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name it: a circuit's display name, a feature's label, a node's label.")
    ] = None,
    supernode: Annotated[str | None, typer.Option(help="Group the nodes --nodes of a circuit under this name.")] = None,
    nodes: Nodes = None,
    json: Json = False,
) -> None:
    """Say something about a circuit, node, edge, feature, concept or collection. `atlas notes undo ID` takes it back."""
    texts: dict[AnnotationKind, str | None] = {"note": note, "tag": tag, "name": name, "supernode": supernode}
    given: list[tuple[AnnotationKind, str]] = [(kind, text) for kind, text in texts.items() if text is not None]
    if len(given) != 1:
        raise UsageError("Nothing or several things are said.", "Pass one of --note, --tag, --name, --supernode.")
    kind, text = given[0]
    with opened() as atlas:
        row = atlas.annotate(subject, kind, text, nodes=_keys(nodes))
    emit(row, json, lambda console: console.print(f"{row.kind} {row.id} on {row.subject}: {row.text}"))


@notes.command(LIST)
def list_notes(
    subject: Annotated[str | None, typer.Argument(help=f"Only what is about this: {SUBJECT}")] = None,
    history: Annotated[bool, typer.Option("--history", help="Every entry, also what was changed and undone.")] = False,
    author: Annotated[str | None, typer.Option(help="Only entries by this person.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="Only this kind.")] = None,
    text: Annotated[str | None, typer.Option(help="Only what has this in its text.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 200,
    json: Json = False,
) -> None:
    """List annotations, newest first; a circuit's with those of its nodes and edges."""
    with opened() as atlas:
        chosen: AnnotationKind | None = kind.value if kind is not None else None  # type: ignore[assignment]
        rows = atlas.annotations(subject, kind=chosen, author=author, text=text, history=history, limit=limit)

    def show_text(console):
        if not rows:
            console.print("Nothing is said. `atlas annotate SUBJECT --note TEXT` adds a note.")
            return
        head = ["id", "kind", "action", "text", "about", "by", "when"]
        cells = [[r.id, r.kind, _action(r), _text(r), r.subject, r.author, r.created_at[:16]] for r in rows]
        console.print(table(head, cells))

    emit(list(rows), json, show_text)


@notes.command("change")
def change_note(
    annotation_id: Id,
    text: Annotated[str, typer.Argument(help="The new text.")],
    nodes: Nodes = None,
    json: Json = False,
) -> None:
    """Change what an annotation says; the old text stays in its history."""
    with opened() as atlas:
        row = atlas.change_annotation(annotation_id, text, nodes=_keys(nodes))
    _said(row, json, "changed")


@notes.command("remove")
def remove_note(annotation_id: Id, json: Json = False) -> None:
    """Take an annotation away; its history stays."""
    with opened() as atlas:
        row = atlas.remove_annotation(annotation_id)
    _said(row, json, "removed")


@notes.command("undo")
def undo_note(annotation_id: Id, json: Json = False) -> None:
    """Take back one entry: what was added, changed, removed or undone."""
    with opened() as atlas:
        row = atlas.undo(annotation_id)
    _said(row, json, "undone")


def _said(row: AnnotationRow, json: bool, what: str) -> None:
    now = f"it says now: {row.text}" if row.action != "remove" and row.text else "it is away now"
    again = f"`atlas notes undo {row.id}` takes this back"
    emit(row, json, lambda console: console.print(f"{row.kind} on {row.subject} {what}, {now} ({again})"))


def _action(row: AnnotationRow) -> str:
    return row.action if row.holds else f"{row.action} (undone)"


def _text(row: AnnotationRow) -> str:
    return f"{row.text} [{', '.join(row.nodes)}]" if row.nodes else row.text


def _keys(nodes: str | None) -> list[str] | None:
    return None if nodes is None else [key.strip() for key in nodes.split(",") if key.strip()]
