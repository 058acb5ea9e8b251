"""The tables, as SQLAlchemy Core describes them; migrations make them, and a test holds the two together.

Law: secrets, credentials and anything a customer wrote are sealed (columns `sealed_*`), but for `insights`, whose rows
are a destination: what people query.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = sa.MetaData()


def _now() -> sa.Column[object]:
    return sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())


def _record_key() -> list[sa.Column[object]]:
    return [sa.Column(name, sa.Text, primary_key=True) for name in ("tenant", "account", "object", "record_id")]


def _version() -> list[sa.Column[object]]:
    return [
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("snapshot_offset", sa.BigInteger, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
    ]


tenants = sa.Table(
    "tenants", metadata, sa.Column("id", sa.Text, primary_key=True), sa.Column("name", sa.Text, nullable=False), _now()
)

endpoints = sa.Table(
    "endpoints",
    metadata,
    sa.Column("id", sa.Text, primary_key=True, comment="the last part of /hooks/{endpoint}; high entropy"),
    sa.Column("tenant", sa.Text, sa.ForeignKey("tenants.id"), nullable=False),
    sa.Column("source", sa.Text, nullable=False, comment="plug-in of ingress/sources"),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column(
        "config", JSONB, nullable=False, server_default="{}", comment="what the source needs, e.g. {'app_id': '123'}"
    ),
    sa.Column("enabled", sa.Boolean, nullable=False, server_default=sa.true()),
    _now(),
    sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)

endpoint_secrets = sa.Table(
    "endpoint_secrets",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("endpoint", sa.Text, sa.ForeignKey("endpoints.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("sealed_secret", sa.LargeBinary, nullable=False),
    sa.Column("valid_from", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("valid_until", sa.DateTime(timezone=True)),
)

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True, comment="hubspot:145883449 or salesforce:00D..."),
    sa.Column("tenant", sa.Text, sa.ForeignKey("tenants.id"), nullable=False, index=True),
    sa.Column("crm", sa.Text, nullable=False, comment="plug-in of infra/crm"),
    sa.Column("name", sa.Text, nullable=False, server_default=""),
    sa.Column("config", JSONB, nullable=False, server_default="{}", comment="instance, app_id, integration_user, ..."),
    sa.Column("sealed_credentials", sa.LargeBinary),
    sa.Column("state", sa.Text, nullable=False, server_default="active", comment="active or disconnected"),
    sa.Column("state_reason", sa.Text, nullable=False, server_default=""),
    _now(),
    sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("last_delivery_at", sa.DateTime(timezone=True)),
    sa.Column("last_insight_at", sa.DateTime(timezone=True)),
)

endpoint_accounts = sa.Table(
    "endpoint_accounts",
    metadata,
    sa.Column("endpoint", sa.Text, sa.ForeignKey("endpoints.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("account", sa.Text, sa.ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
)

data_keys = sa.Table(
    "data_keys",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("scope", sa.Text, nullable=False, comment="delivery, record or tenant"),
    sa.Column("name", sa.Text, nullable=False, comment="what it seals, e.g. tenant/account/object/id"),
    sa.Column("wrapped", sa.LargeBinary, nullable=False),
    _now(),
    sa.Column("expires_at", sa.DateTime(timezone=True), index=True),
    sa.UniqueConstraint("scope", "name"),
)

hydrator_state = sa.Table(
    "hydrator_state",
    metadata,
    *_record_key(),
    sa.Column(
        "content", sa.LargeBinary, nullable=False, comment="HMAC of the foreign fields of the last snapshot published"
    ),
    sa.Column("fields", JSONB, nullable=False, comment="{field: [short HMAC of its value, since]}"),
    sa.Column("deleted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("modified_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column(
        "read_at",
        sa.DateTime(timezone=True),
        nullable=False,
        comment="a state read earlier never replaces one read later",
    ),
)

analyst_state = sa.Table(
    "analyst_state",
    metadata,
    *_record_key(),
    sa.Column("analysis", sa.Text, primary_key=True),
    sa.Column(
        "input", sa.LargeBinary, nullable=False, comment="HMAC of what the analysis reads, prompt version included"
    ),
    *_version(),
    sa.Column("sealed_insight", sa.LargeBinary, nullable=False),
)

match_index = sa.Table(
    "match_index",
    metadata,
    *_record_key(),
    sa.Column("blocks", ARRAY(sa.Text), nullable=False, comment="HMACs of blocking keys"),
    sa.Column("sealed_features", sa.LargeBinary, nullable=False),
    sa.Index("match_index_blocks", "blocks", postgresql_using="gin"),
)

insights = sa.Table(
    "insights",
    metadata,
    *_record_key(),
    sa.Column("analysis", sa.Text, primary_key=True),
    *_version(),
    sa.Column("crm", sa.Text, nullable=False),
    sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
    sa.Column("analyzed_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("prompt_version", sa.Text, nullable=False),
    sa.Column("score", sa.Integer),
    sa.Column("grade", sa.Text),
    sa.Column("payload", JSONB),
    sa.Column("retracted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("dropped_claims", sa.Integer, nullable=False, server_default="0"),
    sa.Column("cost_usd", sa.Numeric(12, 8), nullable=False, server_default="0"),
    sa.Column("written_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)

insight_history = sa.Table(
    "insight_history",
    metadata,
    *_record_key(),
    sa.Column("analysis", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True),
    sa.Column("snapshot_offset", sa.BigInteger, primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True),
    sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
    sa.Column("analyzed_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("prompt_version", sa.Text, nullable=False),
    sa.Column("score", sa.Integer),
    sa.Column("grade", sa.Text),
    sa.Column("payload", JSONB),
    sa.Column("retracted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("written_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)

destination_state = sa.Table(
    "destination_state",
    metadata,
    sa.Column("destination", sa.Text, primary_key=True),
    *_record_key(),
    sa.Column("analysis", sa.Text, primary_key=True),
    *_version(),
    sa.Column(
        "as_of",
        sa.DateTime(timezone=True),
        nullable=False,
        comment="the insight's; the record shows the newest of all analyses",
    ),
    sa.Column("written", JSONB, nullable=False, comment="{field: HMAC of the value last written}"),
    sa.Column(
        "pending",
        sa.Boolean,
        nullable=False,
        server_default=sa.false(),
        comment="a write was begun and not confirmed: what the record holds is asked before the next one",
    ),
    sa.Column("written_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)

set_aside = sa.Table(
    "set_aside",
    metadata,
    *_record_key(),
    sa.Column("stage", sa.Text, primary_key=True, comment="hydrator, analyst, sink:hubspot, ..."),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="1"),
    sa.Column("due_at", sa.DateTime(timezone=True), nullable=False, index=True),
    sa.Column(
        "emitted_at",
        sa.DateTime(timezone=True),
        comment="its trigger is on Kafka: the row only remembers the attempts, for two hours",
    ),
    _now(),
)

refusals = sa.Table(
    "refusals",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, index=True),
    sa.Column(
        "endpoint",
        sa.Text,
        nullable=False,
        comment="as asked for, cut to 64 characters; empty where it may hold a secret",
    ),
    sa.Column("tenant", sa.Text, nullable=False, server_default=""),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("detail", sa.Text, nullable=False, server_default=""),
    sa.Column("size", sa.Integer, nullable=False, server_default="0"),
    sa.Column(
        "repeats",
        sa.Integer,
        nullable=False,
        server_default="1",
        comment="further ones of this endpoint and cause in the same second",
    ),
)

llm_usage = sa.Table(
    "llm_usage",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("user", sa.Text, primary_key=True),
    sa.Column("analysis", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("prompt_version", sa.Text, primary_key=True),
    sa.Column("calls", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("cache_hits", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("input_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("output_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("cost_usd", sa.Numeric(14, 8), nullable=False, server_default="0"),
)

topic_epochs = sa.Table(
    "topic_epochs",
    metadata,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Integer, nullable=False, server_default="1"),
)
