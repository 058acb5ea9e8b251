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
    "tenants",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    _now(),
    sa.Column("changes_per_second", sa.Integer, comment="its rate on the live lane; null: the setting's"),
    sa.Column("changes_burst", sa.Integer, comment="so many at once above the rate; null: the setting's"),
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
    # Without a list of what is pending: every look would go through it, and a batch looks hundreds of times.
    sa.Index("match_index_by_block", "blocks", postgresql_using="gin", postgresql_with={"fastupdate": "off"}),
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
    sa.Column("claim", sa.Text, nullable=False, server_default="", comment="who began it: one call of the sink"),
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

redriven_changes = sa.Table(
    "redriven_changes",
    metadata,
    sa.Column(
        "digest", sa.LargeBinary, primary_key=True, comment="SHA-256 of the sealed bytes that a redrive publishes"
    ),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("partition", sa.Integer, nullable=False, comment="with the offset: the first message of them"),
    sa.Column("message_offset", sa.BigInteger, nullable=False),
    _now(),
    sa.Index("redriven_changes_created_at", "created_at"),
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
    sa.Column("sealed_request", sa.LargeBinary, comment="for a retry; gone after ingress_refused_hours"),
    sa.Column("retried_at", sa.DateTime(timezone=True), comment="when an admin let it in after all"),
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
    # since the second release
    sa.Column("cached_input_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("attempts", sa.BigInteger, nullable=False, server_default="0", comment="failed ones included"),
    sa.Column("model_seconds", sa.Float, nullable=False, server_default="0", comment="sum over answers"),
    sa.Column(
        "cache_saved_usd", sa.Numeric(14, 8), nullable=False, server_default="0", comment="answers not asked again"
    ),
    sa.Column(
        "prompt_cache_saved_usd", sa.Numeric(14, 8), nullable=False, server_default="0", comment="by the provider"
    ),
    sa.Column("packed", sa.BigInteger, nullable=False, server_default="0", comment="answers that shared a call"),
    sa.Column("packed_saved_usd", sa.Numeric(14, 8), nullable=False, server_default="0"),
    # since the fourth release
    sa.Column("batched", sa.BigInteger, nullable=False, server_default="0", comment="answers from a provider's batch"),
    sa.Column("batch_saved_usd", sa.Numeric(14, 8), nullable=False, server_default="0"),
)

topic_epochs = sa.Table(
    "topic_epochs",
    metadata,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Integer, nullable=False, server_default="1"),
)

# -- replays

replays = sa.Table(
    "replays",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False, server_default="", comment="empty: every tenant"),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("mode", sa.Text, nullable=False, comment="write or shadow"),
    sa.Column("filter", JSONB, nullable=False, comment="what was asked for, as processors/replay/filter.py writes it"),
    sa.Column("candidate", JSONB, nullable=False, server_default="{}", comment="prompt, model, plug-in of a shadow"),
    sa.Column("ranges", JSONB, nullable=False, comment="{partition: [first offset, end offset]}, fixed by the plan"),
    sa.Column(
        "state", sa.Text, nullable=False, comment="planned, running, paused, cancelling, cancelled, done, failed"
    ),
    sa.Column("rate", sa.Float, nullable=False, comment="records a second; read while it runs"),
    sa.Column("planned", JSONB, nullable=False, server_default="{}"),
    sa.Column("used", JSONB, nullable=False, server_default="{}"),
    sa.Column("records_done", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("promoted_generation", sa.Integer, comment="set when its results were made live"),
    sa.Column("created_by", sa.Text, nullable=False, server_default="", comment="user of the operating system"),
    _now(),
    sa.Column("started_at", sa.DateTime(timezone=True)),
    sa.Column("seen_at", sa.DateTime(timezone=True), comment="last sign of life of its runner"),
    sa.Column("ended_at", sa.DateTime(timezone=True)),
    sa.Column("error", sa.Text, nullable=False, server_default="", comment="names and causes, no content"),
)

replay_results = sa.Table(
    "replay_results",
    metadata,
    sa.Column("replay", sa.Text, sa.ForeignKey("replays.id", ondelete="CASCADE"), primary_key=True),
    *_record_key(),
    sa.Column("analysis", sa.Text, primary_key=True),
    sa.Column("input", sa.LargeBinary, nullable=False, comment="as in analyst_state"),
    *_version(),
    sa.Column("sealed_insight", sa.LargeBinary, nullable=False),
)

