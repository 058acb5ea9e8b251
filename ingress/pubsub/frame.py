"""One change event as the body of a delivery: what the bus said of it, then the event's Avro bytes, untouched.

Law: pure. The body is what a dead letter or a replay needs to understand the event again, but for the schema, which is kept once
for all its events (`ingress/pubsub/avro.py`).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any, Self

CONTENT_TYPE = "application/vnd.hookline.salesforce-event"
SOURCE = "salesforce_pubsub"
"""The source of an endpoint that stands for a stream, and the dialect's name."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of a stream."""

    account: str
    """Whose bus it came from: the credentials say so, the event itself does not."""
    event_id: str
    """The bus's own id of the event, the same when it is delivered again; may be empty."""
    schema_id: str
    replay_id: bytes
    integration_user: str
    """The CRM's id of the user that we write as, for telling our echoes; empty where nobody could say."""
    payload: bytes
    """Avro, without a header."""

    @property
    def key(self) -> str:
        """What makes it the same event when it comes again."""
        return f"{self.account} {self.event_id or self.replay_id.hex()}"

    def pack(self) -> bytes:
        """A big-endian length, that much JSON, then the payload."""
        head = json.dumps(
            {
                "account": self.account,
                "event_id": self.event_id,
                "schema_id": self.schema_id,
                "replay_id": self.replay_id.hex(),
                "integration_user": self.integration_user,
            },
            separators=(",", ":"),
        ).encode()
        return struct.pack(">I", len(head)) + head + self.payload

    @classmethod
    def unpack(cls, body: bytes) -> Self:
        """Read what `pack` wrote; raises ValueError, without content, when it is cut or not ours."""
        if len(body) < 4:
            raise ValueError("shorter than its length prefix")
        (size,) = struct.unpack_from(">I", body)
        if len(body) < 4 + size:
            raise ValueError("its head is cut short")
        try:
            head: Any = json.loads(body[4 : 4 + size])
            found = {name: head[name] for name in ("account", "event_id", "schema_id", "integration_user")}
            replay_id = bytes.fromhex(head["replay_id"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError("its head is not ours") from None
        if not all(isinstance(value, str) for value in found.values()):
            raise ValueError("its head is not ours")
        return cls(**found, replay_id=replay_id, payload=body[4 + size :])
