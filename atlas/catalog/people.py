"""Rows of accounts, access tokens and sign-ins. Secrets come in as hashes only; nothing here checks who may do what."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from atlas.access import ROLES, Role
from atlas.catalog import audit
from atlas.catalog.tables import AccessToken, Person, SignIn
from atlas.catalog.values import new_id, now
from atlas.errors import NotFound, UsageError
from atlas.group_records import PersonRow, TokenRow

LONGEST_NAME = 64
LONGEST_DAYS = 3650
_EMAIL = re.compile(r"[^\s@<>\"'(),;:\\]{1,64}@[^\s@<>\"'(),;:\\]+\.[^\s@<>\"'(),;:\\]+")


def checked_name(name: str, what: str = "name") -> str:
    """`name` trimmed, in one Unicode form. Raises UsageError unless it has 1 to 64 characters that can be seen."""
    name = unicodedata.normalize("NFC", name).strip()
    if not 1 <= len(name) <= LONGEST_NAME:
        raise UsageError(f"The {what} has {len(name)} characters.", f"Choose one of 1 to {LONGEST_NAME} characters.")
    # isprintable is false for control, format and direction characters, line ends and half surrogate pairs
    if not name.isprintable() or name != " ".join(name.split()):
        raise UsageError(
            f"The {what} has characters that cannot be seen, or spaces in a row.",
            "Use letters, digits, signs and single spaces.",
        )
    return name


def folded(name: str) -> str:
    """What is compared: "Reader" and "reader" are one name."""
    return unicodedata.normalize("NFKC", name.strip()[: 4 * LONGEST_NAME]).casefold()


def checked_email(email: str | None) -> str | None:
    """In small letters; None for an empty one. Raises UsageError for anything that is no address."""
    email = (email or "").strip().lower()
    if not email:
        return None
    if len(email) > 254 or not email.isprintable() or not _EMAIL.fullmatch(email):
        raise UsageError("That is not an e-mail address.", "It looks like name@example.org.")
    return email


def checked_role(role: str) -> Role:
    for known in ROLES:
        if role == known:
            return known
    raise UsageError(f"There is no role {role!r}.", f"Choose one of {', '.join(ROLES)}.")


def find(session: Session, name: str) -> Person | None:
    return session.scalar(select(Person).where(Person.folded == folded(name)))


def get(session: Session, name: str) -> Person:
    """Raises NotFound."""
    person = find(session, name)
    if person is None:
        raise NotFound(f"There is no account {name!r}.", "`atlas people` lists them.")
    return person


def by_email(session: Session, email: str) -> Person | None:
    return session.scalar(select(Person).where(Person.email == email.strip().lower()))


def add(session: Session, name: str, role: Role, password_hash: str | None, email: str | None) -> Person:
    """Raises UsageError when the name or the e-mail address is taken."""
    taken = find(session, name)
    if taken is not None:
        raise UsageError(f"There is an account {taken.name!r} already.", "Choose another name.")
    _free_email(session, email, name)
    person = Person(
        name=name,
        folded=folded(name),
        role=role,
        disabled=False,
        password_hash=password_hash,
        email=email,
        visited_at=None,
        created_at=now(),
        created_by=audit.actor(session),
    )
    session.add(person)
    session.flush()
    audit.record(session, "add_person", name, role=role, password=password_hash is not None)
    return person


def change(
    session: Session,
    person: Person,
    *,
    role: Role | None = None,
    disabled: bool | None = None,
    password_hash: str | None = None,
    email: str | None = None,
) -> None:
    """None leaves a thing as it is; an `email` of '' removes it. Raises UsageError for the last enabled admin."""
    if person.role == "admin" and not person.disabled and (disabled or role not in (None, "admin")):
        # the lock makes two admins who demote each other at once wait, and look again
        admins = select(Person.name).where(Person.role == "admin", Person.disabled.is_(False)).with_for_update()
        if list(session.scalars(admins)) == [person.name]:
            raise UsageError(
                f"{person.name!r} is the last admin who can sign in.", "Make somebody else an admin first."
            )
    told: dict[str, object] = {}
    if role is not None and role != person.role:
        told["role"] = [person.role, role]
        person.role = role
    if disabled is not None and disabled != person.disabled:
        told["disabled"] = disabled
        person.disabled = disabled
        if disabled:
            end_sign_ins(session, SignIn.person == person.name)
    if email is not None and (checked_email(email)) != person.email:
        _free_email(session, checked_email(email), person.name)
        told["email"] = "changed"
        person.email = checked_email(email)
    if password_hash is not None:
        told["password"] = "changed"
        person.password_hash = password_hash
        end_sign_ins(session, SignIn.person == person.name, SignIn.token_id.is_(None))
    session.flush()
    if told:
        audit.record(session, "change_person", person.name, **told)


def rows(session: Session, people: Iterable[Person]) -> list[PersonRow]:
    working = select(AccessToken.person, func.count()).where(_works(now())).group_by(AccessToken.person)
    tokens: dict[str, int] = dict(session.execute(working).tuples().all())
    return [
        PersonRow(
            name=p.name,
            role=checked_role(p.role),
            disabled=p.disabled,
            email=p.email,
            has_password=p.password_hash is not None,
            tokens=tokens.get(p.name, 0),
            created_at=p.created_at,
            created_by=p.created_by,
        )
        for p in people
    ]


def everybody(session: Session) -> list[Person]:
    return list(session.scalars(select(Person).order_by(Person.folded)))


# -- access tokens


def add_token(session: Session, person: Person, name: str, hash: str, days: float | None) -> AccessToken:
    """Raises UsageError unless `days` is in 0 to 3650."""
    if days is not None and not 0 < days <= LONGEST_DAYS:
        raise UsageError(
            f"A token cannot work for {days:g} days.", f"Pass 1 to {LONGEST_DAYS} days, or none for one without an end."
        )
    token = AccessToken(
        id=new_id(),
        person=person.name,
        name=checked_name(name, "name of the token") if name.strip() else "",
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


def token_by_hash(session: Session, hash: str) -> AccessToken | None:
    return session.scalar(select(AccessToken).where(AccessToken.hash == hash))


def get_token(session: Session, token_id: str) -> AccessToken:
    """By its id or a unique beginning of it of 8 characters or more. Raises NotFound."""
    exact = session.get(AccessToken, token_id)
    if exact is not None:
        return exact
    found = []
    if len(token_id) >= 8:
        found = list(session.scalars(select(AccessToken).where(AccessToken.id.startswith(token_id, autoescape=True))))
    if len(found) != 1:
        raise NotFound(f"There is no access token {token_id!r}.", "`atlas people tokens` lists them.")
    return found[0]


def tokens_of(session: Session, person: str | None) -> list[AccessToken]:
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


def token_row(token: AccessToken) -> TokenRow:
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


def _works(at: str) -> ColumnElement[bool]:
    return AccessToken.revoked_at.is_(None) & (AccessToken.expires_at.is_(None) | (AccessToken.expires_at > at))


# -- sign-ins


def add_sign_in(session: Session, id_hash: str, person: str, token_id: str | None, days: float) -> None:
    """`id_hash`: what is kept of the id that the browser holds."""
    session.add(
        SignIn(id=id_hash, person=person, token_id=token_id, created_at=now(), expires_at=later(days), ended_at=None)
    )
    session.flush()


def end_sign_ins(session: Session, *which: ColumnElement[bool]) -> None:
    session.execute(update(SignIn).where(SignIn.ended_at.is_(None), *which).values(ended_at=now()))


def later(days: float) -> str:
    """The time that many days from now."""
    return (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="microseconds")


def _free_email(session: Session, email: str | None, name: str) -> None:
    other = by_email(session, email) if email else None
    if other is not None and other.name != name:
        raise UsageError(f"The e-mail address belongs to {other.name!r}.", "Give each account its own.")
