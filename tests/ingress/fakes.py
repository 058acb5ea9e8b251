"""Stand-ins that keep the contracts of what the front door and the translator lean on."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from pydantic import SecretStr

from infra.accounts import Endpoint, Secret
from infra.kafka.codec import Codec, Outgoing
from infra.kafka.raw import Raw, RawMessage
from infra.keyring import Keyring, MemoryKeys
from infra.plugins import load
from infra.unavailable import BrokerUnavailable, Unavailable
from ingress.gate import Gate
from ingress.known import Limits
from ingress.ledger import Ledger
from ingress.rates import Rates
from ingress.receiver import Receiver
from ingress.sources.source import Source
from schemas.change import Change
from schemas.delivery import Delivery
from schemas.topics import DELIVERIES

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
PUBLIC = "https://hooks.example.com"
SECRET = b"a-secret-of-the-app"
PORTAL = "hubspot:145883449"


def endpoint(source: str = "hubspot", **changes) -> Endpoint:
    given = {
        "id": "Xq3vZ7mJrT0aLwYb2cNdE9fG",
        "tenant": "acme",
        "source": source,
        "name": source,
        "config": {},
        "enabled": True,
        "secrets": (secret(),),
        "accounts": frozenset({PORTAL}),
    }
    return Endpoint(**{**given, **changes})


def secret(value: bytes = SECRET, *, since: timedelta = timedelta(days=-1), until: timedelta | None = None) -> Secret:
    return Secret(NOW + since, NOW + until if until is not None else None, value)


@dataclass
class FakeDirectory:
    """`later` is what a refresh brings."""

    known: dict[str, Endpoint]
    later: dict[str, Endpoint] | None = None
    away: bool = False
    refreshed: int = 0

    def endpoint(self, id: str) -> Endpoint | None:  # noqa: A002 - the directory's own name for it
        return self.known.get(id)

    async def refresh(self) -> bool:
        self.refreshed += 1
        if self.away:
            raise OSError("connection refused")
        if self.later is None:
            return False
        self.known, self.later = self.later, None
        return True


@dataclass
class FakePublisher:
    """Keeps what is published; `away` counts how many calls fail first."""

    away: int = 0
    outgoing: list[Outgoing] = field(default_factory=list)
    changes: list[tuple[str, Change]] = field(default_factory=list)
    traceparents: list[str] = field(default_factory=list)
    letters: list[dict] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def _ask(self, what: str) -> None:
        if self.away:
            self.away -= 1
            raise BrokerUnavailable("away")
        self.log.append(what)

    async def publish_sealed(self, outgoing: Sequence[Outgoing]) -> None:
        self._ask("sealed")
        self.outgoing.extend(outgoing)

    def offer(self, outgoing: Sequence[Outgoing], told) -> None:
        try:
            self._ask("sealed")
        except BrokerUnavailable as error:
            told(error)
        else:
            self.outgoing.extend(outgoing)
            told(None)

    async def publish(self, topic, payloads, *, traceparents=None) -> list[tuple[int, int]]:
        self._ask("changes")
        self.changes.extend((topic.name, payload) for payload in payloads)
        self.traceparents.extend(traceparents or [])
        return [(0, place) for place in range(len(payloads))]

    async def dead_letter(self, raw, *, stage, cause, detail, tenant, account=None) -> None:
        self._ask("letter")
        self.letters.append(
            {"raw": raw, "stage": stage, "cause": cause, "detail": detail, "tenant": tenant, "account": account}
        )


@dataclass
class FakeMarks:
    """Redis that may be away."""

    marks: dict[str, str] = field(default_factory=dict)
    away: bool = False
    look_ups: int = 0

    async def look_up(self, keys: Sequence[str]) -> dict[str, str]:
        self.look_ups += 1
        if self.away:
            raise Unavailable("redis")
        return {key: self.marks[key] for key in keys if key in self.marks}

    async def set(self, marks: Mapping[str, str]) -> None:
        self.marks.update(marks)


@dataclass
class FakeRates:
    """`left` of each tenant; without an entry everything is granted."""

    left: dict[str, int] = field(default_factory=dict)
    asked: list[dict[str, int]] = field(default_factory=list)

    async def take(self, wanted: Mapping[str, int]) -> dict[str, int]:
        self.asked.append(dict(wanted))
        granted = {tenant: min(number, self.left.get(tenant, number)) for tenant, number in wanted.items()}
        for tenant, number in granted.items():
            if tenant in self.left:
                self.left[tenant] -= number
        return granted


@dataclass
class FakeNotes:
    """What was said to be hot."""

    changes: list[Change] = field(default_factory=list)
    over: dict[str, int] = field(default_factory=dict)

    def note(self, changes: Sequence[Change], over: dict[str, int]) -> None:
        self.changes.extend(changes)
        for tenant, number in over.items():
            self.over[tenant] = self.over.get(tenant, 0) + number


class FakeTimes:
    def __init__(self) -> None:
        self.noted: dict[str, datetime] = {}

    def note(self, account: str, at: datetime) -> None:
        self.noted[account] = at


def keyring(keys: MemoryKeys | None = None) -> Keyring:
    return Keyring(keys or MemoryKeys(), SecretStr(base64.b64encode(os.urandom(32)).decode()))


def sources() -> dict[str, Source]:
    return load("ingress.sources", Source)


def delivery(body: bytes, source: str = "hubspot", **changes) -> Delivery:
    given = {
        "request_id": "r1",
        "tenant": "acme",
        "endpoint": endpoint().id,
        "source": source,
        "received_at": NOW,
        "content_type": "application/json",
        "body": body,
    }
    return Delivery(**{**given, **changes})


async def raw_of(codec: Codec, found: Delivery, *, offset: int = 0, partition: int = 0, traceparent: str = "") -> Raw:
    """The delivery as it lies on its topic."""
    (out,) = await codec.seal(DELIVERIES, [found], traceparents=[traceparent])
    return RawMessage(DELIVERIES.name, partition, offset, out.key, out.value, out.headers, out.timestamp_ms or 0)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class House:
    """A receiver with everything behind it."""

    directory: FakeDirectory
    publisher: FakePublisher
    keys: MemoryKeys
    ring: Keyring
    ledger: Ledger
    rows: list[dict]
    gate: Gate
    receiver: Receiver
    short: ClassVar[bool] = True
    """Whether requests may go the short way, as they do behind our own server."""
    taken: int = 0
    """How many did."""

    async def ask(
        self,
        path: str,
        body: bytes | Sequence[bytes] = b"",
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "POST",
        query: bytes = b"",
        messages: Sequence[dict] | None = None,
        receive=None,
    ) -> Reply | None:
        """One request over ASGI; None when nobody was answered."""
        chunks = [body] if isinstance(body, bytes) else list(body)
        if messages is None:
            messages = [
                {"type": "http.request", "body": chunk, "more_body": place < len(chunks) - 1}
                for place, chunk in enumerate(chunks)
            ]
        waiting = list(messages)
        sent: list[dict] = []

        async def from_list() -> dict:
            return waiting.pop(0)

        async def send(message) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
        }
        whole = receive is None and len(waiting) == 1 and waiting[0]["type"] == "http.request" and not waiting[0].get("more_body")  # fmt: skip
        direct = getattr(self.receiver, "direct", None)
        if self.short and whole and direct is not None:
            await self.make_keys()
            replies: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
            url = path.encode() + (b"?" + query if query else b"")
            if direct.take(method.encode(), url, scope, waiting[0]["body"], lambda *answer: replies.put_nowait(answer)):
                self.taken += 1
                return _read_reply(*await replies.get())
        await self.receiver(scope, receive or from_list, send)
        if not sent:
            return None
        return Reply(
            sent[0]["status"],
            {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]},
            b"".join(message.get("body", b"") for message in sent[1:]),
        )

    async def make_keys(self) -> None:
        """As the door does ahead of the first delivery."""
        if not self.keys.away:
            for found in self.directory.known.values():
                await self.ring.for_delivery(found.tenant, found.id, NOW)

    async def refusals(self) -> list[dict]:
        await self.ledger.flush(everything=True)
        return self.rows


def _read_reply(head: bytes, body: bytes) -> Reply:
    first, *lines = head.decode("latin-1").removesuffix("\r\n").split("\r\n")
    return Reply(int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body)


def house(*endpoints: Endpoint, **changes) -> House:
    directory = FakeDirectory({found.id: found for found in (endpoints or (endpoint(),))})
    publisher, keys, rows = FakePublisher(), MemoryKeys(), []
    ring = keyring(keys)

    async def write(page) -> None:
        rows.extend(page)

    ledger = Ledger(write)
    gate = changes.pop("gate", None) or Gate(100, 10_000_000)
    given = {
        "endpoints": directory,
        "sources": sources(),
        "keys": ring,
        "publish": publisher.publish_sealed,
        # Whoever brings an own `publish` wants to see what waits for it.
        "offer": None if "publish" in changes else publisher.offer,
        "ledger": ledger,
        "gate": gate,
        "rates": Rates(0, 1),
        "limits": Limits(10_000, changes.pop("split_bytes", 10_000), changes.pop("body_seconds", 5.0)),
        "public_url": PUBLIC,
        "now": lambda: NOW,
    }
    return House(directory, publisher, keys, ring, ledger, rows, gate, Receiver(**{**given, **changes}))
