"""Which atlas a catalog is: an id made once, which the graph store remembers so that two atlases never share a graph."""

from __future__ import annotations

from sqlalchemy.orm import Session

from atlas.catalog.database import Catalog
from atlas.catalog.tables import Meta
from atlas.catalog.values import new_id

_KEY = "catalog"


def catalog_id(catalog: Catalog) -> str:
    """The id of this catalog; made at its first use. Raises StoreUnavailable."""
    with catalog.read() as session:
        row = session.get(Meta, _KEY)
    return row.value["id"] if row else catalog.write("identity", _made)


def _made(session: Session) -> str:
    row = session.get(Meta, _KEY)  # another process may have been faster
    if row is None:
        row = Meta(key=_KEY, value={"id": new_id()})
        session.add(row)
    return row.value["id"]
