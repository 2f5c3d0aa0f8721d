"""Rows of accounts. Passwords come in as hashes only; nothing here checks who may do what."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from atlas.catalog import audit, tokens
from atlas.catalog.tables import Person, SignIn
from atlas.catalog.values import now
from atlas.errors import NotFound, UsageError
from atlas.group_records import ROLES, PersonRow, Role

LONGEST_NAME = 64
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
            tokens.end_sign_ins(session, SignIn.person == person.name)
    if email is not None and (checked_email(email)) != person.email:
        _free_email(session, checked_email(email), person.name)
        told["email"] = "changed"
        person.email = checked_email(email)
    if password_hash is not None:
        told["password"] = "changed"
        person.password_hash = password_hash
        tokens.end_sign_ins(session, SignIn.person == person.name, SignIn.token_id.is_(None))
    session.flush()
    if told:
        audit.record(session, "change_person", person.name, **told)


def rows(session: Session, people: Iterable[Person]) -> list[PersonRow]:
    working = tokens.counts(session)
    return [
        PersonRow(
            name=p.name,
            role=checked_role(p.role),
            disabled=p.disabled,
            email=p.email,
            has_password=p.password_hash is not None,
            tokens=working.get(p.name, 0),
            created_at=p.created_at,
            created_by=p.created_by,
        )
        for p in people
    ]


def everybody(session: Session) -> list[Person]:
    return list(session.scalars(select(Person).order_by(Person.folded)))


def _free_email(session: Session, email: str | None, name: str) -> None:
    other = by_email(session, email) if email else None
    if other is not None and other.name != name:
        raise UsageError(f"The e-mail address belongs to {other.name!r}.", "Give each account its own.")
