"""HubSpot's webhooks: signatures v1, v2 and v3.

Law: the strongest signature that a request carries must hold; a weaker one beside it is not even looked at.
Source: "Validating requests" of HubSpot's developer documentation. What the events mean: `ingress/dialects/hubspot.py`.
Endpoint configuration: `app_id` (events of another app are not for it), `signature` (`v1`, `v2` or `v3`: the weakest
that is accepted; `v1` by default, because HubSpot signs the CRM subscriptions of older apps with nothing better).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ingress.configuration import EndpointConfiguration
from ingress.dialects import hubspot as dialect
from ingress.keyed import Keyed
from ingress.secrets import keyed_of, secrets_of
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
    random_secret,
)
from ingress.split import split_array
from schemas.delivery import Delivery, Refusal

if TYPE_CHECKING:
    from infra.accounts import Endpoint

MAX_AGE_MS = 5 * 60 * 1000
"""HubSpot's own rule for v3."""
MAX_AHEAD_MS = 60 * 1000
"""How far the sender's clock may be ahead of ours. More would let a captured request live longer than MAX_AGE_MS."""

_DECODED = {
    b"%3A": b":", b"%2F": b"/", b"%3F": b"?", b"%40": b"@", b"%21": b"!", b"%24": b"$",
    b"%27": b"'", b"%28": b"(", b"%29": b")", b"%2A": b"*", b"%2C": b",", b"%3B": b";",
}  # fmt: skip
_ESCAPES = re.compile(b"|".join(re.escape(escape) for escape in _DECODED))
_MOST_DIGITS = 15
_RANK = {"v1": 1, "v2": 2, "v3": 3}


def decode_uri(uri: bytes) -> bytes:
    """Undo the dozen escapes that v3 undoes, once: what they decode to is not decoded again, and `%20` stays."""
    return _ESCAPES.sub(lambda match: _DECODED[match.group()], uri) if b"%" in uri else uri


class HubSpotConfiguration(EndpointConfiguration):
    """What an endpoint of this source may have."""

    app_id: Annotated[str, Field(pattern="^[1-9][0-9]{0,18}$")] | None = None
    signature: Literal["v1", "v2", "v3"] = "v1"


class HubSpot:
    """One app of HubSpot: one URL and secret for every portal that installed it."""

    name = "hubspot"
    id_is_secret = False
    configuration = HubSpotConfiguration
    signature_holds_seconds = (MAX_AGE_MS + MAX_AHEAD_MS) / 1000 + 1
    split = staticmethod(split_array)

    def verify(self, request: InboundRequest, endpoint: Endpoint, now: datetime) -> Denied | None:
        """Check the strongest signature present against every secret that is valid now."""
        keyed = keyed_of(endpoint, now)
        if not keyed:
            return disabled(endpoint, now)
        v3 = request.headers.get(b"x-hubspot-signature-v3")
        if v3 is not None:
            return _verify_v3(request, v3, keyed, now)
        weakest = _RANK.get(str(endpoint.config.get("signature", "v1")), 3)
        return _verify_plain(request, secrets_of(endpoint, now), weakest)

    def once(self, request: InboundRequest, endpoint: Endpoint) -> tuple[bytes, ...] | None:
        """The signature v3 covers everything; a weaker one carries no time, and nothing says that two of those are one."""
        del endpoint
        found = request.headers.get(b"x-hubspot-signature-v3")
        return None if found is None else (found,)

    def new_secret(self) -> bytes:
        """For the sandbox and tests: HubSpot itself draws an app's client secret, and it is copied from there."""
        return random_secret()

    def translate(self, delivery: Delivery, endpoint: Endpoint) -> Iterable[Translated]:
        """The events of the array, one by one."""
        return dialect.translate(delivery, endpoint)

    def accepted(self) -> Answer:
        """HubSpot looks at the status alone."""
        return json_accepted()

    def refused(self, refusal: Refusal, status: int) -> Answer:
        """Any 4xx or 5xx brings the request back, up to ten times in 24 hours."""
        return json_refused(refusal, status)


def _verify_plain(request: InboundRequest, secrets: list[bytes], weakest: int) -> Denied | None:
    given = request.headers.get(b"x-hubspot-signature")
    version = request.headers.get(b"x-hubspot-signature-version", b"")
    if given is None or weakest == 3 or (weakest == 2 and version == b"v1"):
        return SIGNATURE_MISSING
    covered = []
    # Without a version header either may be meant; nobody without the secret can make the one or the other.
    if version in {b"v2", b""}:
        covered.append(request.method + request.uri() + request.body)
    if version in {b"v1", b""} and weakest == 1:
        covered.append(request.body)
    holds = any(
        hmac.compare_digest(hashlib.sha256(secret + text).hexdigest().encode(), given)
        for text in covered
        for secret in secrets
    )
    return None if holds else VERIFICATION_FAILED


def _verify_v3(request: InboundRequest, given: bytes, keyed: list[Keyed], now: datetime) -> Denied | None:
    stamp = request.headers.get(b"x-hubspot-request-timestamp")
    if stamp is None:
        return SIGNATURE_MISSING
    if not stamp.isdigit() or len(stamp) > _MOST_DIGITS:
        return VERIFICATION_FAILED
    covered = b"".join((request.method, decode_uri(request.uri()), request.body, stamp))
    for key in keyed:
        if hmac.compare_digest(base64.b64encode(key.digest(covered)), given):
            break
    else:
        return VERIFICATION_FAILED
    # The time is judged last: only of a genuine request does it mean anything to say that it is stale.
    age = now.timestamp() * 1000 - int(stamp)
    if age > MAX_AGE_MS:
        return STALE
    if age < -MAX_AHEAD_MS:
        return FROM_THE_FUTURE
    return None


PLUGIN: Source = HubSpot()
