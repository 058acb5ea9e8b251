"""How any client of ours reaches Kafka: addresses, TLS and SASL from settings, said once."""

from __future__ import annotations

import ssl
from typing import Any

from faststream.kafka import KafkaBroker
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from infra.kafka.resets import survive_resets
from infra.kafka.wire_format import speak_quickly
from infra.settings import Settings, SettingsError, variable


def options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments that aiokafka's producer, consumer and admin client share. Raises SettingsError without an address.

    Whoever asks is about to connect: from here on connections survive resets (`infra.kafka.resets`), and requests that are made
    all the time are written quickly (`infra.kafka.wire_format`).
    """
    survive_resets()
    speak_quickly()
    if not settings.kafka_url:
        raise SettingsError(f"{variable('kafka_url')} is not set: host:port,host:port of the bootstrap servers")
    found: dict[str, Any] = {
        "bootstrap_servers": [each.strip() for each in settings.kafka_url.split(",")],
        "security_protocol": settings.kafka_security,
    }
    if settings.kafka_security.endswith("SSL"):
        found["ssl_context"] = tls(settings)
    if settings.kafka_security.startswith("SASL"):
        if settings.kafka_username is None or settings.kafka_password is None:
            raise SettingsError(
                f"{settings.kafka_security} needs {variable('kafka_username')} and {variable('kafka_password')}"
            )
        found |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_username,
            "sasl_plain_password": settings.kafka_password.get_secret_value(),
        }
    return found


def tls(settings: Settings) -> ssl.SSLContext:
    """Verifies the broker's certificate and name; raises SettingsError naming the file that cannot be read."""
    try:
        context = ssl.create_default_context(cafile=str(settings.kafka_ca_file) if settings.kafka_ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"{variable('kafka_ca_file')}: {settings.kafka_ca_file} is no readable CA bundle"
        ) from error
    if settings.kafka_cert_file:
        try:
            context.load_cert_chain(settings.kafka_cert_file, settings.kafka_key_file)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"{variable('kafka_cert_file')} and {variable('kafka_key_file')}: no readable certificate and key"
            ) from error
    return context


def build_broker(settings: Settings, *, client_id: str = "hookline") -> KafkaBroker:
    """FastStream's broker, with our security: for the application's lifecycle, its AsyncAPI document and its test broker.

    `consumer_only`: it opens no producer and creates no topics; publishing is `infra.kafka.broker`'s, consuming the pump's
    (docs/adr/0003).
    """
    shared = options(settings)
    context = shared.get("ssl_context")
    use_ssl = context is not None
    security: BaseSecurity
    if settings.kafka_security.startswith("SASL"):
        kind = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}[
            settings.kafka_sasl_mechanism
        ]
        security = kind(
            username=shared["sasl_plain_username"],
            password=shared["sasl_plain_password"],
            use_ssl=use_ssl,
            ssl_context=context,
        )
    else:
        security = BaseSecurity(ssl_context=context, use_ssl=use_ssl)
    return KafkaBroker(
        shared["bootstrap_servers"],
        security=security,
        client_id=client_id,
        consumer_only=True,
        allow_auto_create_topics=False,
        logger=None,
    )
