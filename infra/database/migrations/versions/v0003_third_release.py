"""What the third release adds: see the tables' comments in `infra/database/tables.py`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "event_resyncs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("mark", sa.Text(), nullable=False, comment="hash of what asked for it: it asks once"),
        sa.Column("cause", sa.Text(), nullable=False, comment="GAP_OVERFLOW, WILDCARD, REPLAY_ID, TOO_LARGE"),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("position", sa.Text(), server_default="", nullable=False, comment="where its next page begins"),
        sa.Column("records", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["endpoint"], ["endpoints.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("endpoint", "object", "mark"),
    )
    op.create_table(
        "event_schemas",
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("schema_id", sa.Text(), nullable=False, comment="the CRM's fingerprint"),
        sa.Column(
            "schema_json", sa.Text(), nullable=False, comment="Avro, as the CRM gives it: names of fields, no values"
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["endpoint"], ["endpoints.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("endpoint", "schema_id"),
    )
    op.create_table(
        "event_streams",
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("replay_id", sa.LargeBinary(), nullable=True, comment="opaque; Kafka has acknowledged all up to it"),
        sa.Column(
            "heard_until",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="by the CRM's clock: nothing committed before is missing",
        ),
        sa.Column("checkpoint_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_event_at", sa.DateTime(timezone=True), nullable=True, comment="when the last event came"),
        sa.Column("events", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("owner", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "fence", sa.BigInteger(), server_default="0", nullable=False, comment="raised with each change of owner"
        ),
        sa.Column("owned_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("state", sa.Text(), server_default="new", nullable=False, comment="streaming, or why not"),
        sa.Column(
            "detail", sa.Text(), server_default="", nullable=False, comment="what to do; names and codes, no content"
        ),
        sa.Column("state_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["endpoint"], ["endpoints.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("endpoint"),
    )
    op.create_table(
        "reconciliations",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False, comment="compared up to here, less the overlap"),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True, comment="end of the stretch under way"),
        sa.Column("position", sa.Text(), nullable=True, comment="where its next page begins"),
        sa.Column("tried_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("compared", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("fed", sa.BigInteger(), server_default="0", nullable=False, comment="announced on the bulk lane"),
        sa.Column(
            "missed", sa.BigInteger(), server_default="0", nullable=False, comment="of those, the ones that differed"
        ),
        sa.Column("missed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("waiting", sa.Text(), server_default="", nullable=False, comment="for what, as a cause"),
        sa.ForeignKeyConstraint(["account"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("account", "object"),
    )


def downgrade() -> None:
    op.drop_table("reconciliations")
    op.drop_table("event_streams")
    op.drop_table("event_schemas")
    op.drop_table("event_resyncs")
