"""Concepts: a name that a person gives to a group of features, for `concept:NAME` in a question about paths."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from atlas.catalog import audit, circuits, labels
from atlas.catalog.tables import Concept
from atlas.catalog.values import clean, now
from atlas.circuit import parse_feature_key
from atlas.errors import NotFound, UsageError
from atlas.records import ConceptRow


def define(session: Session, name: str, features: list[str]) -> ConceptRow:
    """Define or redefine a concept; the actor becomes its author.

    Raises UsageError for a blank name or no feature, NotFound for a key that neither a circuit nor a label has.
    """
    name = clean(name.strip())
    keys = list(dict.fromkeys(features))
    if not name or not keys:
        raise UsageError("A concept needs a name and at least one feature.", "Pass both.")
    for key in keys:
        parse_feature_key(key)
    unknown = [k for k in keys if k not in circuits.known_features(session, keys) | labels.labelled(session, keys)]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise NotFound(f"The atlas has no feature {unknown[0]!r}{more}.", "`atlas search` lists features.")
    row = session.merge(Concept(name=name, author=audit.actor(session), features=keys, created_at=now()))
    audit.record(session, "define concept", name, features=keys)
    return _record(row)


def remove(session: Session, name: str) -> str:
    """Returns the name as it was stored. Raises NotFound."""
    row = session.get(Concept, clean(name.strip()))
    if row is None:
        known = ", ".join(concept.name for concept in all_of(session)[:5]) or "none"
        raise NotFound(f"There is no concept {name!r}.", f"Known concepts: {known}.")
    session.delete(row)
    audit.record(session, "delete concept", row.name, features=row.features)
    return row.name


def get(session: Session, name: str) -> ConceptRow | None:
    row = session.get(Concept, clean(name.strip()))
    return None if row is None else _record(row)


def all_of(session: Session) -> list[ConceptRow]:
    return [_record(row) for row in session.scalars(select(Concept).order_by(Concept.name))]


def _record(row: Concept) -> ConceptRow:
    return ConceptRow(name=row.name, author=row.author, features=list(row.features))
