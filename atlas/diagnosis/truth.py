"""The catalog: its schema, whether it takes writes, and the embeddings of its labels."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from atlas.api import Atlas
from atlas.catalog import Catalog, audit, migrate, outbox
from atlas.catalog import labels as label_store
from atlas.catalog.tables import Label, Meta
from atlas.catalog.values import chunks, new_id
from atlas.diagnosis.check import MEND, Check, nothing, told
from atlas.errors import AtlasError, SchemaMismatch
from atlas.settings import Settings

NAME = "catalog"


def open_catalog(settings: Settings, mend: bool) -> tuple[Atlas | None, Check]:
    """The open atlas, None when it cannot be used, and what was found."""
    try:
        found = _revision(settings)
        older = found is not None and found.isdigit() and found < migrate.HEAD
        if older and not mend:
            what = f"schema {found} of an older version, this program writes {migrate.HEAD}"
            return None, Check(
                name=NAME, ok=False, found=what, hint=f"{MEND} `atlas migrate` and every other verb do it too."
            )
        atlas = Atlas.open(settings=settings)
    except AtlasError as error:
        return None, told(NAME, error)
    try:
        _try_a_write(atlas)
        what = f"{atlas.catalog.count_circuits()} circuits, schema {migrate.HEAD}"
    except AtlasError as error:
        return atlas, told(NAME, error)
    return atlas, Check(name=NAME, ok=True, found=what + (f", was schema {found}" if older else ""), mended=older)


def _revision(settings: Settings) -> str | None:
    home = settings.home.expanduser().absolute()
    catalog = Catalog(settings.model_copy(update={"home": home}).resolved_catalog_url())
    try:
        if catalog.is_sqlite and not catalog.file.exists():
            return None
        return migrate.revision(catalog)
    finally:
        catalog.close()


class _Undo(Exception):
    pass


def _try_a_write(atlas: Atlas) -> None:
    """Raises StoreUnavailable when the catalog is read-only. Leaves nothing behind."""

    def work(session: Session) -> None:
        session.add(Meta(key=f"doctor {new_id()}", value={}))
        session.flush()
        raise _Undo

    with suppress(_Undo):
        atlas.catalog.write(atlas.actor, work)


def encoder(atlas: Atlas, mend: bool) -> Check:
    """The encoder of the settings, and that of the stored embeddings."""
    name = "encoder"
    try:
        found = atlas.encoder
    except SchemaMismatch as error:
        if not mend:
            return told(name, error)
        try:
            atlas.rebuild()  # embeds again, and makes the vector index of the graph anew
        except AtlasError as fault:
            return Check(name=name, ok=False, found=error.message, hint=str(fault))
        return Check(name=name, ok=True, found=error.message, mended=True)
    except AtlasError as error:
        return told(name, error)
    if found is None:
        return Check(name=name, ok=True, found="none: search is full text only", hint="pip install 'circuit-atlas[ui]'")
    return Check(name=name, ok=True, found=f"{found.name}, {found.dimension} numbers")


def embeddings(atlas: Atlas, mend: bool) -> Check:
    """Labels that search by meaning cannot find."""
    name = "embeddings"
    try:
        found = atlas.encoder
    except AtlasError:
        return nothing(name)  # told already
    if found is None:
        return nothing(name)
    with atlas.catalog.read() as session:
        missing = [label for label, _ in label_store.without_embedding(session, found.name)]
    if not missing:
        return Check(name=name, ok=True, found="every label has one")
    what = f"{len(missing)} labels have none, so that search by meaning does not find them"
    if not mend:
        return Check(name=name, ok=False, found=what, hint=MEND)
    try:
        _embed(atlas, missing)
    except AtlasError as error:
        return Check(name=name, ok=False, found=what, hint=str(error))
    return Check(name=name, ok=True, found=what, mended=True)


def _embed(atlas: Atlas, label_ids: list[str]) -> None:
    atlas._embed_again(None)

    def announce(session: Session) -> list[int]:
        keys: list[Any] = []
        for batch in chunks(label_ids):
            keys += session.scalars(select(Label.feature).where(Label.id.in_(batch)))
        audit.record(session, "mend", "embeddings", labels=len(label_ids))
        return [outbox.announce(session, "features", keys=list(batch)) for batch in chunks(sorted(set(keys)))]

    atlas._project(atlas._write(announce, "admin"))
