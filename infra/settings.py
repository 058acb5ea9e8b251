"""Every setting, said once: name, default, meaning; `hookline config` and docs/settings.md are made from here.

Law: nothing is read from the environment anywhere else. Each role asks `require(settings, role)` before it starts.
Sources, strongest first: environment, `.env`, defaults. URLs keep their industry names (`KAFKA_URL`, `DATABASE_URL`,
`REDIS_URL`, `GROQ_API_KEY`, `GROQ_BASE_URL`); the rest is prefixed `HOOKLINE_`.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Role = Literal[
    "ingress", "translator", "hydrator", "analyst", "sinks", "api", "gateway", "reconciler", "salesforce-events"
]
ROLES: tuple[Role, ...] = ("ingress", "translator", "hydrator", "analyst", "sinks")


class SettingsError(RuntimeError):
    """A role cannot start with these settings; the text says which and how to set them."""


def _plain(name: str) -> AliasChoices:
    return AliasChoices(name, f"HOOKLINE_{name}")


class ModelLimits(BaseModel):
    """What a provider gives; 0 is no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: int = Field(default=0, ge=0)
    tokens_per_minute: int = Field(default=0, ge=0)
    requests_per_day: int = Field(default=0, ge=0)
    tokens_per_day: int = Field(default=0, ge=0)


