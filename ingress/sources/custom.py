"""Any sender that is declared in configuration: the endpoint's own declaration says how it signs and what its bodies mean.

Law: no sender's name stands here. A declaration that cannot be read keeps the endpoint shut (ENDPOINT_DISABLED with the field),
and what was accepted before waits in the dead letters. Read once per endpoint: `ingress/declared/declaration.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from ingress.declared.declaration import Declaration, DeclarationError, read
from ingress.declared.schemes import MAX_TOLERANCE_SECONDS, Basic, Bearer, Hmac, Standard
from ingress.declared.verifier import HmacVerifier
from ingress.dialects import declared as dialect
from ingress.per_endpoint import PerEndpoint
from ingress.secrets import secrets_of
from ingress.sources.source import (
    Answer,
    Denied,
    InboundRequest,
    Source,
    Translated,
    Untranslatable,
    disabled,
    json_accepted,
    json_refused,
    random_secret,
)
from ingress.sources.standard_webhooks import judge as judge_standard
from ingress.sources.standard_webhooks import once_of as standard_once
from schemas.dead_letter import Cause
from schemas.delivery import Delivery, Refusal

if TYPE_CHECKING:
    from infra.accounts import Endpoint


def _read(endpoint: Endpoint) -> Declaration | str:
    try:
        return read(endpoint.config)
    except DeclarationError as error:
        return str(error)


declaration_of = PerEndpoint(_read)
"""The endpoint's declaration, or what is wrong with it."""


def _ready(endpoint: Endpoint) -> HmacVerifier | Bearer | Basic | Standard | str:
    found = declaration_of(endpoint)
    if isinstance(found, str):
        return found
    return HmacVerifier(found.verify) if isinstance(found.verify, Hmac) else found.verify


_verifier_of = PerEndpoint(_ready)
"""What judges the endpoint's requests, or why its declaration cannot be read."""


class Custom:
    """A declared sender."""

    name = "custom"
    id_is_secret = False
    configuration = Declaration
    signature_holds_seconds = 2 * MAX_TOLERANCE_SECONDS + 1.0

    def verify(self, request: InboundRequest, endpoint: Endpoint, now: datetime) -> Denied | None:
        """As declared."""
        match _verifier_of(endpoint):
            case HmacVerifier() | Bearer() | Basic() as verifier:
                secrets = secrets_of(endpoint, now)
                return verifier.verify(request, secrets, now) if secrets else disabled(endpoint, now)
            case Standard():
                return judge_standard(request, endpoint, now)
            case why:
                return Denied(Refusal.ENDPOINT_DISABLED, " ".join(why.split()))

    def once(self, request: InboundRequest, endpoint: Endpoint) -> tuple[bytes, ...] | None:
        """What was signed, where a time or an id is part of it; bearer, Basic and a bare HMAC of the body say nothing of when."""
        match _verifier_of(endpoint):
            case HmacVerifier() as verifier:
                return verifier.once(request)
            case Standard():
                return standard_once(request)
            case _:
                return None

    def new_secret(self) -> bytes:
        """Random text; senders that draw their own (Stripe, Slack) are given none."""
        return random_secret()

    def translate(self, delivery: Delivery, endpoint: Endpoint) -> Iterable[Translated]:
        """As declared."""
        found = declaration_of(endpoint)
        if isinstance(found, str):
            return [Untranslatable(Cause.UNSUPPORTED_EVENT, "the endpoint's declaration cannot be read")]
        return dialect.translate(delivery, found.changes)

    def accepted(self) -> Answer:
        """Any 2xx."""
        return json_accepted()

    def refused(self, refusal: Refusal, status: int) -> Answer:
        """Senders that try again do so on anything but 2xx."""
        return json_refused(refusal, status)


PLUGIN: Source = Custom()
