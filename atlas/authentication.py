"""From a secret to an actor: access tokens, passwords, and the sign-ins of browsers. Used by the pages, HTTP and MCP.

Every function raises AccessDenied with one sentence for whoever may not come in, and StoreUnavailable when the catalog
cannot be asked. The answer to a wrong name and to a wrong secret is the same, and takes as long.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from sqlalchemy.orm import Session

from atlas import credentials
from atlas.base import AtlasBase
from atlas.catalog import audit, tokens
from atlas.catalog import people as store
from atlas.catalog.tables import AccessToken, Meta, Person, SignIn
from atlas.catalog.values import now
from atlas.errors import AccessDenied, StoreUnavailable
from atlas.group_records import PersonRow

A = TypeVar("A", bound=AtlasBase)
SIGN_IN_DAYS = 14
_USED_EVERY = timedelta(minutes=5)  # `used_at` is written at most this often: asking must not become writing
_COOKIE_SECRET = "cookie_secret"
_attempts: dict[str, credentials.Attempts] = {}
_guard = threading.Lock()


def with_token(atlas: A, secret: str) -> A:
    """The atlas for the person of an access token."""
    with atlas.catalog.read() as session:
        token, person = _of_token(session, secret)
    if token is None or person is None:
        raise AccessDenied("The access token is not known.", "Pass one that `atlas people token` made.")
    _note_use(atlas, token)
    return atlas.acting_as(person.name)


def sign_in(atlas: AtlasBase, name: str, secret: str) -> tuple[str, PersonRow]:
    """Check a name with a password or an access token: (id of a new sign-in, who it is).

    The id is a secret for the browser's cookie; the catalog keeps a hash of it. Failing tries are limited per name and
    for all together; tokens cannot be guessed and are not limited.
    """
    if credentials.looks_like_token(secret):
        with atlas.catalog.read() as session:
            token, person = _of_token(session, secret)
        fits = person is not None and credentials.same(person.folded, store.folded(name))
    else:
        token, person = None, _with_password(atlas, name, secret)
        fits = person is not None
    if not fits or person is None:
        raise AccessDenied(
            "The name, or the password or token, is wrong.", "Check both; an admin can set a new password."
        )
    if person.disabled:
        raise tokens.disabled(person.name)
    id, owner, token_id = secrets.token_urlsafe(32), person.name, token.id if token else None

    def work(session: Session) -> PersonRow:
        tokens.add_sign_in(session, credentials.digest(id), owner, token_id, SIGN_IN_DAYS)
        audit.record(session, "sign_in", owner, by="token" if token_id else "password")
        return store.rows(session, [store.get(session, owner)])[0]

    row = atlas.catalog.write(owner, work)
    if token:
        _note_use(atlas, token)
    return id, row


def with_sign_in(atlas: A, sign_in_id: str) -> A:
    """The atlas for the person of a sign-in that is still good: not ended, nor its token or its account."""
    hashed = credentials.digest(sign_in_id)
    with atlas.catalog.read() as session:
        person = tokens.person_of_sign_in(session, hashed)
    other = atlas.acting_as(person.name)
    other.identity = replace(other.identity, sign_in=hashed)  # so that every write looks again
    return other


def sign_out(atlas: AtlasBase, sign_in_id: str) -> None:
    """End a sign-in; one that is unknown or ended already stays as it is."""
    hashed = credentials.digest(sign_in_id)
    with atlas.catalog.read() as session:
        found = session.get(SignIn, hashed)
    if found is None or found.ended_at is not None:
        return

    def work(session: Session) -> None:
        tokens.end_sign_ins(session, SignIn.id == hashed)
        audit.record(session, "sign_out", found.person)

    atlas.catalog.write(found.person, work)


def with_email(atlas: A, email: str) -> A:
    """The atlas for the account with this e-mail address. The caller has it from an identity provider that verified it."""
    with atlas.catalog.read() as session:
        person = store.by_email(session, email)
    if person is None:
        raise AccessDenied("No account of this atlas has your e-mail address.", "Ask an admin to add it.")
    if person.disabled:
        raise tokens.disabled(person.name)
    return atlas.acting_as(person.name)


def proves(atlas: AtlasBase, name: str, password: str) -> bool:
    """Whether this is the password of that account, e.g. before it is changed. Counts as a try to sign in."""
    return _with_password(atlas, name, password) is not None


def _with_password(atlas: AtlasBase, name: str, password: str) -> Person | None:
    """The person, disabled or not, whose password this is. Every call counts as a try until one fits."""
    attempts = _attempts_of(atlas)
    attempts.take(store.folded(name))
    with atlas.catalog.read() as session:
        person = store.find(session, name)
    if not credentials.is_password(person.password_hash if person else None, password):
        return None
    attempts.forget(store.folded(name))
    return person


def cookie_secret(atlas: AtlasBase) -> bytes:
    """32 bytes that sign the cookies of this atlas; made at the first call, the same for all its servers."""
    with atlas.catalog.read() as session:
        kept = session.get(Meta, _COOKIE_SECRET)
    if kept is None:

        def work(session: Session) -> Meta:
            there = session.get(Meta, _COOKIE_SECRET)  # another server was faster
            if there is None:
                there = Meta(key=_COOKIE_SECRET, value={"hex": secrets.token_hex(32)})
                session.add(there)
            return there

        kept = atlas.catalog.write(atlas.actor, work)
    return bytes.fromhex(kept.value["hex"])


# -- inside


def _of_token(session: Session, secret: str) -> tuple[AccessToken | None, Person | None]:
    """The token and its person, (None, None) if there is no such token. Raises AccessDenied for one that ended."""
    hashed = credentials.digest(secret)
    token = tokens.by_hash(session, hashed)
    if token is None or not credentials.same(token.hash, hashed):
        return None, None
    person = session.get(Person, token.person)
    if person is None or person.disabled:
        raise tokens.disabled(token.person)
    tokens.check(token)
    return token, person


def _note_use(atlas: AtlasBase, token: AccessToken) -> None:
    if token.used_at is not None and datetime.fromisoformat(token.used_at) > datetime.now(UTC) - _USED_EVERY:
        return

    def work(session: Session) -> None:
        there = session.get(AccessToken, token.id)
        if there is not None:
            there.used_at = now()

    with contextlib.suppress(StoreUnavailable):  # a catalog that cannot be written can still be asked
        atlas.catalog.write(token.person, work)


def _attempts_of(atlas: AtlasBase) -> credentials.Attempts:
    with _guard:
        return _attempts.setdefault(atlas.catalog.place, credentials.Attempts())