class Settings(BaseSettings):
    """All settings of all roles."""

    model_config = SettingsConfigDict(env_prefix="HOOKLINE_", env_file=".env", extra="ignore", populate_by_name=True)

    environment: Literal["production", "development"] = Field(
        default="production",
        description="`development` alone may talk to the sandbox CRM and to plain-text local servers.",
    )

    # Kafka
    kafka_url: str | None = Field(
        default=None, validation_alias=_plain("KAFKA_URL"), description="Bootstrap servers, `host:port,host:port`."
    )
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="Kafka's security protocol."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="Used with a SASL protocol."
    )
    kafka_username: str | None = Field(default=None, description="SASL user.")
    kafka_password: SecretStr | None = Field(default=None, description="SASL password.")
    kafka_ca_file: Path | None = Field(default=None, description="CA bundle for TLS to Kafka; the system's by default.")
    kafka_cert_file: Path | None = Field(default=None, description="Client certificate for mutual TLS to Kafka.")
    kafka_key_file: Path | None = Field(default=None, description="Key of the client certificate.")
    kafka_partitions: int = Field(default=6, ge=1, description="Partitions of topics that `hookline migrate` creates.")
    kafka_replication: int = Field(
        default=3, ge=1, description="Replication factor of topics that `hookline migrate` creates."
    )
    kafka_max_message_bytes: int = Field(
        default=1_000_000,
        ge=100_000,
        description="Largest message we produce; must leave room under the broker's `message.max.bytes`.",
    )

    # Postgres and Redis
    database_url: SecretStr | None = Field(
        default=None,
        validation_alias=_plain("DATABASE_URL"),
        description="`postgresql://user:password@host:5432/name`; add `?sslmode=verify-full&sslrootcert=...` for TLS.",
    )
    database_pool: int = Field(default=8, ge=1, description="Connections per process.")
    redis_url: SecretStr | None = Field(
        default=None,
        validation_alias=_plain("REDIS_URL"),
        description="`redis://user:password@host:6379/0`; `rediss://` for TLS, with `?ssl_ca_certs=FILE` for an authority of your own.",
    )

    # Secrets at rest
    master_keys: SecretStr | None = Field(
        default=None,
        description="Base64 keys of 32 bytes, comma-separated, newest first: the first wraps, all unwrap. "
        "Make one with `hookline config new-master-key`.",
    )

    # Ingress
    ingress_host: str = Field(default="127.0.0.1", description="Address that the front door binds.")
    ingress_port: int = Field(default=8080, ge=0, le=65535, description="Port of the front door; 0 takes a free one.")
    public_url: str | None = Field(
        default=None,
        description="How senders reach the front door, e.g. `https://hooks.example.com`; signatures of v2 and v3 cover it.",
    )
    ingress_max_body_bytes: int = Field(
        default=900_000, ge=1_000, description="Largest body accepted, after decompression."
    )
    ingress_body_timeout_seconds: float = Field(
        default=10.0, gt=0, description="A body must be complete after this long."
    )
    ingress_max_split_bytes: int = Field(
        default=8_000_000,
        ge=1_000,
        description="Largest body accepted where the dialect lets us split a delivery by event into several messages.",
    )
    ingress_max_headers: int = Field(default=100, ge=10, description="Headers of one request at most.")
    ingress_max_header_bytes: int = Field(
        default=32_768, ge=1_024, description="Bytes of request line and headers at most."
    )
    ingress_header_timeout_seconds: float = Field(
        default=10.0, gt=0, description="Request line and headers must be complete after this long."
    )
    ingress_max_connections: int = Field(
        default=4_000, ge=1, description="Connections at once, per process; further ones are answered 503 and closed."
    )
    ingress_rate_per_second: float = Field(
        default=500.0,
        ge=0,
        description="Genuine requests per endpoint and second, over all ingress processes; 0: no limit. An endpoint's own `rate_per_second` outweighs it.",
    )
    ingress_rate_burst: int = Field(
        default=2_000,
        ge=1,
        description="Requests that an endpoint may send at once after a pause; an endpoint's own `rate_burst` outweighs it.",
    )
    ingress_processes: int = Field(
        default=1,
        ge=1,
        description="Ingress replicas in all: each takes its share of the rates (`--workers` counts its own).",
    )
    ingress_socket: int | None = Field(
        default=None,
        ge=3,
        description="A listening socket that was handed down (its file descriptor); set by `hookline serve ingress --workers`.",
    )
    ingress_lifeline: int | None = Field(
        default=None,
        ge=3,
        description="A pipe that ends with the parent process (its file descriptor): the worker then drains and ends, too; set by `hookline serve ingress --workers`.",
    )
    ingress_refused_hours: int = Field(
        default=24,
        ge=0,
        le=72,
        description="Hours for which bodies of refused requests are kept, sealed, for `hookline requests retry`; 0 keeps none.",
    )

    # Senders and what stands between them and the front door
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Networks (CIDR, comma-separated; `unix` for a Unix socket) of our own proxies. What one of them says of a "
        "sender's address, host and certificate is believed; from anybody else it is not even read.",
    )
    trusted_proxy_headers: Literal["x-forwarded", "forwarded"] = Field(
        default="x-forwarded",
        description="What the trusted proxies write: `X-Forwarded-For/-Proto/-Host/-Prefix`, or `Forwarded` (RFC 7239). "
        "They must overwrite or append to it; the other one is not read, since a sender could write it.",
    )
    client_certificate_header: Literal["none", "xfcc", "x-ssl-client", "client-cert"] = Field(
        default="none",
        description="How the trusted proxies pass a verified client certificate on: Envoy's `X-Forwarded-Client-Cert`, nginx's "
        "and HAProxy's `X-SSL-Client-Verify` with `X-SSL-Client-Cert`, or `Client-Cert` (RFC 9440). They must overwrite it.",
    )
    ingress_tls_cert_file: Path | None = Field(
        default=None, description="Certificate chain (PEM): with it the front door speaks TLS itself."
    )
    ingress_tls_key_file: Path | None = Field(default=None, description="Key (PEM) of that certificate.")
    ingress_tls_client_ca_file: Path | None = Field(
        default=None, description="CA bundle (PEM) that senders' client certificates must come from."
    )
    ingress_tls_client_certificates: Literal["none", "optional", "required"] = Field(
        default="none",
        description="Whether the front door asks senders for a client certificate. `optional` lets each endpoint decide.",
    )

    # Health and metrics
    ops_host: str = Field(default="127.0.0.1", description="Address of /health/live, /health/ready and /metrics.")
    ops_port: int = Field(default=8081, ge=0, le=65535, description="Port of health and metrics; 0 takes a free one.")

    # HTTP API
    api_host: str = Field(default="127.0.0.1", description="Address that the HTTP API binds.")
    api_port: int = Field(default=8082, ge=0, le=65535, description="Port of the HTTP API; 0 takes a free one.")
    api_allow_remote: bool = Field(
        default=False,
        description="Must be true for the HTTP API to bind anything but loopback. It speaks plain HTTP: put TLS in front.",
    )
    api_public_url: str | None = Field(
        default=None,
        description="How browsers reach the HTTP API, e.g. `https://hookline.example.com`: CRMs send them back to `/oauth/...` there.",
    )

    # Backfill
    backfill_records_per_second: float = Field(
        default=50.0,
        gt=0,
        description="Records a second that a backfill puts on the bulk lane, unless it says otherwise.",
    )
    backfill_daily_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Part of an account's API calls of a day that a backfill may cause, reading included.",
    )

    # Reconciliation
    reconcile_every_seconds: float = Field(
        default=900.0,
        ge=0,
        description="How often each account is asked for changes that no webhook told; 0: never.",
    )
    reconcile_grace_seconds: float = Field(
        default=120.0,
        ge=0,
        description="A change younger than this is left for the next comparison: its webhook may still be under way.",
    )
    reconcile_overlap_seconds: float = Field(
        default=300.0,
        ge=0,
        description="So much of the stretch before is compared again, for a CRM's clock and the delay of its search index.",
    )

    # Lanes
    tenant_changes_per_second: int = Field(
        default=100,
        ge=1,
        description="Changes a second that a tenant may send on the live lane; while it sends more, it is on the bulk lane. "
        "For one tenant: `hookline tenant rate`.",
    )
    tenant_changes_burst: int = Field(
        default=100,
        ge=1,
        description="Changes that a tenant may send at once before its rate counts: a full delivery of HubSpot's, and not an import.",
    )

    # Processors
    privacy_settle_seconds: float = Field(
        default=15.0,
        ge=2.5,
        description="How long an erasure waits between destroying keys and reading the other records again: what was under way ends meanwhile.",
    )
    coalesce_window_seconds: float = Field(
        default=5.0,
        ge=0,
        description="A record's first change goes at once; what follows within this window is folded into one.",
    )
    max_in_flight_messages: int = Field(
        default=5_000, ge=1, description="Messages a role holds at most; then it pauses its consumer."
    )
    max_in_flight_bytes: int = Field(default=64 * 1024 * 1024, ge=1_000_000, description="Bytes a role holds at most.")
    salesforce_events_url: str = Field(
        default="https://api.pubsub.salesforce.com:7443",
        description="Salesforce's Pub/Sub API; `https://api.deu.pubsub.salesforce.com:7443` keeps an EU org's events in the EU. "
        "`http://`, without TLS, in development alone.",
    )
    salesforce_events_lease_seconds: float = Field(
        default=30.0,
        ge=1,
        description="How long a replica owns an org's event stream without renewing it; another takes over after that.",
    )
    crm_timeout_seconds: float = Field(default=20.0, gt=0, description="Read timeout of a CRM call.")
    crm_concurrency: int = Field(default=4, ge=1, description="CRM calls at once per account and process.")
    crm_free_share: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Part of an account's daily API calls that stays free for the customer's other integrations.",
    )
    crm_bulk_free_share: float = Field(
        default=0.5, ge=0, lt=1, description="Part of an account's daily API calls that bulk work leaves untouched."
    )
    crm_daily_calls: int | None = Field(
        default=None, ge=1, description="Calls a UTC day that we allow ourselves per account, whatever the CRM allows."
    )
    crm_wait_seconds: float = Field(
        default=60.0,
        gt=0,
        description="For so long a call waits for its account's limit; then its records are set aside.",
    )
    crm_recent_seconds: float = Field(
        default=10.0,
        ge=0,
        description="For so long a record that others hang on (a contact's company) is remembered as it was read; 0: it is read each time.",
    )
    crm_share_without_redis: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="Part of an account's limit that one process uses while Redis is away: 1 divided by the processes that call CRMs.",
    )
    sandbox_url: str | None = Field(
        default=None, description="Address of the sandbox CRM; refused unless HOOKLINE_ENVIRONMENT=development."
    )
    analyses: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("lead_intel", "requirements", "data_quality"), description="Analyses that run, by plug-in name."
    )
    generation: int = Field(default=1, ge=1, description="Generation of prompts and models; a promotion raises it.")

    # Model
    provider: Literal["auto", "groq", "offline"] = Field(
        default="auto", description="`auto`: Groq when GROQ_API_KEY is set, else the offline rules."
    )
    groq_api_key: SecretStr | None = Field(
        default=None, validation_alias=_plain("GROQ_API_KEY"), description="Key of Groq's API."
    )
    groq_base_url: str | None = Field(
        default=None,
        validation_alias=_plain("GROQ_BASE_URL"),
        description="Another server that speaks Groq's API under /openai/v1, or OpenAI's under an address that ends in /v1.",
    )
    model: str = Field(default="openai/gpt-oss-120b", description="Model that answers.")
    model_cheap: str | None = Field(
        default=None,
        description="Model that is asked first about simple input, its answer taken if it is grounded and confident; empty: none. "
        "Unless set: openai/gpt-oss-20b beside the default model, and none beside another.",
    )
    routes: str | None = Field(
        default=None,
        description="TOML file with tiers of models and rules that choose among them, instead of the two above.",
    )
    question_rest_seconds: float = Field(
        default=50.0,
        ge=0,
        le=600,
        description="How long a question about somebody's change may wait for further changes and for others of its tenant; meanwhile "
        "rules speak. 0: every change is asked about at once. Without a model (`offline`) nothing waits.",
    )
    pack_items: int = Field(
        default=14, ge=1, le=50, description="Most questions of one tenant that share a call; 1: none do."
    )
    pack_seconds: float = Field(
        default=0.1, ge=0, le=5, description="How long a question waits for others of its tenant to share a call with."
    )
    pack_tokens: int = Field(
        default=12_000, ge=1_000, description="Most tokens of input that questions which share a call have together."
    )
    model_batch: bool = Field(
        default=False,
        description="Questions of backfills and replays go into the provider's batches, at half the price. Off, because such a backfill or "
        "replay then takes as long as the provider does, up to a day. What people's edits ask is never kept waiting.",
    )
    model_batch_seconds: float = Field(
        default=600.0, gt=0, le=21_600, description="How long questions are collected for a batch, at most."
    )
    model_batch_items: int = Field(
        default=5_000, ge=1, le=50_000, description="Questions of one model that make a batch without further waiting."
    )
    model_timeout_seconds: float = Field(
        default=30.0, gt=0, description="Total time of one question, retries included."
    )
    model_requests_per_minute: int = Field(default=1_000, ge=1, description="Per tenant.")
    model_tokens_per_minute: int = Field(default=250_000, ge=1, description="Per tenant.")
    model_requests_per_day: int = Field(default=500_000, ge=1, description="Per tenant and day (UTC).")
    user_requests_per_day: int = Field(default=50_000, ge=1, description="Per user and day (UTC).")
    replay_requests_per_day: int = Field(
        default=100_000,
        ge=1,
        description="Of all replays of a tenant together, per day (UTC); they count against the tenant's quota as well.",
    )
    cache_ttl_seconds: int = Field(default=7 * 86_400, ge=0, description="How long an answer is kept; 0 keeps none.")
    model_tokens_per_day: int = Field(default=0, ge=0, description="Per tenant and day (UTC); 0: no limit.")
    model_dollars_per_day: float = Field(default=0.0, ge=0, description="Per tenant and day (UTC); 0: no limit.")
    model_requests_per_month: int = Field(default=0, ge=0, description="Per tenant and month (UTC); 0: no limit.")
    model_tokens_per_month: int = Field(default=0, ge=0, description="Per tenant and month (UTC); 0: no limit.")
    model_dollars_per_month: float = Field(default=0.0, ge=0, description="Per tenant and month (UTC); 0: no limit.")
    user_tokens_per_day: int = Field(default=0, ge=0, description="Per user and day (UTC); 0: no limit.")
    user_dollars_per_day: float = Field(default=0.0, ge=0, description="Per user and day (UTC); 0: no limit.")
    quota_soft_share: float = Field(
        default=0.8, gt=0, le=1, description="Share of a quota from which on a warning is given."
    )
    quotas_without_redis: Literal["open", "closed"] = Field(
        default="open",
        description="Redis away: `open` goes on within a local share of limits and quotas, `closed` refuses.",
    )
    gateway_replicas: int = Field(
        default=4, ge=1, description="Processes that ask models: without Redis each takes this part of every limit."
    )
    provider_limits: dict[str, ModelLimits] = Field(
        default={},
        description="What the provider's key may take, by model (`*`: over all models; `provider:model` and `provider:*` go before, where "
        "there are several providers), as JSON: "
        '`{"openai/gpt-oss-120b": {"requests_per_minute": 1000, "tokens_per_minute": 250000, '
        '"requests_per_day": 500000, "tokens_per_day": 0}}`. What is not said is taken from the provider\'s headers.',
    )
    model_window_seconds: float = Field(
        default=60.0, gt=0.1, description="Length of a limit's `minute`; another value is for measuring."
    )
    model_burst_share: float = Field(
        default=0.2, gt=0, le=1, description="Part of a provider's minute that may go at once after a quiet time."
    )
    gateway_host: str = Field(default="127.0.0.1", description="Address that `serve gateway` listens on.")
    gateway_port: int = Field(default=8085, ge=0, le=65_535, description="Port of `serve gateway`; 0 takes a free one.")
    gateway_timeout_seconds: float = Field(
        default=120.0,
        gt=0,
        description="Total time of one chat request, retries included; of a stream: until it begins, and between two chunks.",
    )
    gateway_max_body_bytes: int = Field(
        default=20 * 1024 * 1024, ge=1_024, description="Largest chat request that `serve gateway` takes."
    )
    gateway_content_in_spans: bool = Field(
        default=False,
        description="Spans of questions to models hold their words and the answers' (customers' text): for development.",
    )

    # Sinks
    destinations: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("postgres", "hubspot", "salesforce"), description="Destinations that run, by plug-in name."
    )

    # Telemetry
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe level that is logged."
    )
    log_format: Literal["json", "console"] = Field(default="json", description="`console` for people.")
    otlp_endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_ENDPOINT", "HOOKLINE_OTLP_ENDPOINT"),
        description="Where spans go (OTLP over HTTP); none: spans are made for context and dropped.",
    )
    trace_ratio: float = Field(default=0.05, ge=0, le=1, description="Share of deliveries that are traced.")

    # Embedded stack
    data_dir: Path = Field(default=Path(".hookline"), description="Where the embedded stack keeps its data.")

    @field_validator("analyses", "destinations", "trusted_proxies", mode="before")
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


