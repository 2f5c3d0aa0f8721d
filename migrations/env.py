"""Alembic's entry point. `atlas.catalog.migrate` passes an open connection; there is no ini file and no offline mode."""

from __future__ import annotations

from alembic import context

from atlas.catalog.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite cannot alter a column in place
)
with context.begin_transaction():
    context.run_migrations()
