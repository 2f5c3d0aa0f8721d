"""The catalog: the truth about every circuit, label and annotation, in one SQL database (SQLite or Postgres).

`database.Catalog` opens it; the other modules hold the reads and writes of one kind of record each, as functions that
take a session. Only `atlas.api` and `atlas.projection` put them together.
"""

from atlas.catalog.database import Catalog

__all__ = ["Catalog"]
