"""What the graph store has not been told yet. An entry is written in the transaction of the change it announces.

Entries say what changed, not how: applying one projects the state the catalog has then, so that applying twice or late
does no harm. Only `delete` carries a payload, because the circuit is gone from the catalog when it is applied.
"""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session, undefer

from atlas.catalog.tables import OutboxEntry
from atlas.catalog.values import clean, now

Action = Literal["put", "describe", "evidence", "delete", "features", "concept", "collection", "rebuild"]


def announce(session: Session, action: Action, subject: str = "", payload: bytes | None = None, **detail: Any) -> int:
    """Add an entry; returns its number."""
    entry = OutboxEntry(
        action=action, subject=subject, detail=detail, payload=payload, attempts=0, error="", created_at=now()
    )
    session.add(entry)
    session.flush()
    return entry.seq


def following(session: Session, after: int, until: int) -> OutboxEntry | None:
    """The oldest entry with a number above `after` and up to `until`, with its payload."""
    query = select(OutboxEntry).where(OutboxEntry.seq > after, OutboxEntry.seq <= until).order_by(OutboxEntry.seq)
    return session.scalar(query.limit(1).options(undefer(OutboxEntry.payload)))


def last(session: Session) -> int:
    """The highest number, 0 when nothing is announced."""
    return session.scalar(select(func.max(OutboxEntry.seq))) or 0


def last_rebuild(session: Session) -> int:
    """The number of the last announced rebuild, 0 for none. What was announced before it is part of it."""
    return session.scalar(select(func.max(OutboxEntry.seq)).where(OutboxEntry.action == "rebuild")) or 0


def is_pending(session: Session, circuit_id: str) -> bool:
    """True while the graph store may not have this circuit as the catalog has it."""
    about = (OutboxEntry.subject == circuit_id) | (OutboxEntry.action == "rebuild")
    return session.scalar(select(OutboxEntry.seq).where(about).limit(1)) is not None


def remaining(session: Session, numbers: list[int]) -> dict[int, str]:
    """Those of `numbers` that are still there, with the error of their last attempt ('' = not tried yet)."""
    found = session.execute(select(OutboxEntry.seq, OutboxEntry.error).where(OutboxEntry.seq.in_(numbers)))
    return dict(found.all())


def done(session: Session, number: int) -> None:
    session.execute(delete(OutboxEntry).where(OutboxEntry.seq == number))


def failed(session: Session, number: int, error: str) -> None:
    """Keep the entry for a later attempt, with the reason."""
    change = {"attempts": OutboxEntry.attempts + 1, "error": clean(error)[:2000]}
    session.execute(update(OutboxEntry).where(OutboxEntry.seq == number).values(change))


def rebuild_began(session: Session, number: int) -> None:
    """The graph has been cleared for rebuild `number`: after a kill it goes on from there."""
    session.execute(update(OutboxEntry).where(OutboxEntry.seq == number).values(detail={"cleared": True}))


def rebuild_done(session: Session, number: int) -> None:
    """Also done with all that was announced before it."""
    session.execute(delete(OutboxEntry).where(OutboxEntry.seq <= number))
