"""What the fifth release adds: see the tables' comments in `infra/database/tables.py`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_OBJECTS = "llm_provider_objects"


def upgrade() -> None:
    op.add_column(
        _OBJECTS, sa.Column("user", sa.Text(), server_default="", nullable=False, comment="bears a batch's quota")
    )
    op.add_column(
        _OBJECTS,
        sa.Column("requests", sa.Integer(), server_default="0", nullable=False, comment="that quotas hold for a batch"),
    )
    op.add_column(_OBJECTS, sa.Column("most_tokens", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column(_OBJECTS, sa.Column("most_nano", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column(
        _OBJECTS,
        sa.Column("grant_id", sa.Text(), server_default="", nullable=False, comment="of the reservation in Redis"),
    )
    op.add_column(_OBJECTS, sa.Column("day", sa.Text(), server_default="", nullable=False))
    op.add_column(_OBJECTS, sa.Column("month", sa.Text(), server_default="", nullable=False))
    op.add_column(
        _OBJECTS,
        sa.Column(
            "held_until", sa.DateTime(timezone=True), nullable=True, comment="then the reservation comes back by itself"
        ),
    )
    op.add_column(
        _OBJECTS,
        sa.Column(
            "answers", sa.Integer(), server_default="0", nullable=False, comment="that a batch brought, once accounted"
        ),
    )
    op.add_column(_OBJECTS, sa.Column("took_tokens", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column(_OBJECTS, sa.Column("took_nano", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column(
        _OBJECTS,
        sa.Column(
            "settled_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="of an accounted batch: quotas have heard what it took",
        ),
    )
    # What was accounted before is not told again: nobody wrote down what it took.
    op.execute(sa.text("UPDATE llm_provider_objects SET settled_at = accounted_at WHERE accounted_at IS NOT NULL"))
    op.create_table(
        "redriven_changes",
        sa.Column(
            "digest", sa.LargeBinary(), nullable=False, comment="SHA-256 of the sealed bytes that a redrive publishes"
        ),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False, comment="with the offset: the first message of them"),
        sa.Column("message_offset", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("digest", "attempt"),
    )
    op.create_index("redriven_changes_created_at", "redriven_changes", ["created_at"], unique=False)


def downgrade() -> None:
    op.drop_index("redriven_changes_created_at", table_name="redriven_changes")
    op.drop_table("redriven_changes")
    for name in (
        "settled_at", "took_nano", "took_tokens", "answers", "held_until", "month", "day", "grant_id", "most_nano", "most_tokens",
        "requests", "user",
    ):  # fmt: skip
        op.drop_column(_OBJECTS, name)
