"""Who is at the browser. Only where the setting `accounts` is on; looked up at every run, so that disabling works at once."""

from __future__ import annotations

import logging

import streamlit as st

from atlas import people
from atlas.api import Atlas
from atlas.errors import AccessDenied
from atlas.group_records import PersonRow
from ui import cookies, markup

log = logging.getLogger(__name__)
SIGN_IN = "/sign-in"


def has_provider() -> bool:
    """Whether an identity provider is configured: [auth] in .streamlit/secrets.toml."""
    try:
        return "auth" in st.secrets
    except (FileNotFoundError, st.errors.StreamlitSecretNotFoundError):
        return False


def person_at(atlas: Atlas) -> Atlas:
    """`atlas` for the person at the browser: known to the identity provider, else by the cookie. Raises AccessDenied."""
    if has_provider() and st.user.get("is_logged_in"):
        email = st.user.get("email")
        if not email or st.user.get("email_verified") is False:
            raise AccessDenied("The identity provider gave no verified e-mail address.", "Ask an admin of this atlas.")
        return people.with_email(atlas, str(email))
    value = st.context.cookies.get(cookies.name(atlas.settings.https))
    sign_in_id = cookies.unseal(people.cookie_secret(atlas), value)
    if sign_in_id is None:
        raise AccessDenied("You are not signed in.", "Sign in first.")
    return people.with_sign_in(atlas, sign_in_id)


def current_user() -> PersonRow | None:
    """Who is signed in; None on a laptop, where nobody needs to. Shows the way in and ends the page for anybody else."""
    from ui.shared import get_atlas

    atlas = get_atlas()
    return atlas.whoami() if atlas.settings.accounts else None


def way_in(error: AccessDenied) -> None:
    """Why nothing is shown, and where to sign in."""
    from ui.shared import begin, problem, show

    log.info("refused: %s", error)
    begin()
    problem(error)
    show(markup.tag("p", markup.tag("a", "Sign in", href=SIGN_IN, target="_self"), cls="ca-line"))
    if has_provider():
        st.button("Sign in with the identity provider", on_click=st.login)
        if st.user.get("is_logged_in"):
            st.button("Sign out of the identity provider", on_click=st.logout)


def account_bar(person: PersonRow) -> None:
    """Name and sign-out, in the top of every page."""
    from ui.shared import show

    if has_provider() and st.user.get("is_logged_in"):
        leave = markup.tag("span")
        with st.container(key="ca-leave"):
            st.button("Sign out", on_click=st.logout)
    else:
        button = markup.tag("button", "Sign out", type="submit")
        leave = markup.tag("form", button, method="post", action="/auth/logout")
    who = markup.tag("a", person.name, href="people", title=f"{person.name}, {person.role}")
    show(markup.tag("div", who, leave, cls="ca-account"))
