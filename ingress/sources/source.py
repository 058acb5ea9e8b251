"""What a dialect must be able to do: tell its sender's requests from forged ones, and put them into our words.

Law: verification sees bytes and never parses; translation parses and never trusts. Neither reaches any server.
A module of this folder is a dialect when it ends in a constant `PLUGIN`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol

from infra.accounts.unguessable import unguessable
from ingress.secrets import why_none
from schemas.change import ChangeKind
from schemas.dead_letter import Cause
from schemas.delivery import Delivery, Refusal
from schemas.record import ObjectType, Reason

if TYPE_CHECKING:
    from infra.accounts import Endpoint
    from ingress.proxies import Caller

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers and body of an HTTP answer; the receiver adds length, request id and Retry-After."""


@dataclass(slots=True)
class InboundRequest:
    """What a signature may cover, as it came over the wire. Nobody alters it; it is not frozen, for that makes each one cost more."""

    method: bytes
    target: bytes
    """Path and query, still percent-encoded."""
    public: bytes
    """Scheme, host and path prefix by which senders reach us, without a trailing slash."""
    headers: Mapping[bytes, bytes]
    """Names in lower case; of a repeated header the last."""
    body: bytes
    """Unparsed; a Content-Encoding is undone, for that belongs to the connection and not to the message."""
    caller: Caller | None = None
    """Where it came from, for endpoints that ask; None: nobody can say."""

    def uri(self) -> bytes:
        """The address that the sender used."""
        return self.public + self.target


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a request is not believed."""

    refusal: Refusal
    detail: str = ""
    """For the administrator alone, never for the sender; says nothing of what was sent."""


# Not frozen: there are hundreds a delivery, and a lock on every attribute costs more than filling them.
@dataclass(slots=True)
class Event:
    """One thing that happened in a CRM, about one record."""

    account: str
    """`hubspot:145883449` or `salesforce:00D...`: the one the event names; not yet checked."""
    key: str
    """What makes it the same event when it comes again. Never stored as it is, only hashed."""
    position: int
    """Which event of its delivery, from 0."""
    object: ObjectType
    id: str
    kind: ChangeKind
    occurred_at: datetime
    properties: tuple[str, ...] = ()
    merged_ids: tuple[str, ...] = ()
    edited_by: str | None = None
    bulk: bool = False
    """An import or migration: it waits behind live traffic."""
    reason: Reason = "webhook"


@dataclass(frozen=True, slots=True)
class Untranslatable:
    """An event, or a whole delivery (`position` None), that goes to the dead letters."""

    cause: Cause
    """Of what a sender wrote, one that is the account's (`kind_of`): others count towards stopping the translator for everybody."""
    detail: str
    """What is wrong with it, without a word of its content."""
    position: int | None = None
    account: str | None = None


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event that nobody needs; it is counted and gone."""

    reason: Literal["own_property", "unread_object", "not_wanted", "empty"]
    account: str | None = None


@dataclass(frozen=True, slots=True)
class Resync:
    """The sender says that it cannot tell what changed: all of an object has to be read that was changed since a moment."""

    account: str
    object: ObjectType
    since: datetime
    key: str
    """What makes it the same demand when it comes again; stored as a hash."""
    cause: str
    """A name, such as GAP_OVERFLOW."""
    position: int = 0


Translated = Event | Untranslatable | Ignored | Resync


class Source(Protocol):
    """A dialect. One object serves all endpoints and tasks at once: it keeps nothing but what it made of an endpoint."""

    name: str
    id_is_secret: bool
    """The endpoint's id is what authenticates the sender, so it is never logged or stored whole."""

    def verify(self, request: InboundRequest, endpoint: Endpoint, now: datetime) -> Denied | None:
        """None when the request comes from who it says it does. Must not block, raise, parse the body or keep anything.

        What an endpoint may ask of every sender (networks, a client certificate) is judged before, by `ingress/verification.py`.
        """
        ...

    def new_secret(self) -> bytes:
        """A secret of 256 bits in the form that this sender's administrators expect. Must not block or raise."""
        ...

    def translate(self, delivery: Delivery, endpoint: Endpoint) -> Iterable[Translated]:
        """The delivery in our words. Must not raise, whatever the body holds; may be called again for the same delivery."""
        ...

    def accepted(self) -> Answer:
        """What the sender wants to hear once the broker has acknowledged. Must not block or raise."""
        ...

    def refused(self, refusal: Refusal, status: int) -> Answer:
        """What makes the sender come again later. Must not block or raise."""
        ...


def disabled(endpoint: Endpoint, now: datetime) -> Denied:
    """For an endpoint none of whose secrets counts."""
    return Denied(Refusal.ENDPOINT_DISABLED, why_none(endpoint, now))


SIGNATURE_MISSING = Denied(Refusal.SIGNATURE_MISSING)
VERIFICATION_FAILED = Denied(Refusal.VERIFICATION_FAILED)
STALE = Denied(Refusal.STALE)
FROM_THE_FUTURE = Denied(Refusal.FROM_THE_FUTURE)
"""Made once: a storm of refusals makes none anew."""


def random_secret() -> bytes:
    """For dialects that take any text."""
    return unguessable(32).encode()


_JSON = [(b"content-type", b"application/json")]


def json_accepted() -> Answer:
    """For senders that look at the status alone."""
    return 202, _JSON, b'{"accepted":true}'


def json_refused(refusal: Refusal, status: int) -> Answer:
    """Names the cause, so that whoever reads the sender's log understands."""
    return status, _JSON, b'{"accepted":false,"cause":"' + refusal.encode() + b'"}'
