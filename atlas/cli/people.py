"""`atlas people` and `atlas audit`."""

from __future__ import annotations

import contextlib
import json as json_text
import sys
from typing import Annotated

import typer

from atlas.cli.main import app, opened
from atlas.cli.nouns import LIST, noun
from atlas.cli.output import Json, emit, stderr, table
from atlas.errors import UsageError
from atlas.group_records import NewToken, PersonRow, TokenRow

Name = Annotated[str, typer.Argument(help="Name of the account; capitals do not count.")]
Role = Annotated[str, typer.Option(help="reader, editor or admin.")]
Email = Annotated[str | None, typer.Option(help="For signing in by an identity provider; '' removes it.")]
PasswordStdin = Annotated[
    bool,
    typer.Option("--password-stdin", help="Read a password from the first line of stdin; a terminal is asked twice."),
]
TokenName = Annotated[str, typer.Option("--name", help="What the token is for.")]
Days = Annotated[float | None, typer.Option(help="Days until it stops working; default: it does not.")]

people = noun("people", "Who may sign in to this atlas, with which role, by which access tokens.")


@people.command(LIST)
def list_people(json: Json = False) -> None:
    """List the accounts."""
    with opened() as atlas:
        rows = atlas.people()

    def show_text(console):
        if not rows:
            console.print(
                "There is no account: whoever can read this folder may do everything. `atlas people add` makes one."
            )
            return
        cells = [
            [
                r.name,
                r.role,
                "disabled" if r.disabled else "",
                r.email,
                r.has_password,
                r.tokens,
                r.created_at[:16],
                r.created_by,
            ]
            for r in rows
        ]
        console.print(table(["name", "role", "", "e-mail", "password", "tokens", "added", "by"], cells))

    emit(list(rows), json, show_text)


@people.command("add")
def add(
    name: Name,
    role: Role = "reader",
    password_stdin: PasswordStdin = False,
    email: Email = None,
    token: Annotated[
        bool, typer.Option("--token", help="Make an access token too; its secret is printed once.")
    ] = False,
    json: Json = False,
) -> None:
    """Add an account. It signs in with a password, an access token, or by an identity provider."""
    password = _password() if password_stdin else None
    with opened() as atlas:
        person = atlas.add_person(name, role=role, password=password, email=email)  # type: ignore[arg-type]
        made = atlas.new_token(person.name) if token else None

    def show_text(console):
        console.print(f"{person.name} has the role {person.role}")
        if made is not None:
            _print_secret(console, made)
        elif not password and not person.email:
            stderr().print(
                f"Nothing to sign in with yet: `atlas people token {person.name}`, or `atlas people password`."
            )

    found = person.model_dump(mode="json")
    emit({**found, "token": made.model_dump(mode="json") if made else None}, json, show_text)


@people.command("disable")
def disable(name: Name, json: Json = False) -> None:
    """Disable an account: its sign-ins end, its tokens stop working; what the person wrote stays."""
    with opened() as atlas:
        _report(atlas.change_person(name, disabled=True), json)


@people.command("enable")
def enable(name: Name, json: Json = False) -> None:
    """Enable a disabled account."""
    with opened() as atlas:
        _report(atlas.change_person(name, disabled=False), json)


@people.command("role")
def role(name: Name, role: Annotated[str, typer.Argument(help="reader, editor or admin.")], json: Json = False) -> None:
    """Change what somebody may do; it counts from the next write on."""
    with opened() as atlas:
        _report(atlas.change_person(name, role=role), json)  # type: ignore[arg-type]


@people.command("password")
def password(name: Name, json: Json = False) -> None:
    """Set a password, read from the first line of stdin or asked for on a terminal; sign-ins made with the old one end."""
    secret = _password()
    with opened() as atlas:
        _report(atlas.change_person(name, password=secret), json)


@people.command("email")
def email(
    name: Name, address: Annotated[str, typer.Argument(help="E-mail address; '' removes it.")], json: Json = False
) -> None:
    """Set the e-mail address by which an identity provider's users are matched."""
    with opened() as atlas:
        _report(atlas.change_person(name, email=address), json)


@people.command("token")
def token(name: Name, token_name: TokenName = "", days: Days = None, json: Json = False) -> None:
    """Make an access token. Its secret is printed this once; the atlas keeps a hash of it."""
    with opened() as atlas:
        made = atlas.new_token(name, name=token_name, days=days)
    emit(made, json, lambda console: _print_secret(console, made))


@people.command("tokens")
def tokens(
    name: Annotated[str | None, typer.Argument(help="Only of this account.")] = None, json: Json = False
) -> None:
    """List access tokens, without their secrets."""
    with opened() as atlas:
        rows = atlas.tokens(name)

    def show_text(console):
        if not rows:
            console.print("There is no access token. `atlas people token NAME` makes one.")
            return
        cells = [[r.id, r.person, r.name, r.created_at[:16], _state(r), r.used_at and r.used_at[:16]] for r in rows]
        console.print(table(["id", "person", "name", "made", "state", "last used"], cells))

    emit(list(rows), json, show_text)


@people.command("revoke")
def revoke(
    token_id: Annotated[str, typer.Argument(help="Id of the token, or a unique beginning of it.", metavar="ID")],
    json: Json = False,
) -> None:
    """Revoke an access token; whoever signed in with it is signed out."""
    with opened() as atlas:
        row = atlas.revoke_token(token_id)
    emit(row, json, lambda console: console.print(f"revoked {row.id} of {row.person}"))


@app.command()
def audit(
    subject: Annotated[str | None, typer.Option(help="Only what was done to this circuit, feature, name ...")] = None,
    actor: Annotated[str | None, typer.Option(help="Only what this person or method did.")] = None,
    verb: Annotated[str | None, typer.Option(help="Only this verb, as the log writes it.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only from this time on: 2026-08-31 or 2026-08-31T14:00 (UTC).")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most this many, newest first.")] = 100,
    json: Json = False,
) -> None:
    """Show who wrote what to the atlas, newest first."""
    with opened() as atlas:
        rows = atlas.audit(subject=subject, actor=actor, verb=verb, since=since, limit=limit)

    def show_text(console):
        if not rows:
            console.print("Nothing fits.")
            return
        cells = [[r.at[:19], r.actor, r.verb, r.subject, _detail(r.detail)] for r in rows]
        console.print(table(["time", "actor", "verb", "subject", "detail"], cells))

    emit(list(rows), json, show_text)


def _report(person: PersonRow, as_json: bool) -> None:
    state = ", disabled" if person.disabled else ""
    emit(person, as_json, lambda console: console.print(f"{person.name} has the role {person.role}{state}"))


def _print_secret(console, made: NewToken) -> None:
    stderr().print("Copy the token now, it is not shown again:")
    console.print(made.secret)


def _state(token: TokenRow) -> str:
    if token.revoked_at:
        return f"revoked {token.revoked_at[:16]}"
    return f"until {token.expires_at[:16]}" if token.expires_at else "no end"


def _detail(detail: dict) -> str:
    return ", ".join(
        f"{key} {value if isinstance(value, str | int | float) else json_text.dumps(value)}"
        for key, value in detail.items()
        if value is not None
    )


def _password() -> str:
    """From the first line of stdin, or asked for twice on a terminal; never from the command line."""
    if sys.stdin is None:
        raise UsageError("There is no stdin to read a password from.", "Pipe it in.")
    if not sys.stdin.isatty():
        with contextlib.suppress(UnicodeDecodeError):
            return sys.stdin.readline().rstrip("\r\n")
        raise UsageError("The password is not UTF-8.", "Pipe it in as UTF-8.")
    return typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
