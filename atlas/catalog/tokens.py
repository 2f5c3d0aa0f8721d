"""Rows of access tokens and of sign-ins, of which only hashes are kept; nothing here checks who may do what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from atlas.catalog import audit
from atlas.catalog.tables import AccessToken, Person, SignIn
from atlas.catalog.values import new_id, now
from atlas.errors import AccessDenied, AtlasError, NotFound, UsageError
from atlas.group_records import TokenRow

LONGEST_DAYS = 3650


def add(session: Session, person: Person, name: str, hash: str, days: float | None) -> AccessToken:
    """Raises UsageError unless `days` is in 0 to 3650."""
    if days is not None and not 0 < days <= LONGEST_DAYS:
        raise UsageError(
            f"A token cannot work for {days:g} days.", f"Pass 1 to {LONGEST_DAYS} days, or none for one without an end."
        )
    token = AccessToken(
        id=new_id(),
        person=person.name,
        name=name,
        hash=hash,
        created_at=now(),
        created_by=audit.actor(session),
        expires_at=None if days is None else later(days),
        revoked_at=None,
        used_at=None,
    )
    session.add(token)
    session.flush()
    audit.record(session, "new_token", person.name, token=token.id, name=token.name, expires_at=token.expires_at)
    return token


def by_hash(session: Session, hash: str) -> AccessToken | None:
    return session.scalar(select(AccessToken).where(AccessToken.hash == hash))


def get(session: Session, token_id: str) -> AccessToken:
    """By its id or a unique beginning of it of 8 characters or more. Raises NotFound."""
    exact = session.get(AccessToken, token_id)
    if exact is not None:
        return exact
    found = []
    if len(token_id) >= 8:
        found = list(session.scalars(select(AccessToken).where(AccessToken.id.startswith(token_id, autoescape=True))))
    if len(found) != 1:
        raise unknown(token_id)
    return found[0]


def unknown(token_id: str) -> AtlasError:
    return NotFound(f"There is no access token {token_id[:40]!r}.", "`atlas people tokens` lists them.")


def of(session: Session, person: str | None) -> list[AccessToken]:
    """Newest first; None = everybody's."""
    query = select(AccessToken).order_by(AccessToken.created_at.desc(), AccessToken.id.desc())
    return list(session.scalars(query if person is None else query.where(AccessToken.person == person)))


def revoke(session: Session, token: AccessToken) -> None:
    """Sign-ins made with it end too. One that is revoked already stays as it is."""
    if token.revoked_at is None:
        token.revoked_at = now()
        end_sign_ins(session, SignIn.token_id == token.id)
        session.flush()
        audit.record(session, "revoke_token", token.person, token=token.id, name=token.name)


def row(token: AccessToken) -> TokenRow:
    return TokenRow(
        id=token.id,
        person=token.person,
        name=token.name,
        created_at=token.created_at,
        created_by=token.created_by,
        expires_at=token.expires_at,
        revoked_at=token.revoked_at,
        used_at=token.used_at,
    )


def counts(session: Session) -> dict[str, int]:
    """Person -> tokens that work."""
    works = AccessToken.revoked_at.is_(None) & (AccessToken.expires_at.is_(None) | (AccessToken.expires_at > now()))
    query = select(AccessToken.person, func.count()).where(works).group_by(AccessToken.person)
    return dict(session.execute(query).all())


def check(token: AccessToken) -> None:
    """Raises AccessDenied for one that was revoked or has expired."""
    named = f"The access token {token.name!r}" if token.name else "The access token"
    if token.revoked_at is not None:
        raise AccessDenied(f"{named} was revoked.", "Ask for a new one, or sign in with another.")
    if token.expires_at is not None and token.expires_at <= now():
        raise AccessDenied(f"{named} has expired.", "Ask for a new one, or sign in with another.")


def disabled(name: str) -> AtlasError:
    return AccessDenied(f"The account {name!r} is disabled.", "Ask an admin of this atlas.")


# -- sign-ins


def add_sign_in(session: Session, id_hash: str, person: str, token_id: str | None, days: float) -> None:
    """`id_hash`: what is kept of the id that the browser holds."""
    session.add(
        SignIn(id=id_hash, person=person, token_id=token_id, created_at=now(), expires_at=later(days), ended_at=None)
    )
    session.flush()


def person_of_sign_in(session: Session, id_hash: str) -> Person:
    """Who signed in. Raises AccessDenied when the sign-in, its token or its account has ended."""
    found = session.get(SignIn, id_hash)
    if found is None:
        raise AccessDenied("You are not signed in.", "Sign in first.")
    person = session.get(Person, found.person)
    if person is None or person.disabled:
        raise disabled(found.person)
    token = session.get(AccessToken, found.token_id) if found.token_id else None
    if token is not None:
        check(token)
    if found.ended_at is not None or found.expires_at <= now():
        raise AccessDenied("Your sign-in has ended.", "Sign in again.")
    return person


def end_sign_ins(session: Session, *which: ColumnElement[bool]) -> None:
    session.execute(update(SignIn).where(SignIn.ended_at.is_(None), *which).values(ended_at=now()))


def later(days: float) -> str:
    """The time that many days from now."""
    return (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="microseconds")
