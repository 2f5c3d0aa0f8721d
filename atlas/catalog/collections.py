"""Collections: named sets of circuits."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from atlas.catalog import audit
from atlas.catalog.tables import CollectionRow, Membership
from atlas.catalog.values import chunks, clean, now
from atlas.errors import NotFound, UsageError


def checked(name: str) -> str:
    """The name as it is stored. Raises UsageError when it is blank."""
    if not name.strip():
        raise UsageError("The collection has no name.", "Pass a name that is not blank.")
    return clean(name.strip())


def put(session: Session, name: str, circuit_id: str) -> bool:
    """Put a circuit into a collection (`checked` name), made if missing. True when something changed."""
    if session.get(CollectionRow, name) is None:
        session.add(CollectionRow(name=name, author=audit.actor(session), created_at=now()))
        session.flush()
        audit.record(session, "create collection", name)
    if session.get(Membership, (name, circuit_id)) is not None:
        return False
    session.add(Membership(collection=name, circuit_id=circuit_id, author=audit.actor(session), created_at=now()))
    audit.record(session, "collect", circuit_id, collection=name)
    return True


def names(session: Session) -> list[str]:
    return list(session.scalars(select(CollectionRow.name).order_by(CollectionRow.name)))


def get(session: Session, name: str) -> tuple[str, list[str]]:
    """(author, circuit ids). Raises NotFound naming the known collections."""
    row = session.get(CollectionRow, clean(name.strip()))
    if row is None:
        known = names(session)
        some = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "") or "none"
        raise NotFound(f"There is no collection {name!r}.", f"Known collections: {some}.")
    members = select(Membership.circuit_id).where(Membership.collection == row.name).order_by(Membership.circuit_id)
    return row.author, list(session.scalars(members))


def members_query(session: Session, name: str) -> Select[Any]:
    """Subquery of the circuit ids of a collection. Raises NotFound."""
    get(session, name)
    return select(Membership.circuit_id).where(Membership.collection == clean(name.strip()))


def of_circuits(session: Session, ids: list[str]) -> dict[str, list[str]]:
    """Collections by circuit id, sorted by name."""
    found: dict[str, list[str]] = {}
    for batch in chunks(ids):
        query = select(Membership.circuit_id, Membership.collection).where(Membership.circuit_id.in_(batch))
        for circuit_id, name in session.execute(query.order_by(Membership.collection)):
            found.setdefault(circuit_id, []).append(name)
    return found
