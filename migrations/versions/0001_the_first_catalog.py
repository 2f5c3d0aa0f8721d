"""The first catalog."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("at", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("verb", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_at"), "audit", ["at"], unique=False)
    op.create_index(op.f("ix_audit_subject"), "audit", ["subject"], unique=False)
    op.create_table(
        "catalog_meta",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_catalog_meta")),
    )
    op.create_table(
        "collections",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_collections")),
    )
    op.create_table(
        "concepts",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("features", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_concepts")),
    )
    op.create_table(
        "labels",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("feature", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("random_score", sa.Double(), nullable=True),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("examples", sa.JSON(), nullable=False),
        sa.Column("promoted", sa.JSON(), nullable=False),
        sa.Column("suppressed", sa.JSON(), nullable=False),
        sa.Column("embedding", sa.LargeBinary(), nullable=True),
        sa.Column("encoder", sa.String(), nullable=True),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_labels")),
    )
    op.create_index(op.f("ix_labels_feature_rank_id"), "labels", ["feature", "rank", "id"], unique=False)
    op.create_table(
        "models",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("layers", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("name", name=op.f("uq_models_name")),
    )
    op.create_table(
        "projection_outbox",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_projection_outbox")),
    )
    op.create_index(op.f("ix_projection_outbox_subject"), "projection_outbox", ["subject"], unique=False)
    op.create_table(
        "model_aliases",
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_model_aliases_model_id")),
        sa.PrimaryKeyConstraint("alias", name=op.f("pk_model_aliases")),
    )
    op.create_table(
        "model_versions",
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("weights_hash", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_model_versions_model_id")),
        sa.PrimaryKeyConstraint("model_id", "revision", "weights_hash", name=op.f("pk_model_versions")),
    )
    op.create_table(
        "transcoder_sets",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_transcoder_sets_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transcoder_sets")),
        sa.UniqueConstraint("model_id", "name", name=op.f("uq_transcoder_sets_model_id_name")),
    )
    op.create_table(
        "circuits",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("blob", sa.LargeBinary(), nullable=False),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("trace_key", sa.String(), nullable=False),
        sa.Column("prompt_key", sa.String(), nullable=False),
        sa.Column("replicate_group", sa.String(), nullable=False),
        sa.Column("counted_group", sa.String(), nullable=True),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("set_id", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("weight_unit", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("prompt", sa.String(), nullable=False),
        sa.Column("search_text", sa.String(), nullable=False),
        sa.Column("nodes", sa.Integer(), nullable=False),
        sa.Column("edges", sa.Integer(), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_circuits_model_id")),
        sa.ForeignKeyConstraint(["set_id"], ["transcoder_sets.id"], name=op.f("fk_circuits_set_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_circuits")),
        sa.UniqueConstraint("counted_group", name=op.f("uq_circuits_counted_group")),
    )
    op.create_index(op.f("ix_circuits_created_at"), "circuits", ["created_at"], unique=False)
    op.create_index(op.f("ix_circuits_model_id"), "circuits", ["model_id"], unique=False)
    op.create_index(op.f("ix_circuits_prompt_key"), "circuits", ["prompt_key"], unique=False)
    op.create_index(op.f("ix_circuits_replicate_group"), "circuits", ["replicate_group"], unique=False)
    op.create_index(op.f("ix_circuits_set_id"), "circuits", ["set_id"], unique=False)
    op.create_index(op.f("ix_circuits_trace_key"), "circuits", ["trace_key"], unique=False)
    op.create_table(
        "transcoder_set_aliases",
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("set_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_transcoder_set_aliases_model_id")),
        sa.ForeignKeyConstraint(["set_id"], ["transcoder_sets.id"], name=op.f("fk_transcoder_set_aliases_set_id")),
        sa.PrimaryKeyConstraint("model_id", "alias", name=op.f("pk_transcoder_set_aliases")),
    )
    op.create_table(
        "transcoder_set_versions",
        sa.Column("set_id", sa.String(), nullable=False),
        sa.Column("revision", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["set_id"], ["transcoder_sets.id"], name=op.f("fk_transcoder_set_versions_set_id")),
        sa.PrimaryKeyConstraint("set_id", "revision", "hash", name=op.f("pk_transcoder_set_versions")),
    )
    op.create_table(
        "collection_circuits",
        sa.Column("collection", sa.String(), nullable=False),
        sa.Column("circuit_id", sa.String(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["circuit_id"], ["circuits.id"], name=op.f("fk_collection_circuits_circuit_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["collection"], ["collections.name"], name=op.f("fk_collection_circuits_collection"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("collection", "circuit_id", name=op.f("pk_collection_circuits")),
    )
    op.create_index(op.f("ix_collection_circuits_circuit_id"), "collection_circuits", ["circuit_id"], unique=False)
    op.create_table(
        "node_labels",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("circuit_id", sa.String(), nullable=False),
        sa.Column("node_key", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["circuit_id"], ["circuits.id"], name=op.f("fk_node_labels_circuit_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_node_labels")),
    )
    op.create_index(op.f("ix_node_labels_circuit_id"), "node_labels", ["circuit_id"], unique=False)
    op.create_table(
        "occurrences",
        sa.Column("circuit_id", sa.String(), nullable=False),
        sa.Column("row", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("feature", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("activation", sa.Double(), nullable=True),
        sa.Column("influence", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["circuit_id"], ["circuits.id"], name=op.f("fk_occurrences_circuit_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("circuit_id", "row", name=op.f("pk_occurrences")),
    )
    op.create_index(op.f("ix_occurrences_feature"), "occurrences", ["feature"], unique=False)
    op.create_table(
        "pins",
        sa.Column("circuit_id", sa.String(), nullable=False),
        sa.Column("node_key", sa.String(), nullable=False),
        sa.Column("resolved", sa.Boolean(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["circuit_id"], ["circuits.id"], name=op.f("fk_pins_circuit_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("circuit_id", "node_key", name=op.f("pk_pins")),
    )
    op.create_table(
        "supernodes",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("circuit_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("node_keys", sa.JSON(), nullable=False),
        sa.Column("unresolved", sa.JSON(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["circuit_id"], ["circuits.id"], name=op.f("fk_supernodes_circuit_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_supernodes")),
    )
    op.create_index(op.f("ix_supernodes_circuit_id"), "supernodes", ["circuit_id"], unique=False)


def downgrade() -> None:
    for table in (
        "supernodes",
        "pins",
        "occurrences",
        "node_labels",
        "collection_circuits",
        "transcoder_set_versions",
        "transcoder_set_aliases",
        "circuits",
        "transcoder_sets",
        "model_versions",
        "model_aliases",
        "projection_outbox",
        "models",
        "labels",
        "concepts",
        "collections",
        "catalog_meta",
        "audit",
    ):
        op.drop_table(table)
