"""Every setting, said once: name, default, meaning; `hookline config` and docs/settings.md are made from here.

Law: nothing is read from the environment anywhere else. Each role asks `require(settings, role)` before it starts.
Sources, strongest first: environment, `.env`, defaults. URLs keep their industry names (`KAFKA_URL`, `DATABASE_URL`,
`REDIS_URL`, `GROQ_API_KEY`, `GROQ_BASE_URL`); the rest is prefixed `HOOKLINE_`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Role = Literal["ingress", "translator", "hydrator", "analyst", "sinks"]
ROLES: tuple[Role, ...] = ("ingress", "translator", "hydrator", "analyst", "sinks")


class SettingsError(RuntimeError):
    """A role cannot start with these settings; the text says which and how to set them."""


def _plain(name: str) -> AliasChoices:
    return AliasChoices(name, f"HOOKLINE_{name}")


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
        description="`redis://user:password@host:6379/0`, `rediss://` for TLS.",
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

    # Health and metrics
    ops_host: str = Field(default="127.0.0.1", description="Address of /health/live, /health/ready and /metrics.")
    ops_port: int = Field(default=8081, ge=0, le=65535, description="Port of health and metrics; 0 takes a free one.")

    # Processors
    coalesce_window_seconds: float = Field(
        default=5.0,
        ge=0,
        description="A record's first change goes at once; what follows within this window is folded into one.",
    )
    max_in_flight_messages: int = Field(
        default=5_000, ge=1, description="Messages a role holds at most; then it pauses its consumer."
    )
    max_in_flight_bytes: int = Field(default=64 * 1024 * 1024, ge=1_000_000, description="Bytes a role holds at most.")
    crm_timeout_seconds: float = Field(default=20.0, gt=0, description="Read timeout of a CRM call.")
    crm_concurrency: int = Field(default=4, ge=1, description="CRM calls at once per account and process.")
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
        default=None, validation_alias=_plain("GROQ_BASE_URL"), description="Another server that speaks Groq's API."
    )
    model: str = Field(default="openai/gpt-oss-120b", description="Model that answers.")
    model_timeout_seconds: float = Field(
        default=30.0, gt=0, description="Total time of one question, retries included."
    )
    model_requests_per_minute: int = Field(default=1_000, ge=1, description="Per tenant.")
    model_tokens_per_minute: int = Field(default=250_000, ge=1, description="Per tenant.")
    model_requests_per_day: int = Field(default=500_000, ge=1, description="Per tenant and day (UTC).")
    user_requests_per_day: int = Field(default=50_000, ge=1, description="Per user and day (UTC).")
    cache_ttl_seconds: int = Field(default=7 * 86_400, ge=0, description="How long an answer is kept; 0 keeps none.")

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

    @field_validator("analyses", "destinations", mode="before")
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


_NEEDS: dict[Role, tuple[str, ...]] = {
    "ingress": ("kafka_url", "database_url", "master_keys", "public_url"),
    "translator": ("kafka_url", "database_url", "redis_url", "master_keys"),
    "hydrator": ("kafka_url", "database_url", "master_keys"),
    "analyst": ("kafka_url", "database_url", "redis_url", "master_keys"),
    "sinks": ("kafka_url", "database_url", "master_keys"),
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
