"""How any client of ours reaches Kafka: addresses, TLS and SASL from settings, said once."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError, SaslAuthenticationFailed, UnsupportedSaslMechanismError
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


async def refusal(settings: Settings, seconds: float = 3.0) -> str | None:
    """Which setting to mend, where a broker is there and refuses us; None where it is away. Connects anew.

    aiokafka logs why a connection failed and then raises the same error for all of them. Where nothing is verified and
    nobody is authenticated there is nothing to ask. Raises SettingsError as `options` does.
    """
    if settings.kafka_security == "PLAINTEXT":
        return None
    more = {name: value for name, value in options(settings).items() if name != "bootstrap_servers"}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            for host, port, _ in collect_hosts(options(settings)["bootstrap_servers"]):
                try:
                    connection = await create_conn(host, port, client_id="hookline-refusal", **more)
                except (OSError, KafkaError) as error:
                    if found := _advice(settings, f"{host}:{port}", error):
                        return found
                else:
                    connection.close()
    return None


def _advice(settings: Settings, at: str, error: OSError | KafkaError) -> str | None:
    found = None
    match error:
        case ssl.SSLCertVerificationError() if "mismatch" in error.verify_message:
            found = f"has a certificate that is not made for that name: use one that it has in {variable('kafka_url')}"
        case ssl.SSLCertVerificationError():
            found = (
                f"has a certificate that is not trusted ({error.verify_message}): set {variable('kafka_ca_file')} to the PEM "
                "file of the authority that signed it"
            )
        case ssl.SSLError():
            found = (
                f"has no TLS with us ({error.reason}): check the port in {variable('kafka_url')}, "
                f"{variable('kafka_security')} and {variable('kafka_cert_file')}"
            )
        case KafkaConnectionError() if settings.kafka_security == "SSL" and settings.kafka_cert_file is None:
            # With TLS 1.3 a server says so only after the handshake: the connection is made, and then closed.
            found = (
                f"closes the connection at once: where it asks for a client certificate, set {variable('kafka_cert_file')} "
                f"and {variable('kafka_key_file')}; else check {variable('kafka_security')}"
            )
        case SaslAuthenticationFailed():
            found = (
                f"refuses user and password: check {variable('kafka_username')}, {variable('kafka_password')} and "
                f"{variable('kafka_sasl_mechanism')} ({settings.kafka_sasl_mechanism})"
            )
        case UnsupportedSaslMechanismError():
            found = f"does not take {settings.kafka_sasl_mechanism}: set {variable('kafka_sasl_mechanism')} to one that it has"
    return f"the broker at {at} {found}" if found else None


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
