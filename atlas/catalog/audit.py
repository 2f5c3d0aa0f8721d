"""Who did what, when. Every write adds a row in its own transaction; rows are never changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from atlas.catalog.tables import Audit
from atlas.catalog.values import new_id, now


@dataclass(frozen=True)
class AuditRow:
    at: str
    actor: str
    verb: str
    subject: str
    detail: dict[str, Any]


def actor(session: Session) -> str:
    """Who signs what this session writes."""
    return session.info["actor"]


def record(session: Session, verb: str, subject: str, **detail: Any) -> None:
    session.add(Audit(id=new_id(), at=now(), actor=actor(session), verb=verb, subject=subject, detail=detail))


def rows(session: Session, subject: str | None = None, limit: int = 100) -> list[AuditRow]:
    """Newest first; `subject` is a circuit id, a feature key, or a name."""
    query = select(Audit).order_by(Audit.at.desc(), Audit.id.desc()).limit(limit)
    if subject is not None:
        query = query.where(Audit.subject == subject)
    return [AuditRow(r.at, r.actor, r.verb, r.subject, r.detail) for r in session.scalars(query)]
