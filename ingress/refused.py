"""A request that was refused for its signature, kept so that an admin can look at it and let it in after all.

Law: kept sealed under the delivery key of its endpoint and hour, so it dies with that key at the latest; bounded in size and
number, because whoever sends unsigned rubbish must not fill a table. What is let in later is judged as it was received:
by the secrets that hold now, at the time at which it came.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from infra.accounts import Secret
from infra.keyring import DataKey, open_sealed, seal
from ingress.proxies import Proxies
from ingress.sources.source import InboundRequest
from schemas.delivery import Refusal

if TYPE_CHECKING:
    from infra.accounts import Endpoint

PURPOSE = "refusals.sealed_request"
KEPT = frozenset({
    Refusal.VERIFICATION_FAILED, Refusal.SIGNATURE_MISSING, Refusal.STALE, Refusal.FROM_THE_FUTURE, Refusal.ENDPOINT_DISABLED,
    Refusal.ADDRESS_NOT_ALLOWED,
})  # fmt: skip
"""Causes that an admin can mend: those whose body was read and judged."""
MAX_BODY_BYTES = 256 * 1024
PER_SECOND = 10
PER_HOUR = 1_000
BYTES_PER_HOUR = 32 * 1024 * 1024
_MAX_COUNTED = 10_000


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """All that a verification looks at."""

    endpoint: str
    received_at: datetime
    method: bytes
    target: bytes
    public: bytes
    headers: Mapping[bytes, bytes]
    body: bytes
    address: str = ""
    """The sender's, where somebody trustworthy said it."""

    @classmethod
    def of(cls, request: InboundRequest, endpoint: str, received_at: datetime) -> RefusedRequest:
        """What the door was judging."""
        address = request.caller.address() if request.caller is not None else None
        return cls(
            endpoint, received_at, request.method, request.target, request.public, request.headers, request.body,
            "" if address is None else str(address),
        )  # fmt: skip

    def request(self, public: bytes) -> InboundRequest:
        """For judging it anew; `public` is how we are reached. A client certificate was not kept."""
        client = (self.address, 0) if self.address else None
        caller = Proxies().caller({"scheme": "https", "client": client, "headers": []}, {})
        return InboundRequest(self.method, self.target, public, self.headers, self.body, caller)

    def pack(self) -> bytes:
        """A length, that much JSON, the body."""
        head = json.dumps(
            {
                "endpoint": self.endpoint,
                "received_at": self.received_at.isoformat(),
                "method": self.method.decode("latin-1"),
                "target": self.target.decode("latin-1"),
                "public": self.public.decode("latin-1"),
                "headers": {name.decode("latin-1"): value.decode("latin-1") for name, value in self.headers.items()},
                "address": self.address,
            },
            separators=(",", ":"),
        ).encode()
        return struct.pack(">I", len(head)) + head + self.body

    @classmethod
    def unpack(cls, packed: bytes) -> RefusedRequest:
        """Read what `pack` wrote; raises ValueError (KeyError, struct.error) when it is not ours."""
        (size,) = struct.unpack_from(">I", packed)
        head = json.loads(packed[4 : 4 + size])
        return cls(
            head["endpoint"],
            datetime.fromisoformat(head["received_at"]),
            head["method"].encode("latin-1"),
            head["target"].encode("latin-1"),
            head["public"].encode("latin-1"),
            {name.encode("latin-1"): value.encode("latin-1") for name, value in head["headers"].items()},
            packed[4 + size :],
            head["address"],
        )

    def seal(self, key: DataKey) -> bytes:
        """Under the delivery key of its endpoint and hour."""
        return seal(key, self.pack(), purpose=PURPOSE, compress=True)

    @classmethod
    def open(cls, sealed: bytes, key: DataKey) -> RefusedRequest:
        """Raises Undecryptable."""
        return cls.unpack(open_sealed(key, sealed, purpose=PURPOSE))


class Allowance:
    """How many refused bodies are kept per endpoint; one per process. No method blocks."""

    def __init__(self) -> None:
        self._second: dict[str, tuple[int, int]] = {}
        self._hour: dict[str, tuple[int, int, int]] = {}

    def take(self, endpoint: str, size: int, at: datetime) -> bool:
        """Whether one more body of `size` bytes may be kept; counts it then."""
        moment = int(at.timestamp())
        if size > MAX_BODY_BYTES:
            return False
        second, number = self._second.get(endpoint, (moment, 0))
        hour, count, total = self._hour.get(endpoint, (moment // 3600, 0, 0))
        if second != moment:
            number = 0
        if hour != moment // 3600:
            count = total = 0
        if number >= PER_SECOND or count >= PER_HOUR or total + size > BYTES_PER_HOUR:
            return False
        if len(self._second) >= _MAX_COUNTED:
            self._second.clear()
            self._hour.clear()
        self._second[endpoint] = (moment, number + 1)
        self._hour[endpoint] = (moment // 3600, count + 1, total + size)
        return True


def with_secrets_of(endpoint: Endpoint, now: datetime) -> Endpoint:
    """The endpoint as if the secrets that hold now had always held: for judging what came before they did."""
    always = datetime.min.replace(tzinfo=UTC)
    return dataclasses.replace(
        endpoint, secrets=tuple(Secret(always, None, found.value) for found in endpoint.secrets if found.valid_at(now))
    )
