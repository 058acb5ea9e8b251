"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "analyst_state",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(), nullable=False),
        sa.Column("analysis", sa.Text(), nullable=False),
        sa.Column(
            "input",
            sa.LargeBinary(),
            nullable=False,
            comment="HMAC of what the analysis reads, prompt version included",
        ),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("snapshot_offset", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("sealed_insight", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "account", "object", "record_id", "analysis"),
    )
    op.create_table(
        "data_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False, comment="delivery, record or tenant"),
        sa.Column("name", sa.Text(), nullable=False, comment="what it seals, e.g. tenant/account/object/id"),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("key_id"),
        sa.UniqueConstraint("scope", "name"),
    )
    op.create_index(op.f("ix_data_keys_expires_at"), "data_keys", ["expires_at"], unique=False)
    op.create_table(
        "destination_state",
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(), nullable=False),
        sa.Column("analysis", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("snapshot_offset", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column(
            "as_of",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="the insight's; the record shows the newest of all analyses",
        ),
        sa.Column("written", postgresql.JSONB(), nullable=False, comment="{field: HMAC of the value last written}"),
        sa.Column(
            "pending",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="a write was begun and not confirmed: what the record holds is asked before the next one",
        ),
        sa.Column("written_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("destination", "tenant", "account", "object", "record_id", "analysis"),
    )
    op.create_table(
        "hydrator_state",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(), nullable=False),
        sa.Column(
            "content",
            sa.LargeBinary(),
            nullable=False,
            comment="HMAC of the foreign fields of the last snapshot published",
        ),
        sa.Column("fields", postgresql.JSONB(), nullable=False, comment="{field: [short HMAC of its value, since]}"),
        sa.Column("deleted", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("modified_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "read_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="a state read earlier never replaces one read later",
        ),
        sa.PrimaryKeyConstraint("tenant", "account", "object", "record_id"),
    )
    op.create_table(
        "insight_history",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(), nullable=False),
        sa.Column("analysis", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("snapshot_offset", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("analyzed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt_version", sa.Text(), nullable=False),
        sa.Column("score", sa.Integer(), nullable=True),
        sa.Column("grade", sa.Text(), nullable=True),
        sa.Column("payload", postgresql.JSONB(), nullable=True),
        sa.Column("retracted", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("written_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant", "account", "object", "record_id", "analysis", "epoch", "snapshot_offset", "generation"
        ),
    )
    op.create_table(
        "insights",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(), nullable=False),
        sa.Column("analysis", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("snapshot_offset", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("crm", sa.Text(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("analyzed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt_version", sa.Text(), nullable=False),
        sa.Column("score", sa.Integer(), nullable=True),
        sa.Column("grade", sa.Text(), nullable=True),
        sa.Column("payload", postgresql.JSONB(), nullable=True),
        sa.Column("retracted", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("dropped_claims", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cost_usd", sa.Numeric(precision=12, scale=8), server_default="0", nullable=False),
        sa.Column("written_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "account", "object", "record_id", "analysis"),
    )
    op.create_table(
        "llm_usage",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("analysis", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt_version", sa.Text(), nullable=False),
        sa.Column("calls", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cache_hits", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cost_usd", sa.Numeric(precision=14, scale=8), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("day", "tenant", "user", "analysis", "model", "prompt_version"),
    )
    op.create_table(
        "match_index",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(), nullable=False),
        sa.Column("blocks", postgresql.ARRAY(sa.Text()), nullable=False, comment="HMACs of blocking keys"),
        sa.Column("sealed_features", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "account", "object", "record_id"),
    )
    op.create_index("match_index_blocks", "match_index", ["blocks"], unique=False, postgresql_using="gin")
    op.create_table(
        "refusals",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "endpoint",
            sa.Text(),
            nullable=False,
            comment="as asked for, cut to 64 characters; empty where it may hold a secret",
        ),
        sa.Column("tenant", sa.Text(), server_default="", nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), server_default="", nullable=False),
        sa.Column("size", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "repeats",
            sa.Integer(),
            server_default="1",
            nullable=False,
            comment="further ones of this endpoint and cause in the same second",
        ),
        sa.PrimaryKeyConstraint("request_id"),
    )
    op.create_index(op.f("ix_refusals_at"), "refusals", ["at"], unique=False)
    op.create_table(
        "set_aside",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False, comment="hydrator, analyst, sink:hubspot, ..."),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="1", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "emitted_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="its trigger is on Kafka: the row only remembers the attempts, for two hours",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "account", "object", "record_id", "stage"),
    )
    op.create_index(op.f("ix_set_aside_due_at"), "set_aside", ["due_at"], unique=False)
    op.create_table(
        "tenants",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "topic_epochs",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint("topic"),
    )
    op.create_table(
        "accounts",
        sa.Column("id", sa.Text(), nullable=False, comment="hubspot:145883449 or salesforce:00D..."),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("crm", sa.Text(), nullable=False, comment="plug-in of infra/crm"),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "config",
            postgresql.JSONB(),
            server_default="{}",
            nullable=False,
            comment="instance, app_id, integration_user, ...",
        ),
        sa.Column("sealed_credentials", sa.LargeBinary(), nullable=True),
        sa.Column("state", sa.Text(), server_default="active", nullable=False, comment="active or disconnected"),
        sa.Column("state_reason", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_delivery_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_insight_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant"],
            ["tenants.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_accounts_tenant"), "accounts", ["tenant"], unique=False)
    op.create_table(
        "endpoints",
        sa.Column("id", sa.Text(), nullable=False, comment="the last part of /hooks/{endpoint}; high entropy"),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False, comment="plug-in of ingress/sources"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "config",
            postgresql.JSONB(),
            server_default="{}",
            nullable=False,
            comment="what the source needs, e.g. {'app_id': '123'}",
        ),
        sa.Column("enabled", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant"],
            ["tenants.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "endpoint_accounts",
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["account"], ["accounts.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["endpoint"], ["endpoints.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("endpoint", "account"),
    )
    op.create_table(
        "endpoint_secrets",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("sealed_secret", sa.LargeBinary(), nullable=False),
        sa.Column("valid_from", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["endpoint"], ["endpoints.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_endpoint_secrets_endpoint"), "endpoint_secrets", ["endpoint"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_endpoint_secrets_endpoint"), table_name="endpoint_secrets")
    op.drop_table("endpoint_secrets")
    op.drop_table("endpoint_accounts")
    op.drop_table("endpoints")
    op.drop_index(op.f("ix_accounts_tenant"), table_name="accounts")
    op.drop_table("accounts")
    op.drop_table("topic_epochs")
    op.drop_table("tenants")
    op.drop_index(op.f("ix_set_aside_due_at"), table_name="set_aside")
    op.drop_table("set_aside")
    op.drop_index(op.f("ix_refusals_at"), table_name="refusals")
    op.drop_table("refusals")
    op.drop_index("match_index_blocks", table_name="match_index", postgresql_using="gin")
    op.drop_table("match_index")
    op.drop_table("llm_usage")
    op.drop_table("insights")
    op.drop_table("insight_history")
    op.drop_table("hydrator_state")
    op.drop_table("destination_state")
    op.drop_index(op.f("ix_data_keys_expires_at"), table_name="data_keys")
    op.drop_table("data_keys")
    op.drop_table("analyst_state")
