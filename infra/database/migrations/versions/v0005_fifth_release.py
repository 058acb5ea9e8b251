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
    for name in ("month", "day", "grant_id", "most_nano", "most_tokens", "requests", "user"):
        op.drop_column(_OBJECTS, name)