_TLS_PAIR = ("ingress_tls_cert_file", "ingress_tls_key_file")


def _sender_problems(settings: Settings) -> list[str]:
    found = []
    for network in settings.trusted_proxies:
        try:
            if network != "unix":
                ip_network(network)
        except ValueError as error:
            found.append(f"{variable('trusted_proxies')}: {error}; write networks as 10.0.0.0/8, or unix")
    if settings.client_certificate_header != "none" and not settings.trusted_proxies:
        found.append(
            f"{variable('client_certificate_header')} is {settings.client_certificate_header}, and no proxy is trusted to write "
            f"it: set {variable('trusted_proxies')}"
        )
    absent = [name for name in _TLS_PAIR if getattr(settings, name) is None]
    asks = settings.ingress_tls_client_certificates != "none"
    if len(absent) == 1 or (asks and absent):
        found.append(
            f"{' and '.join(variable(name) for name in absent)} is not set, and TLS at the front door needs both"
        )
    if asks and settings.ingress_tls_client_ca_file is None:
        found.append(
            f"{variable('ingress_tls_client_ca_file')} is not set: without it no client certificate can be verified"
        )
    return found


_NEEDS: dict[Role, tuple[str, ...]] = {
    "ingress": ("kafka_url", "database_url", "master_keys", "public_url"),
    "translator": ("kafka_url", "database_url", "redis_url", "master_keys"),
    "hydrator": ("kafka_url", "database_url", "master_keys"),
    "analyst": ("kafka_url", "database_url", "redis_url", "master_keys"),
    "sinks": ("kafka_url", "database_url", "master_keys"),
    "api": ("kafka_url", "database_url", "redis_url", "master_keys"),
    "gateway": ("database_url", "redis_url", "master_keys", "groq_api_key"),
    "reconciler": ("kafka_url", "database_url", "redis_url", "master_keys"),
    "salesforce-events": ("kafka_url", "database_url", "master_keys"),
}


