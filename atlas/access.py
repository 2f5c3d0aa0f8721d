"""Who acts, and what that person may do. Checked in the transaction of every write, never taken from a form."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from atlas.catalog import tokens
from atlas.catalog.tables import Person
from atlas.errors import AccessDenied
from atlas.group_records import ROLES, Role

__all__ = ["ROLES", "Identity", "Role", "check", "current_role"]


@dataclass(frozen=True)
class Identity:
    """An actor. `person`: has an account, so that the role is looked up at every write and `role` here does not count."""

    name: str
    role: Role = "admin"
    person: bool = False
    sign_in: str | None = None  # hash of the id of the sign-in through which the person acts, looked up like the role


def current_role(session: Session, identity: Identity) -> Role:
    """The role as of now. Raises AccessDenied for an account that is gone or disabled, or a sign-in that ended."""
    if not identity.person:
        return identity.role
    if identity.sign_in is not None:
        tokens.person_of_sign_in(session, identity.sign_in)
    row = session.get(Person, identity.name)
    if row is None or row.disabled:
        raise AccessDenied(f"The account {identity.name!r} is disabled.", "Ask an admin of this atlas.")
    return row.role  # type: ignore[return-value]


def check(session: Session, identity: Identity, needed: Role) -> None:
    """Raises AccessDenied unless the actor has the role `needed` or a higher one."""
    role = current_role(session, identity)
    if ROLES.index(role) < ROLES.index(needed):
        raise AccessDenied(
            f"This needs the role {needed}, and {identity.name!r} has the role {role}.",
            "Ask an admin of this atlas for it.",
        )
