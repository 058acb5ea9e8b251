"""Any sender that signs by the Standard Webhooks specification (standardwebhooks.com), version 1.

Law: the identity, the time and the body are all signed, so a request is fresh and whole or refused.
The digest is the specification's own library's. Its `verify` is not used: it reads the clock by itself, takes
timestamps such as `1e9`, compares decoded signatures (so that several texts pass as one) and fails on odd headers.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from ingress.dialects import standard_webhooks as dialect
from ingress.per_endpoint import PerEndpoint
from ingress.secrets import secrets_of
from ingress.sources.source import (
    FROM_THE_FUTURE,
    SIGNATURE_MISSING,
    STALE,
    VERIFICATION_FAILED,
    Answer,
    Denied,
    InboundRequest,
    Source,
    Translated,
    disabled,
    json_accepted,
    json_refused,
)
from ingress.split import split_array
from schemas.delivery import Delivery, Refusal

if TYPE_CHECKING:
    from infra.accounts import Endpoint

TOLERANCE_SECONDS = 5 * 60
_SECONDS = re.compile(rb"(?:0|[1-9][0-9]{0,10})")
_MAX_SIGNATURES = 16
_HEADERS = (b"webhook-id", b"webhook-timestamp", b"webhook-signature")


class StandardWebhooks:
    """Our own minimal body (see the dialect), signed as the specification says."""

    name = "standard_webhooks"
    id_is_secret = False
    signature_holds_seconds = 2 * TOLERANCE_SECONDS + 1.0
    split = staticmethod(split_array)

    def verify(self, request: InboundRequest, endpoint: Endpoint, now: datetime) -> Denied | None:
        """One of the given signatures must hold under one of the secrets (text `whsec_...`) that are valid now."""
        return judge(request, endpoint, now)

    def once(self, request: InboundRequest, endpoint: Endpoint) -> tuple[bytes, ...] | None:
        """Its id and time."""
        del endpoint
        return once_of(request)

    def new_secret(self) -> bytes:
        """`whsec_` and base64, as the specification writes them."""
        return b"whsec_" + base64.b64encode(os.urandom(32))

    def translate(self, delivery: Delivery, endpoint: Endpoint) -> Iterable[Translated]:
        """One event or up to a hundred."""
        return dialect.translate(delivery, endpoint)

    def accepted(self) -> Answer:
        """Any 2xx."""
        return json_accepted()

    def refused(self, refusal: Refusal, status: int) -> Answer:
        """The specification asks senders to retry on anything but 2xx."""
        return json_refused(refusal, status)


def judge(request: InboundRequest, endpoint: Endpoint, now: datetime) -> Denied | None:
    """The specification's check by itself, for whoever signs so and sends a body of another shape."""
    secrets = secrets_of(endpoint, now)
    if not secrets:
        return disabled(endpoint, now)
    identity, stamp, signatures = (request.headers.get(name) for name in _HEADERS)
    if not identity or stamp is None or signatures is None:
        return SIGNATURE_MISSING
    given = signatures.split(b" ")[:_MAX_SIGNATURES]
    if not _SECONDS.fullmatch(stamp):
        return VERIFICATION_FAILED
    signers = _signers(endpoint)
    usable = [signers[secret] for secret in secrets if secret in signers]
    if not usable:
        return _NO_BASE64
    at = int(stamp)
    if not any(hmac.compare_digest(ours, one) for ours in _signed(usable, identity, at, request.body) for one in given):
        return VERIFICATION_FAILED
    return _judge_age(now.timestamp() - at)


def once_of(request: InboundRequest) -> tuple[bytes, ...]:
    """What determines a verified request: the signed id and time, by the specification the same for each try of one message."""
    return request.headers[b"webhook-id"], request.headers[b"webhook-timestamp"]


def _made(endpoint: Endpoint) -> dict[bytes, Webhook]:
    found = {}
    for secret in endpoint.secrets:
        with contextlib.suppress(ValueError, RuntimeError, EmptyWebhookSecretError):
            found[secret.value] = Webhook(secret.value.decode("ascii"))
    return found


_signers = PerEndpoint(_made)
_NO_BASE64 = Denied(Refusal.ENDPOINT_DISABLED, "its secret is no base64, as the specification asks for")


def _signed(signers: list[Webhook], identity: bytes, at: int, body: bytes) -> list[bytes]:
    """What the signature must be, by each secret; none where identity or body are not the text that the specification asks for."""
    try:
        message, text = identity.decode("ascii"), body.decode()
    except UnicodeDecodeError:
        return []
    return [signer.sign(message, datetime.fromtimestamp(at, UTC), text).encode() for signer in signers]


def _judge_age(seconds: float) -> Denied | None:
    if seconds > TOLERANCE_SECONDS:
        return STALE
    return FROM_THE_FUTURE if seconds < -TOLERANCE_SECONDS else None


PLUGIN: Source = StandardWebhooks()
