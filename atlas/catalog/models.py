"""Models and transcoder sets: names, aliases, and the revisions and hashes they were seen with."""

from __future__ import annotations

import re

from sqlalchemy import select
from sqlalchemy.orm import Session

from atlas.catalog import audit
from atlas.catalog.tables import ModelAlias, ModelRow, ModelVersion, SetAlias, SetRow, SetVersion
from atlas.catalog.values import clean, new_id, now
from atlas.circuit import UNKNOWN, ModelRef, SetRef
from atlas.errors import InputRejected, NotFound

_PATH = re.compile(r"^(/|~|\.{1,2}([/\\]|$)|[A-Za-z]:[\\/]|file:)|\\")


def check_name(name: str, what: str) -> str:
    """Refuse folder paths and blanks: they mean nothing on another machine. `what` is `model` or `transcoder set`."""
    if not name.strip():
        raise InputRejected(f"The {what} has an empty name.", f"Use {UNKNOWN!r} when it is not known.")
    if _PATH.search(name):
        raise InputRejected(
            f"{name!r} is a folder, not the name of a {what}.",
            "Name it by what it is (for example google/gemma-2-2b); a folder path is never a name.",
        )
    return clean(name)


def register_model(session: Session, ref: ModelRef) -> str:
    """The id of the model of that name or alias, made if new; remembers revision and hash."""
    name = check_name(ref.name, "model")
    model_id = _model_id(session, name)
    if model_id is None:
        model_id = new_id()
        row = ModelRow(id=model_id, name=name, layers=ref.layers, created_at=now(), created_by=audit.actor(session))
        session.add(row)
        session.flush()
    elif ref.layers is not None:
        known = session.get_one(ModelRow, model_id)
        known.layers = known.layers if known.layers is not None else ref.layers
    if (ref.revision, ref.weights_hash) != (UNKNOWN, UNKNOWN):
        session.merge(ModelVersion(model_id=model_id, revision=ref.revision, weights_hash=ref.weights_hash))
    session.flush()
    return model_id


def register_set(session: Session, ref: SetRef, model_id: str) -> str:
    """The id of the model's transcoder set of that name or alias, made if new; remembers revision and hash."""
    name = check_name(ref.name, "transcoder set")
    set_id = session.scalar(
        select(SetRow.id).where(SetRow.model_id == model_id, SetRow.name == name)
    ) or session.scalar(select(SetAlias.set_id).where(SetAlias.model_id == model_id, SetAlias.alias == name))
    if set_id is None:
        set_id = new_id()
        row = SetRow(id=set_id, model_id=model_id, name=name, created_at=now(), created_by=audit.actor(session))
        session.add(row)
        session.flush()
    if (ref.revision, ref.hash) != (UNKNOWN, UNKNOWN):
        session.merge(SetVersion(set_id=set_id, revision=ref.revision, hash=ref.hash))
    session.flush()
    return set_id


def model_id(session: Session, name: str) -> str:
    """By name or alias. Raises NotFound naming the known models."""
    found = _model_id(session, name)
    if found is None:
        known = names(session)
        some = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "") or "none"
        raise NotFound(f"There is no model {name!r} in the catalog.", f"Known models: {some}.")
    return found


def names(session: Session) -> list[str]:
    return list(session.scalars(select(ModelRow.name).order_by(ModelRow.name)))


def add_alias(session: Session, name: str, alias: str) -> None:
    """Let `alias` stand for the model `name`: circuits that come under either are of one model from now on."""
    target = model_id(session, name)
    taken = _model_id(session, check_name(alias, "model"))
    if taken == target:
        return
    if taken is not None:
        raise InputRejected(f"{alias!r} is already the name of another model.", "Choose another alias.")
    session.add(ModelAlias(alias=clean(alias), model_id=target))
    audit.record(session, "alias", name, alias=alias)


def add_set_alias(session: Session, model: str, name: str, alias: str) -> None:
    """Let `alias` stand for the transcoder set `name` of `model`."""
    owner = model_id(session, model)
    by_name = dict(session.execute(select(SetRow.name, SetRow.id).where(SetRow.model_id == owner)).all())
    if name not in by_name:
        known = ", ".join(sorted(by_name)[:5]) or "none"
        raise NotFound(f"The model {model!r} has no transcoder set {name!r}.", f"Known sets: {known}.")
    if check_name(alias, "transcoder set") in by_name:
        raise InputRejected(f"{alias!r} is already the name of a set of {model!r}.", "Choose another alias.")
    session.merge(SetAlias(model_id=owner, alias=clean(alias), set_id=by_name[name]))
    audit.record(session, "alias", f"{model}/{name}", alias=alias)


def _model_id(session: Session, name: str) -> str | None:
    return session.scalar(select(ModelRow.id).where(ModelRow.name == name)) or session.scalar(
        select(ModelAlias.model_id).where(ModelAlias.alias == name)
    )
