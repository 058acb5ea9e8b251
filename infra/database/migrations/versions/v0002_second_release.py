"""What the second release adds: see the tables' comments in `infra/database/tables.py`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("epoch", sa.Integer(), nullable=False, comment="of crm.dead-letters"),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("letter_offset", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), server_default="", nullable=False),
        sa.Column("object", sa.Text(), server_default="", nullable=False),
        sa.Column("record_id", sa.Text(), server_default="", nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), server_default="", nullable=False, comment="for people; never holds content"),
        sa.Column("attempt", sa.Integer(), server_default="1", nullable=False),
        sa.Column("original_topic", sa.Text(), server_default="", nullable=False),
        sa.Column("original_partition", sa.Integer(), server_default="0", nullable=False),
        sa.Column("original_offset", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("redriven_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("redrives", sa.Integer(), server_default="0", nullable=False),
        sa.Column("discarded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "handled_by", sa.Text(), server_default="", nullable=False, comment="who redrove or discarded it last"
        ),
        sa.PrimaryKeyConstraint("epoch", "partition", "letter_offset"),
    )
    op.create_index("dead_letters_of_tenant", "dead_letters", ["tenant", "at"], unique=False)
    op.create_index(
        "dead_letters_open",
        "dead_letters",
        ["account", "cause"],
        unique=False,
        postgresql_where=sa.text("redriven_at IS NULL AND discarded_at IS NULL"),
    )
    op.create_table(
        "destroyed_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("retired", sa.Boolean(), nullable=False, comment="seals nothing new any more, and still opens"),
        sa.PrimaryKeyConstraint("key_id"),
    )
    op.create_index(op.f("ix_destroyed_keys_at"), "destroyed_keys", ["at"], unique=False)
    op.create_table(
        "erased_people",
        sa.Column("mark", sa.LargeBinary(), nullable=False, comment="HMAC of tenant/account/object/id"),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("erased_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("mark"),
    )
    op.create_index(op.f("ix_erased_people_tenant"), "erased_people", ["tenant"], unique=False)
    op.create_table(
        "erased_values",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(), nullable=False),
        sa.Column(
            "value", sa.LargeBinary(), nullable=False, comment="HMAC of what an erased person was called in here"
        ),
        sa.PrimaryKeyConstraint("tenant", "account", "object", "record_id", "value"),
    )
    op.create_table(
        "key_people",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False, comment="contact/ID, lead/ID, or mail:HMAC of an address"),
        sa.Column(
            "object", sa.Text(), nullable=False, comment="of the record whose key sealed something about that person"
        ),
        sa.Column("record_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "account", "person", "object", "record_id"),
    )
    op.create_index("key_people_records", "key_people", ["tenant", "account", "object", "record_id"], unique=False)
    op.create_table(
        "llm_policies",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("policy", postgresql.JSONB(), nullable=False, comment="llm_gateway.policy.Exceptions"),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant"),
    )
    op.create_table(
        "privacy_audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("deed", sa.Text(), nullable=False, comment="erase or export"),
        sa.Column("mark", sa.LargeBinary(), nullable=False, comment="as in erased_people"),
        sa.Column("reference", sa.Text(), server_default="", nullable=False, comment="the erasure's id"),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("counts", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_privacy_audit_at"), "privacy_audit", ["at"], unique=False)
    op.create_table(
        "privacy_erasures",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("person_id", sa.Text(), nullable=False, comment="the CRM's id; empty once it is done"),
        sa.Column("mark", sa.LargeBinary(), nullable=False, comment="as in erased_people"),
        sa.Column("requested_by", sa.Text(), nullable=False, comment="crm, or the operator's name"),
        sa.Column("at_once", sa.Boolean(), nullable=False, comment="raw deliveries, too, at once"),
        sa.Column("step", sa.Text(), nullable=False, comment="the last step that is behind"),
        sa.Column(
            "work",
            postgresql.JSONB(),
            server_default="{}",
            nullable=False,
            comment="records and keys in hand; empty once done",
        ),
        sa.Column("counts", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("stepped_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("waiting", sa.Text(), server_default="", nullable=False, comment="for what, in words"),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("mark"),
    )
    op.create_index(op.f("ix_privacy_erasures_due_at"), "privacy_erasures", ["due_at"], unique=False)
    op.create_index(op.f("ix_privacy_erasures_tenant"), "privacy_erasures", ["tenant"], unique=False)
    op.create_table(
        "privacy_identifiers",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(), nullable=False),
        sa.Column("mark", sa.LargeBinary(), nullable=False, comment="HMAC of the values and their key's id"),
        sa.Column(
            "sealed_values", sa.LargeBinary(), nullable=False, comment="by what other records may call this person"
        ),
        sa.PrimaryKeyConstraint("tenant", "account", "object", "record_id"),
    )
    op.create_table(
        "promotions",
        sa.Column("tenant", sa.Text(), nullable=False, comment="empty: every tenant"),
        sa.Column("analysis", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("replay", sa.Text(), nullable=False),
        sa.Column(
            "prompt", sa.Text(), server_default="", nullable=False, comment="the prompt file; empty: the installed one"
        ),
        sa.Column("prompt_version", sa.Text(), server_default="", nullable=False),
        sa.Column("model", sa.Text(), server_default="", nullable=False, comment="empty: the one that settings name"),
        sa.Column("promoted_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "analysis", "generation"),
    )
    op.create_table(
        "replays",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), server_default="", nullable=False, comment="empty: every tenant"),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False, comment="write or shadow"),
        sa.Column(
            "filter",
            postgresql.JSONB(),
            nullable=False,
            comment="what was asked for, as processors/replay/filter.py writes it",
        ),
        sa.Column(
            "candidate",
            postgresql.JSONB(),
            server_default="{}",
            nullable=False,
            comment="prompt, model, plug-in of a shadow",
        ),
        sa.Column(
            "ranges",
            postgresql.JSONB(),
            nullable=False,
            comment="{partition: [first offset, end offset]}, fixed by the plan",
        ),
        sa.Column(
            "state", sa.Text(), nullable=False, comment="planned, running, paused, cancelling, cancelled, done, failed"
        ),
        sa.Column("rate", sa.Float(), nullable=False, comment="records a second; read while it runs"),
        sa.Column("planned", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.Column("used", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.Column("records_done", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("promoted_generation", sa.Integer(), nullable=True, comment="set when its results were made live"),
        sa.Column("created_by", sa.Text(), server_default="", nullable=False, comment="user of the operating system"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True, comment="last sign of life of its runner"),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), server_default="", nullable=False, comment="names and causes, no content"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "account_setups",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("crm", sa.Text(), nullable=False),
        sa.Column(
            "done",
            postgresql.JSONB(),
            server_default="[]",
            nullable=False,
            comment="names of the steps that are behind",
        ),
        sa.Column("sealed_answers", sa.LargeBinary(), nullable=False, comment="what the admin typed so far"),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tenant", "crm"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False, comment="the middle part of hlk_ID_SECRET; not secret"),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("role", sa.Text(), nullable=False, comment="viewer, engineer or admin"),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="HMAC-SHA-256 of 256 random bits under the salt"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by", sa.Text(), server_default="", nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True, comment="to the minute"),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_api_keys_tenant"), "api_keys", ["tenant"], unique=False)
    op.create_table(
        "llm_keys",
        sa.Column("id", sa.Text(), nullable=False, comment="the middle part of hgk_ID_SECRET; not secret"),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="SHA-256 of id and 256 random bits"),
        sa.Column("scopes", postgresql.JSONB(), nullable=False, comment="of chat, batch"),
        sa.Column(
            "models", postgresql.JSONB(), server_default="[]", nullable=False, comment="that it may ask; empty: all"
        ),
        sa.Column("lane", sa.Text(), nullable=False, comment="the best one that it may ask for"),
        sa.Column("created_by", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_index(op.f("ix_llm_keys_changed_at"), "llm_keys", ["changed_at"], unique=False)
    op.create_index(op.f("ix_llm_keys_tenant"), "llm_keys", ["tenant"], unique=False)
    op.create_table(
        "llm_provider_objects",
        sa.Column("id", sa.Text(), nullable=False, comment="the provider's id of a file or a batch"),
        sa.Column("kind", sa.Text(), nullable=False, comment="file or batch"),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False, comment="of llm_keys"),
        sa.Column("bytes", sa.BigInteger(), server_default="0", nullable=False, comment="of a file that was sent"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "accounted_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="of a batch: its results are in llm_usage",
        ),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_llm_provider_objects_tenant"), "llm_provider_objects", ["tenant"], unique=False)
    op.create_table(
        "replay_results",
        sa.Column("replay", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(), nullable=False),
        sa.Column("analysis", sa.Text(), nullable=False),
        sa.Column("input", sa.LargeBinary(), nullable=False, comment="as in analyst_state"),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("snapshot_offset", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("sealed_insight", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["replay"], ["replays.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("replay", "tenant", "account", "object", "record_id", "analysis"),
    )
    op.create_table(
        "backfills",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column(
            "state", sa.Text(), nullable=False, comment="planned, queued, running, cancelling, cancelled, done, failed"
        ),
        sa.Column("objects", postgresql.JSONB(), nullable=False, comment="kinds of records, in their order"),
        sa.Column(
            "planned", postgresql.JSONB(), server_default="{}", nullable=False, comment="records and calls by kind"
        ),
        sa.Column(
            "position",
            postgresql.JSONB(),
            server_default="{}",
            nullable=False,
            comment="kind -> where its next page begins",
        ),
        sa.Column(
            "done", postgresql.JSONB(), server_default="{}", nullable=False, comment="kind -> records on the bulk lane"
        ),
        sa.Column("rate", sa.Float(), nullable=False, comment="records a second; read while it runs"),
        sa.Column("calls_per_day", sa.Integer(), nullable=False, comment="of the account's calls, reading included"),
        sa.Column("calls_day", sa.Date(), nullable=True, comment="the day (UTC) that calls_used is of"),
        sa.Column("calls_used", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_by", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True, comment="last sign of life of its runner"),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("waiting", sa.Text(), server_default="", nullable=False, comment="for what, in words"),
        sa.Column("error", sa.Text(), server_default="", nullable=False, comment="names and causes, no content"),
        sa.ForeignKeyConstraint(["account"], ["accounts.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_backfills_tenant"), "backfills", ["tenant"], unique=False)
    op.create_table(
        "oauth_flows",
        sa.Column("state_hash", sa.LargeBinary(), nullable=False, comment="SHA-256 of the random state; used once"),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("redirect_uri", sa.Text(), nullable=False),
        sa.Column("sealed_verifier", sa.LargeBinary(), nullable=False, comment="PKCE's code verifier"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("state_hash"),
    )
    op.create_index(op.f("ix_oauth_flows_expires_at"), "oauth_flows", ["expires_at"], unique=False)
    op.add_column(
        "destination_state",
        sa.Column("claim", sa.Text(), server_default="", nullable=False, comment="who began it: one call of the sink"),
    )
    op.add_column("llm_usage", sa.Column("cached_input_tokens", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column(
        "llm_usage",
        sa.Column("attempts", sa.BigInteger(), server_default="0", nullable=False, comment="failed ones included"),
    )
    op.add_column(
        "llm_usage",
        sa.Column("model_seconds", sa.Float(), server_default="0", nullable=False, comment="sum over answers"),
    )
    op.add_column(
        "llm_usage",
        sa.Column(
            "cache_saved_usd",
            sa.Numeric(precision=14, scale=8),
            server_default="0",
            nullable=False,
            comment="answers not asked again",
        ),
    )
    op.add_column(
        "llm_usage",
        sa.Column(
            "prompt_cache_saved_usd",
            sa.Numeric(precision=14, scale=8),
            server_default="0",
            nullable=False,
            comment="by the provider",
        ),
    )
    op.add_column(
        "llm_usage",
        sa.Column("packed", sa.BigInteger(), server_default="0", nullable=False, comment="answers that shared a call"),
    )
    op.add_column(
        "llm_usage",
        sa.Column("packed_saved_usd", sa.Numeric(precision=14, scale=8), server_default="0", nullable=False),
    )
    op.drop_index(op.f("match_index_blocks"), table_name="match_index", postgresql_using="gin")
    op.create_index(
        "match_index_by_block",
        "match_index",
        ["blocks"],
        unique=False,
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},
    )
    op.add_column(
        "refusals",
        sa.Column(
            "sealed_request", sa.LargeBinary(), nullable=True, comment="for a retry; gone after ingress_refused_hours"
        ),
    )
    op.add_column(
        "refusals",
        sa.Column("retried_at", sa.DateTime(timezone=True), nullable=True, comment="when an admin let it in after all"),
    )
    op.add_column(
        "tenants",
        sa.Column(
            "changes_per_second", sa.Integer(), nullable=True, comment="its rate on the live lane; null: the setting's"
        ),
    )
    op.add_column(
        "tenants",
        sa.Column(
            "changes_burst", sa.Integer(), nullable=True, comment="so many at once above the rate; null: the setting's"
        ),
    )


def downgrade() -> None:
    op.drop_column("tenants", "changes_burst")
    op.drop_column("tenants", "changes_per_second")
    op.drop_column("refusals", "retried_at")
    op.drop_column("refusals", "sealed_request")
    op.drop_index(
        "match_index_by_block", table_name="match_index", postgresql_using="gin", postgresql_with={"fastupdate": "off"}
    )
    op.create_index(op.f("match_index_blocks"), "match_index", ["blocks"], unique=False, postgresql_using="gin")
    op.drop_column("llm_usage", "packed_saved_usd")
    op.drop_column("llm_usage", "packed")
    op.drop_column("llm_usage", "prompt_cache_saved_usd")
    op.drop_column("llm_usage", "cache_saved_usd")
    op.drop_column("llm_usage", "model_seconds")
    op.drop_column("llm_usage", "attempts")
    op.drop_column("llm_usage", "cached_input_tokens")
    op.drop_column("destination_state", "claim")
    op.drop_index(op.f("ix_oauth_flows_expires_at"), table_name="oauth_flows")
    op.drop_table("oauth_flows")
    op.drop_index(op.f("ix_backfills_tenant"), table_name="backfills")
    op.drop_table("backfills")
    op.drop_table("replay_results")
    op.drop_index(op.f("ix_llm_provider_objects_tenant"), table_name="llm_provider_objects")
    op.drop_table("llm_provider_objects")
    op.drop_index(op.f("ix_llm_keys_tenant"), table_name="llm_keys")
    op.drop_index(op.f("ix_llm_keys_changed_at"), table_name="llm_keys")
    op.drop_table("llm_keys")
    op.drop_index(op.f("ix_api_keys_tenant"), table_name="api_keys")
    op.drop_table("api_keys")
    op.drop_table("account_setups")
    op.drop_table("replays")
    op.drop_table("promotions")
    op.drop_table("privacy_identifiers")
    op.drop_index(op.f("ix_privacy_erasures_tenant"), table_name="privacy_erasures")
    op.drop_index(op.f("ix_privacy_erasures_due_at"), table_name="privacy_erasures")
    op.drop_table("privacy_erasures")
    op.drop_index(op.f("ix_privacy_audit_at"), table_name="privacy_audit")
    op.drop_table("privacy_audit")
    op.drop_table("llm_policies")
    op.drop_index("key_people_records", table_name="key_people")
    op.drop_table("key_people")
    op.drop_table("erased_values")
    op.drop_index(op.f("ix_erased_people_tenant"), table_name="erased_people")
    op.drop_table("erased_people")
    op.drop_index(op.f("ix_destroyed_keys_at"), table_name="destroyed_keys")
    op.drop_table("destroyed_keys")
    op.drop_index(
        "dead_letters_open",
        table_name="dead_letters",
        postgresql_where=sa.text("redriven_at IS NULL AND discarded_at IS NULL"),
    )
    op.drop_index("dead_letters_of_tenant", table_name="dead_letters")
    op.drop_table("dead_letters")