promotions = sa.Table(
    "promotions",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True, comment="empty: every tenant"),
    sa.Column("analysis", sa.Text, primary_key=True),
    sa.Column("generation", sa.Integer, primary_key=True),
    sa.Column("replay", sa.Text, nullable=False),
    sa.Column(
        "prompt", sa.Text, nullable=False, server_default="", comment="the prompt file; empty: the installed one"
    ),
    sa.Column("prompt_version", sa.Text, nullable=False, server_default=""),
    sa.Column("model", sa.Text, nullable=False, server_default="", comment="empty: the one that settings name"),
    sa.Column("promoted_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)

# Dead letters: where each of `crm.dead-letters` stands. The topic is the truth; this is its index and what was done about it.

dead_letters = sa.Table(
    "dead_letters",
    metadata,
    sa.Column("epoch", sa.Integer, primary_key=True, comment="of crm.dead-letters"),
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("letter_offset", sa.BigInteger, primary_key=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False, server_default=""),
    sa.Column("object", sa.Text, nullable=False, server_default=""),
    sa.Column("record_id", sa.Text, nullable=False, server_default=""),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False, server_default="", comment="for people; never holds content"),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
    sa.Column("original_topic", sa.Text, nullable=False, server_default=""),
    sa.Column("original_partition", sa.Integer, nullable=False, server_default="0"),
    sa.Column("original_offset", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("redriven_at", sa.DateTime(timezone=True)),
    sa.Column("redrives", sa.Integer, nullable=False, server_default="0"),
    sa.Column("discarded_at", sa.DateTime(timezone=True)),
    sa.Column("handled_by", sa.Text, nullable=False, server_default="", comment="who redrove or discarded it last"),
    sa.Index("dead_letters_of_tenant", "tenant", "at"),
    sa.Index(
        "dead_letters_open",
        "account",
        "cause",
        postgresql_where=sa.text("redriven_at IS NULL AND discarded_at IS NULL"),
    ),
)

# What a tenant may ask of models, where it is not what settings say.

llm_policies = sa.Table(
    "llm_policies",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("policy", JSONB, nullable=False, comment="llm_gateway.policy.Exceptions"),
    sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)

# Connecting accounts: who may use the HTTP API, authorizations under way, set-ups that can be resumed, backfills.

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True, comment="the middle part of hlk_ID_SECRET; not secret"),
    sa.Column("tenant", sa.Text, sa.ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("name", sa.Text, nullable=False, server_default=""),
    sa.Column("role", sa.Text, nullable=False, comment="viewer, engineer or admin"),
    sa.Column("salt", sa.LargeBinary, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False, comment="HMAC-SHA-256 of 256 random bits under the salt"),
    _now(),
    sa.Column("created_by", sa.Text, nullable=False, server_default=""),
    sa.Column("expires_at", sa.DateTime(timezone=True)),
    sa.Column("last_used_at", sa.DateTime(timezone=True), comment="to the minute"),
    sa.Column("revoked_at", sa.DateTime(timezone=True)),
)

oauth_flows = sa.Table(
    "oauth_flows",
    metadata,
    sa.Column("state_hash", sa.LargeBinary, primary_key=True, comment="SHA-256 of the random state; used once"),
    sa.Column("account", sa.Text, sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    sa.Column("redirect_uri", sa.Text, nullable=False),
    sa.Column("sealed_verifier", sa.LargeBinary, nullable=False, comment="PKCE's code verifier"),
    _now(),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False, index=True),
)

