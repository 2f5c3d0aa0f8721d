"""Reading the audit log (`audit` writes it)."""

from __future__ import annotations

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from atlas.catalog.tables import Audit
from atlas.group_records import AuditEntry
from atlas.records import Table

# what only admins and those whom it concerns may read
OF_PEOPLE = ("add_person", "change_person", "new_token", "revoke_token", "sign_in", "sign_out")


def entries(
    session: Session,
    subject: str | None = None,
    actor: str | None = None,
    verb: str | None = None,
    since: str | None = None,
    limit: int = 100,
    seer: str | None = None,
) -> Table[AuditEntry]:
    """Newest first. `subject` also finds its nodes and edges (SUBJECT#...). `seer`: leave out what is not for that person."""
    query = select(Audit).order_by(Audit.at.desc(), Audit.id.desc()).limit(limit)
    if subject is not None:
        query = query.where(or_(Audit.subject == subject, Audit.subject.startswith(f"{subject}#", autoescape=True)))
    if actor is not None:
        query = query.where(Audit.actor == actor)
    if verb is not None:
        query = query.where(Audit.verb == verb)
    if since is not None:
        query = query.where(Audit.at >= since)
    if seer is not None:
        query = query.where(or_(Audit.verb.not_in(OF_PEOPLE), Audit.subject == seer, Audit.actor == seer))
    return Table(
        AuditEntry(at=r.at, actor=r.actor, verb=r.verb, subject=r.subject, detail=r.detail)
        for r in session.scalars(query)
    )
