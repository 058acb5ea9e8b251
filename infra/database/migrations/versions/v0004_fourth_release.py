"""What the fourth release adds: see the tables' comments in `infra/database/tables.py`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "llm_batch_requests",
        sa.Column("id", sa.Text(), nullable=False, comment="random; all that the provider is told of whose it is"),
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="HMAC under the record's key"),
        sa.Column("cached_as", sa.LargeBinary(), nullable=False, comment="what the cache calls its answer"),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("provider_key", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), server_default="", nullable=False),
        sa.Column("analysis", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("prompt_version", sa.Text(), nullable=False),
        sa.Column("asker", sa.Text(), server_default="", nullable=False, comment="a replay's id; empty: the analyst"),
        sa.Column("state", sa.Text(), nullable=False, comment="waiting, sent, answered, failed (asked alone)"),
        sa.Column("batch", sa.Text(), nullable=True, comment="of llm_batches"),
        sa.Column("error", sa.Text(), server_default="", nullable=False, comment="a name or code, no content"),
        sa.Column("sealed_request", sa.LargeBinary(), nullable=True, comment="until it is answered"),
        sa.Column("sealed_answer", sa.LargeBinary(), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False, comment="bytes of the question as it is sent"),
        sa.Column("most_tokens", sa.BigInteger(), nullable=False, comment="that quotas hold for it"),
        sa.Column("most_nano", sa.BigInteger(), nullable=False),
        sa.Column("grant_id", sa.Text(), nullable=False, comment="of the reservation in Redis, with its day and month"),
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("month", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False, comment="then it is asked alone"),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True, comment="read, sealed and accounted"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_index("llm_batch_requests_batch", "llm_batch_requests", ["batch"], unique=False)
    op.create_index(
        "llm_batch_requests_record", "llm_batch_requests", ["tenant", "account", "object", "record_id"], unique=False
    )
    op.create_index(
        "llm_batch_requests_waiting",
        "llm_batch_requests",
        ["provider", "provider_key", "model", "created_at"],
        unique=False,
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_table(
        "llm_batches",
        sa.Column("id", sa.Text(), nullable=False, comment="random; names the batch and its file at the provider"),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("provider_key", sa.Text(), nullable=False, comment="fingerprint of the provider's key"),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="claimed, uploaded, running, ended"),
        sa.Column("outcome", sa.Text(), server_default="", nullable=False, comment="of an ended one"),
        sa.Column("error", sa.Text(), server_default="", nullable=False, comment="the provider's code, no content"),
        sa.Column("requests", sa.Integer(), server_default="0", nullable=False),
        sa.Column("answered", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("file_id", sa.Text(), server_default="", nullable=False, comment="the provider's"),
        sa.Column("batch_id", sa.Text(), server_default="", nullable=False, comment="the provider's"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "creating_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="when the provider was last asked to make it",
        ),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.add_column(
        "llm_usage",
        sa.Column(
            "batched", sa.BigInteger(), server_default="0", nullable=False, comment="answers from a provider's batch"
        ),
    )
    op.add_column(
        "llm_usage", sa.Column("batch_saved_usd", sa.Numeric(precision=14, scale=8), server_default="0", nullable=False)
    )


def downgrade() -> None:
    op.drop_column("llm_usage", "batch_saved_usd")
    op.drop_column("llm_usage", "batched")
    op.drop_table("llm_batches")
    op.drop_index(
        "llm_batch_requests_waiting", table_name="llm_batch_requests", postgresql_where=sa.text("state = 'waiting'")
    )
    op.drop_index("llm_batch_requests_record", table_name="llm_batch_requests")
    op.drop_index("llm_batch_requests_batch", table_name="llm_batch_requests")
    op.drop_table("llm_batch_requests")
