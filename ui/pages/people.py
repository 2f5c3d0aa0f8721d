"""One's own account, tokens and password; for admins everybody's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from atlas import people
from atlas.errors import AtlasError, UsageError
from atlas.group_records import ROLES, PersonRow, TokenRow
from ui import markup
from ui.listing import when
from ui.shared import asked, begin, get_atlas, guarded, heading, note, problem, remember, show

DAYS = {"30 days": 30, "90 days": 90, "a year": 365, "no end": None}
MAY = {
    "reader": "reads and asks",
    "editor": "reads, asks, traces, labels and annotates",
    "admin": "does everything, and manages people",
}
begin("People")
with guarded():
    atlas = get_atlas()
    me = atlas.whoami()
if not atlas.settings.accounts:
    note(
        "Nobody signs in here: these pages answer to this machine only. `atlas serve` offers them to people with accounts."
    )
    st.stop()


def do(said: str, verb: Callable[[], object], ok: Callable[[object], None] | None = None) -> None:
    """Do it, and keep what to say about it for the next run."""
    try:
        made = verb()
    except AtlasError as error:
        st.session_state.people_said = error
    else:
        st.session_state.people_said = said
        if ok is not None:
            ok(made)


def said() -> None:
    """What the last button did; a new token's secret, this once."""
    told = st.session_state.pop("people_said", None)
    if isinstance(told, AtlasError):
        problem(told)
    elif told:
        show(markup.tag("p", told, cls="ca-line", role="status"))
    secret = st.session_state.pop("people_secret", None)
    if secret:
        note("This is the token. Copy it now: it is kept nowhere and not shown again.")
        st.code(secret, language=None)


def keep_secret(made: object) -> None:
    st.session_state.people_secret = made.secret  # type: ignore[attr-defined]


def token_table(rows: Sequence[TokenRow]) -> None:
    for row in rows:
        ended = row.revoked_at is not None
        facts = [
            f"made {when(row.created_at)}" + (f" by {row.created_by}" if row.created_by != row.person else ""),
            f"used {when(row.used_at)}" if row.used_at else "not used yet",
            f"revoked {when(row.revoked_at)}"
            if ended
            else f"until {when(row.expires_at)}"
            if row.expires_at
            else "no end",
        ]
        with st.container(horizontal=True, vertical_alignment="center"):
            name = markup.tag("p", row.name or "(no name)", cls="ca-job-title")
            show(markup.tag("div", name, markup.tag("p", " · ".join(facts), cls="ca-meta"), cls="ca-job"))
            if not ended:
                st.button(
                    "Revoke",
                    key=f"revoke-{row.id}",
                    on_click=do,
                    args=(
                        "The token is revoked; what was signed in with it is signed out.",
                        lambda i=row.id: atlas.revoke_token(i),
                    ),
                )


def new_token(person: str) -> None:
    with st.form(f"token-{person}", clear_on_submit=True, border=False):
        left, middle, right = st.columns([3, 2, 2], vertical_alignment="bottom")
        name = left.text_input("Name of a new token", placeholder="notebook", max_chars=64)
        days = middle.selectbox("Works for", list(DAYS), index=1)
        if right.form_submit_button("New token", width="stretch"):
            do("", lambda: atlas.new_token(person, name, DAYS[days]), keep_secret)
            st.rerun()


def own_account(person: PersonRow) -> None:
    show(markup.tag("p", markup.tag("b", person.name), " ", markup.chip(person.role), MAY[person.role], cls="ca-line"))
    left, right = st.columns([3, 2], gap="large")
    with left:
        heading("Your access tokens")
        note(
            "For notebooks, the command line and assistants: `Atlas.open(address, token=...)`. They also sign in here."
        )
        with guarded():
            token_table(atlas.tokens())
        new_token(person.name)
    with right:
        heading("Your password")
        with st.form("password", clear_on_submit=True, border=False):
            old = st.text_input("Password now", type="password") if person.has_password else ""
            new = st.text_input("New password", type="password", help="10 characters or more.")
            again = st.text_input("New password again", type="password")
            if st.form_submit_button("Change password" if person.has_password else "Set password"):
                do(
                    "The password is changed. Browsers signed in with the old one are signed out.",
                    lambda: change_own(person, old, new, again),
                )
                st.rerun()


def change_own(person: PersonRow, old: str, new: str, again: str) -> None:
    if new != again:
        raise UsageError("The two new passwords differ.", "Write the same twice.")
    if person.has_password and not people.proves(atlas, person.name, old):
        raise UsageError("The password now is another.", "An admin can set a new one.")
    atlas.change_person(person.name, password=new)


def everybody(rows: Sequence[PersonRow]) -> None:
    def ways(row: PersonRow) -> str:
        found = ["password"] if row.has_password else []
        found += [markup.counted(row.tokens, "token")] if row.tokens else []
        return ", ".join([*found, row.email or ""]).strip(", ") or "nothing yet"

    show(
        markup.table(
            ["Name", "Role", "", "Signs in with", "Added"],
            [
                [
                    markup.link("people", row.name, person=row.name),
                    row.role,
                    markup.chip("disabled") if row.disabled else "",
                    ways(row),
                    f"{when(row.created_at)} by {row.created_by}",
                ]
                for row in rows
            ],
        )
    )


def add_somebody() -> None:
    with st.expander("Add somebody"), st.form("add", clear_on_submit=False, border=False):
        first, second = st.columns(2)
        name = first.text_input("Name", max_chars=64)
        role = second.selectbox("Role", ROLES, format_func=lambda r: f"{r}: {MAY[r]}")
        email = first.text_input("E-mail", help="Only for signing in by an identity provider.")
        password = second.text_input(
            "Password", type="password", help="Empty: they sign in with a token that you make."
        )
        if st.form_submit_button("Add"):
            do(
                "Added. Choose the name in the table to make a token.",
                lambda: atlas.add_person(name, role, password or None, email or None),
                lambda made: remember(person=made.name),  # type: ignore[attr-defined]
            )
            st.rerun()


def manage(row: PersonRow) -> None:
    heading(row.name)
    role, state = st.columns(2, gap="large")
    with role, st.form(f"change-{row.name}", border=False):
        chosen = st.selectbox("Role", ROLES, index=ROLES.index(row.role), format_func=lambda r: f"{r}: {MAY[r]}")
        email = st.text_input("E-mail", row.email or "")
        password = st.text_input("New password", type="password", help="Empty: stays as it is.")
        if st.form_submit_button("Save"):
            do(
                "Saved.",
                lambda: atlas.change_person(row.name, role=chosen, email=email, password=password or None),
            )
            st.rerun()
    with state:
        with guarded():
            token_table(atlas.tokens(row.name))
        new_token(row.name)
        if row.disabled:
            verb, told = "Enable", "Enabled: may sign in again."
        else:
            verb, told = "Disable", "Disabled, and signed out everywhere. What the person wrote stays."
        st.button(
            f"{verb} this account",
            on_click=do,
            args=(told, lambda: atlas.change_person(row.name, disabled=not row.disabled)),
        )


said()
own_account(me)
if me.role == "admin":
    with guarded():
        rows = atlas.people()
    heading("Everybody")
    everybody(rows)
    add_somebody()
    found = [row for row in rows if row.name == asked("person")]
    if found and found[0].name != me.name:
        manage(found[0])