def variable(name: str) -> str:
    """The environment variable that sets the field `name`."""
    alias = Settings.model_fields[name].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"HOOKLINE_{name.upper()}"


def problems(settings: Settings, needs: Sequence[str]) -> list[str]:
    """What is missing or contradictory, one line each, with the variable to set."""
    found = [
        f"{variable(name)} is not set: {Settings.model_fields[name].description}"
        for name in needs
        if getattr(settings, name) is None
    ]
    if settings.sandbox_url and settings.environment == "production":
        found.append(
            f"{variable('sandbox_url')} points at the sandbox CRM, which production refuses: unset it, "
            "or set HOOKLINE_ENVIRONMENT=development on a machine without customers' data"
        )
    if settings.salesforce_events_url.startswith("http://") and settings.environment == "production":
        found.append(f"{variable('salesforce_events_url')} is without TLS, which production refuses: use https://")
    found += _sender_problems(settings)
    if settings.kafka_security.startswith("SASL") and not (settings.kafka_username and settings.kafka_password):
        found.append(f"{settings.kafka_security} needs HOOKLINE_KAFKA_USERNAME and HOOKLINE_KAFKA_PASSWORD")
    if settings.provider == "groq" and settings.groq_api_key is None:
        found.append(
            "GROQ_API_KEY is not set, and HOOKLINE_PROVIDER=groq needs it: set it, or use HOOKLINE_PROVIDER=offline"
        )
    return found


def require(settings: Settings, role: Role) -> None:
    """Refuse to boot incomplete; raises SettingsError with everything that is missing at once."""
    found = problems(settings, _NEEDS[role])
    if found:
        raise SettingsError(f"{role} cannot start:\n" + "\n".join(f"  - {line}" for line in found))
