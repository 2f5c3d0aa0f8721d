"""Interventions in the real model, and what was measured of a circuit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "interventions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("circuit_id", sa.String(), nullable=False),
        sa.Column("battery", sa.String(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("nodes", sa.JSON(), nullable=False),
        sa.Column("mark", sa.String(), nullable=False),
        sa.Column("predicted", sa.Double(), nullable=True),
        sa.Column("measured", sa.Double(), nullable=True),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["circuit_id"], ["circuits.id"], name=op.f("fk_interventions_circuit_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_interventions")),
    )
    op.create_index(op.f("ix_interventions_battery"), "interventions", ["battery"], unique=False)
    op.create_index(
        op.f("ix_interventions_circuit_id_created_at_id"),
        "interventions",
        ["circuit_id", "created_at", "id"],
        unique=False,
    )
    op.create_table(
        "measurements",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("circuit_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["circuit_id"], ["circuits.id"], name=op.f("fk_measurements_circuit_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measurements")),
    )
    op.create_index(
        op.f("ix_measurements_circuit_id_kind_created_at"),
        "measurements",
        ["circuit_id", "kind", "created_at"],
        unique=False,
    )


def downgrade() -> None:
    for table in ("measurements", "interventions"):
        op.drop_table(table)
