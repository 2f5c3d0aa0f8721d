"""Collections: named sets of circuits."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.orm import Session

from atlas.catalog import annotation_log, audit
from atlas.catalog.annotation_log import NAME_LIMIT
from atlas.catalog.tables import CollectionRow, Membership
from atlas.catalog.values import chunks, clean, now
from atlas.errors import NotFound, UsageError
from atlas.group_records import CollectionInfo


def checked(name: str) -> str:
    """The name as it is stored. Raises UsageError when it is blank or too long."""
    if not name.strip():
        raise UsageError("The collection has no name.", "Pass a name that is not blank.")
    if len(name.strip()) > NAME_LIMIT:
        raise UsageError(f"The collection's name has {len(name.strip()):,} characters.", f"It may have {NAME_LIMIT}.")
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


def create(session: Session, name: str) -> str:
    """An empty collection; returns its name as it is stored. Raises UsageError when there is one of that name."""
    name = checked(name)
    if session.get(CollectionRow, name) is not None:
        raise UsageError(
            f"There is a collection {name!r} already.", "Choose another name, or add circuits to that one."
        )
    session.add(CollectionRow(name=name, author=audit.actor(session), created_at=now()))
    session.flush()
    audit.record(session, "create collection", name)
    return name


def take_out(session: Session, name: str, circuit_id: str) -> bool:
    """Take a circuit out of a collection. False when it was not in it."""
    row = session.get(Membership, (clean(name.strip()), circuit_id))
    if row is None:
        return False
    session.delete(row)
    audit.record(session, "uncollect", circuit_id, collection=row.collection)
    return True


def rename(session: Session, old: str, new: str) -> tuple[str, str]:
    """Another name for a collection and its annotations; returns both names as stored.

    Raises NotFound for an unknown one, UsageError when the new name is taken.
    """
    get(session, old)
    old, new = clean(old.strip()), checked(new)
    if old == new:
        return old, new
    if session.get(CollectionRow, new) is not None:
        raise UsageError(f"There is a collection {new!r} already.", "Choose another name.")
    row = session.get_one(CollectionRow, old)
    session.add(CollectionRow(name=new, author=row.author, created_at=row.created_at))
    session.flush()
    session.execute(update(Membership).where(Membership.collection == old).values(collection=new))
    session.execute(delete(CollectionRow).where(CollectionRow.name == old))
    annotation_log.rename_subject(session, f"collection:{old}", f"collection:{new}")
    audit.record(session, "rename collection", new, old=old)
    return old, new


def remove(session: Session, name: str) -> str:
    """Delete a collection, not its circuits; returns the name as it was stored. Raises NotFound."""
    _, members = get(session, name)
    name = clean(name.strip())
    session.execute(delete(Membership).where(Membership.collection == name))
    session.execute(delete(CollectionRow).where(CollectionRow.name == name))
    audit.record(session, "delete collection", name, circuits=len(members))
    return name


def infos(session: Session, name: str | None = None) -> list[CollectionInfo]:
    """All collections by name, or the one of that stored name."""
    counted = func.count(Membership.circuit_id)
    query = (
        select(CollectionRow, counted)
        .outerjoin(Membership, Membership.collection == CollectionRow.name)
        .group_by(CollectionRow.name)
        .order_by(CollectionRow.name)
    )
    if name is not None:
        query = query.where(CollectionRow.name == name)
    return [
        CollectionInfo(
            name=row.name,
            author=row.author,
            created_at=row.created_at,
            circuits=count,
            note=annotation_log.newest_note(session, f"collection:{row.name}"),
        )
        for row, count in session.execute(query)
    ]


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