account_setups = sa.Table(
    "account_setups",
    metadata,
    sa.Column("tenant", sa.Text, sa.ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("crm", sa.Text, primary_key=True),
    sa.Column("done", JSONB, nullable=False, server_default="[]", comment="names of the steps that are behind"),
    sa.Column("sealed_answers", sa.LargeBinary, nullable=False, comment="what the admin typed so far"),
    sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)

backfills = sa.Table(
    "backfills",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, sa.ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("account", sa.Text, sa.ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    sa.Column(
        "state", sa.Text, nullable=False, comment="planned, queued, running, cancelling, cancelled, done, failed"
    ),
    sa.Column("objects", JSONB, nullable=False, comment="kinds of records, in their order"),
    sa.Column("planned", JSONB, nullable=False, server_default="{}", comment="records and calls by kind"),
    sa.Column("position", JSONB, nullable=False, server_default="{}", comment="kind -> where its next page begins"),
    sa.Column("done", JSONB, nullable=False, server_default="{}", comment="kind -> records on the bulk lane"),
    sa.Column("rate", sa.Float, nullable=False, comment="records a second; read while it runs"),
    sa.Column("calls_per_day", sa.Integer, nullable=False, comment="of the account's calls, reading included"),
    sa.Column("calls_day", sa.Date, comment="the day (UTC) that calls_used is of"),
    sa.Column("calls_used", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_by", sa.Text, nullable=False, server_default=""),
    _now(),
    sa.Column("started_at", sa.DateTime(timezone=True)),
    sa.Column("seen_at", sa.DateTime(timezone=True), comment="last sign of life of its runner"),
    sa.Column("ended_at", sa.DateTime(timezone=True)),
    sa.Column("waiting", sa.Text, nullable=False, server_default="", comment="for what, in words"),
    sa.Column("error", sa.Text, nullable=False, server_default="", comment="names and causes, no content"),
)

# Personal data: which records mention whom, who was erased, and how far each erasure is.

key_people = sa.Table(
    "key_people",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("person", sa.Text, primary_key=True, comment="contact/ID, lead/ID, or mail:HMAC of an address"),
    sa.Column(
        "object", sa.Text, primary_key=True, comment="of the record whose key sealed something about that person"
    ),
    sa.Column("record_id", sa.Text, primary_key=True),
    sa.Index("key_people_records", "tenant", "account", "object", "record_id"),
)

privacy_identifiers = sa.Table(
    "privacy_identifiers",
    metadata,
    *_record_key(),
    sa.Column("mark", sa.LargeBinary, nullable=False, comment="HMAC of the values and their key's id"),
    sa.Column("sealed_values", sa.LargeBinary, nullable=False, comment="by what other records may call this person"),
)

erased_people = sa.Table(
    "erased_people",
    metadata,
    sa.Column("mark", sa.LargeBinary, primary_key=True, comment="HMAC of tenant/account/object/id"),
    sa.Column("tenant", sa.Text, nullable=False, index=True),
    sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)

erased_values = sa.Table(
    "erased_values",
    metadata,
    *_record_key(),
    sa.Column("value", sa.LargeBinary, primary_key=True, comment="HMAC of what an erased person was called in here"),
)

destroyed_keys = sa.Table(
    "destroyed_keys",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now(), index=True),
    sa.Column("retired", sa.Boolean, nullable=False, comment="seals nothing new any more, and still opens"),
)

privacy_erasures = sa.Table(
    "privacy_erasures",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False, index=True),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("object", sa.Text, nullable=False),
    sa.Column("person_id", sa.Text, nullable=False, comment="the CRM's id; empty once it is done"),
    sa.Column("mark", sa.LargeBinary, nullable=False, unique=True, comment="as in erased_people"),
    sa.Column("requested_by", sa.Text, nullable=False, comment="crm, or the operator's name"),
    sa.Column("at_once", sa.Boolean, nullable=False, comment="raw deliveries, too, at once"),
    sa.Column("step", sa.Text, nullable=False, comment="the last step that is behind"),
    sa.Column("work", JSONB, nullable=False, server_default="{}", comment="records and keys in hand; empty once done"),
    sa.Column("counts", JSONB, nullable=False, server_default="{}"),
    _now(),
    sa.Column("stepped_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("due_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now(), index=True),
    sa.Column("waiting", sa.Text, nullable=False, server_default="", comment="for what, in words"),
    sa.Column("done_at", sa.DateTime(timezone=True)),
)

privacy_audit = sa.Table(
    "privacy_audit",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now(), index=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("deed", sa.Text, nullable=False, comment="erase or export"),
    sa.Column("mark", sa.LargeBinary, nullable=False, comment="as in erased_people"),
    sa.Column("reference", sa.Text, nullable=False, server_default="", comment="the erasure's id"),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("counts", JSONB, nullable=False, server_default="{}"),
)

# The gateway's server: virtual keys, and whose the provider's files and batches are.

llm_keys = sa.Table(
    "llm_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True, comment="the middle part of hgk_ID_SECRET; not secret"),
    sa.Column("tenant", sa.Text, sa.ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("name", sa.Text, nullable=False, server_default=""),
    sa.Column("digest", sa.LargeBinary, nullable=False, unique=True, comment="SHA-256 of id and 256 random bits"),
    sa.Column("scopes", JSONB, nullable=False, comment="of chat, batch"),
    sa.Column("models", JSONB, nullable=False, server_default="[]", comment="that it may ask; empty: all"),
    sa.Column("lane", sa.Text, nullable=False, comment="the best one that it may ask for"),
    sa.Column("created_by", sa.Text, nullable=False, server_default=""),
    _now(),
    sa.Column("expires_at", sa.DateTime(timezone=True)),
    sa.Column("revoked_at", sa.DateTime(timezone=True)),
    sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now(), index=True),
)

llm_provider_objects = sa.Table(
    "llm_provider_objects",
    metadata,
    sa.Column("id", sa.Text, primary_key=True, comment="the provider's id of a file or a batch"),
    sa.Column("kind", sa.Text, nullable=False, comment="file or batch"),
    sa.Column("tenant", sa.Text, sa.ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("key_id", sa.Text, nullable=False, comment="of llm_keys"),
    sa.Column("bytes", sa.BigInteger, nullable=False, server_default="0", comment="of a file that was sent"),
    _now(),
    sa.Column("accounted_at", sa.DateTime(timezone=True), comment="of a batch: its results are in llm_usage"),
    sa.Column("user", sa.Text, nullable=False, server_default="", comment="bears a batch's quota"),
    sa.Column("requests", sa.Integer, nullable=False, server_default="0", comment="that quotas hold for a batch"),
    sa.Column("most_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("most_nano", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("grant_id", sa.Text, nullable=False, server_default="", comment="of the reservation in Redis"),
    sa.Column("day", sa.Text, nullable=False, server_default=""),
    sa.Column("month", sa.Text, nullable=False, server_default=""),
    sa.Column("held_until", sa.DateTime(timezone=True), comment="then the reservation comes back by itself"),
    sa.Column(
        "answers", sa.Integer, nullable=False, server_default="0", comment="that a batch brought, once accounted"
    ),
    sa.Column("took_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("took_nano", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column(
        "settled_at", sa.DateTime(timezone=True), comment="of an accounted batch: quotas have heard what it took"
    ),
)

# Salesforce's change events (Pub/Sub API): how far each stream is, who reads it, and what has to be read again.

event_streams = sa.Table(
    "event_streams",
    metadata,
    sa.Column("endpoint", sa.Text, sa.ForeignKey("endpoints.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("replay_id", sa.LargeBinary, comment="opaque; Kafka has acknowledged all up to it"),
    sa.Column(
        "heard_until", sa.DateTime(timezone=True), comment="by the CRM's clock: nothing committed before is missing"
    ),
    sa.Column("checkpoint_at", sa.DateTime(timezone=True)),
    sa.Column("last_event_at", sa.DateTime(timezone=True), comment="when the last event came"),
    sa.Column("events", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("owner", sa.Text, nullable=False, server_default=""),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0", comment="raised with each change of owner"),
    sa.Column("owned_until", sa.DateTime(timezone=True)),
    sa.Column("state", sa.Text, nullable=False, server_default="new", comment="streaming, or why not"),
    sa.Column("detail", sa.Text, nullable=False, server_default="", comment="what to do; names and codes, no content"),
    sa.Column("state_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
)

event_schemas = sa.Table(
    "event_schemas",
    metadata,
    sa.Column("endpoint", sa.Text, sa.ForeignKey("endpoints.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("schema_id", sa.Text, primary_key=True, comment="the CRM's fingerprint"),
    sa.Column("schema_json", sa.Text, nullable=False, comment="Avro, as the CRM gives it: names of fields, no values"),
    _now(),
)

event_resyncs = sa.Table(
    "event_resyncs",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("endpoint", sa.Text, sa.ForeignKey("endpoints.id", ondelete="CASCADE"), nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("object", sa.Text, nullable=False),
    sa.Column("mark", sa.Text, nullable=False, comment="hash of what asked for it: it asks once"),
    sa.Column("cause", sa.Text, nullable=False, comment="GAP_OVERFLOW, WILDCARD, REPLAY_ID, TOO_LARGE"),
    sa.Column("since", sa.DateTime(timezone=True), nullable=False),
    sa.Column("until", sa.DateTime(timezone=True), nullable=False),
    sa.Column("position", sa.Text, nullable=False, server_default="", comment="where its next page begins"),
    sa.Column("records", sa.BigInteger, nullable=False, server_default="0"),
    _now(),
    sa.Column("done_at", sa.DateTime(timezone=True)),
    sa.UniqueConstraint("endpoint", "object", "mark"),
)

# Comparing accounts with their CRMs: how far each kind of record is, and what no webhook told.

reconciliations = sa.Table(
    "reconciliations",
    metadata,
    sa.Column("account", sa.Text, sa.ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("object", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("since", sa.DateTime(timezone=True), nullable=False, comment="compared up to here, less the overlap"),
    sa.Column("until", sa.DateTime(timezone=True), comment="end of the stretch under way"),
    sa.Column("position", sa.Text, comment="where its next page begins"),
    sa.Column("tried_at", sa.DateTime(timezone=True)),
    sa.Column("ended_at", sa.DateTime(timezone=True)),
    sa.Column("compared", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("fed", sa.BigInteger, nullable=False, server_default="0", comment="announced on the bulk lane"),
    sa.Column("missed", sa.BigInteger, nullable=False, server_default="0", comment="of those, the ones that differed"),
    sa.Column("missed_at", sa.DateTime(timezone=True)),
    sa.Column("waiting", sa.Text, nullable=False, server_default="", comment="for what, as a cause"),
)

# Questions that wait for a provider's batch, and the batches.

llm_batches = sa.Table(
    "llm_batches",
    metadata,
    sa.Column("id", sa.Text, primary_key=True, comment="random; names the batch and its file at the provider"),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("provider_key", sa.Text, nullable=False, comment="fingerprint of the provider's key"),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, comment="claimed, uploaded, running, ended"),
    sa.Column("outcome", sa.Text, nullable=False, server_default="", comment="of an ended one"),
    sa.Column("error", sa.Text, nullable=False, server_default="", comment="the provider's code, no content"),
    sa.Column("requests", sa.Integer, nullable=False, server_default="0"),
    sa.Column("answered", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failed", sa.Integer, nullable=False, server_default="0"),
    sa.Column("file_id", sa.Text, nullable=False, server_default="", comment="the provider's"),
    sa.Column("batch_id", sa.Text, nullable=False, server_default="", comment="the provider's"),
    _now(),
    sa.Column("creating_at", sa.DateTime(timezone=True), comment="when the provider was last asked to make it"),
    sa.Column("sent_at", sa.DateTime(timezone=True)),
    sa.Column("ended_at", sa.DateTime(timezone=True)),
)

llm_batch_requests = sa.Table(
    "llm_batch_requests",
    metadata,
    sa.Column("id", sa.Text, primary_key=True, comment="random; all that the provider is told of whose it is"),
    sa.Column("digest", sa.LargeBinary, nullable=False, unique=True, comment="HMAC under the record's key"),
    sa.Column("cached_as", sa.LargeBinary, nullable=False, comment="what the cache calls its answer"),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("object", sa.Text, nullable=False),
    sa.Column("record_id", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("provider_key", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("user", sa.Text, nullable=False, server_default=""),
    sa.Column("analysis", sa.Text, nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("prompt_version", sa.Text, nullable=False),
    sa.Column("asker", sa.Text, nullable=False, server_default="", comment="a replay's id; empty: the analyst"),
    sa.Column("state", sa.Text, nullable=False, comment="waiting, sent, answered, failed (asked alone)"),
    sa.Column("batch", sa.Text, comment="of llm_batches"),
    sa.Column("error", sa.Text, nullable=False, server_default="", comment="a name or code, no content"),
    sa.Column("sealed_request", sa.LargeBinary, comment="until it is answered"),
    sa.Column("sealed_answer", sa.LargeBinary),
    sa.Column("size", sa.Integer, nullable=False, comment="bytes of the question as it is sent"),
    sa.Column("most_tokens", sa.BigInteger, nullable=False, comment="that quotas hold for it"),
    sa.Column("most_nano", sa.BigInteger, nullable=False),
    sa.Column("grant_id", sa.Text, nullable=False, comment="of the reservation in Redis, with its day and month"),
    sa.Column("day", sa.Text, nullable=False),
    sa.Column("month", sa.Text, nullable=False),
    _now(),
    sa.Column("due_at", sa.DateTime(timezone=True), nullable=False, comment="then it is asked alone"),
    sa.Column("answered_at", sa.DateTime(timezone=True), comment="read, sealed and accounted"),
    sa.Index("llm_batch_requests_record", "tenant", "account", "object", "record_id"),
    sa.Index("llm_batch_requests_batch", "batch"),
    sa.Index(
        "llm_batch_requests_waiting",
        "provider",
        "provider_key",
        "model",
        "created_at",
        postgresql_where=sa.text("state = 'waiting'"),
    ),
)
