"""A connection that was reset a moment ago must cost aiokafka a connection, never a background task.

aiokafka takes a write that fails with OSError for a broken connection, and anything else for its own bug: the task that wrote
ends for good, and its consumer fetches nothing more while it stays in its group. On uvloop a write to a transport that is
closed already raises RuntimeError, so one reset at the wrong moment silenced a consumer. Here it becomes what it is.
Source: `aiokafka.conn.AIOKafkaConnection.send`, `aiokafka.consumer.fetcher.Fetcher._fetch_requests_routine` (0.14);
uvloop's `UVHandle._ensure_alive`.

Law: nothing but this one error of a closing transport is changed.
"""

from __future__ import annotations

import functools
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError


def survive_resets() -> None:
    """Take effect for all connections of this process; may be called again and again."""
    original = AIOKafkaConnection.send
    if getattr(original, "survives_resets", False):
        return

    @functools.wraps(original)
    def send(self: Any, request: Any, expect_response: bool = True) -> Any:
        try:
            return original(self, request, expect_response)
        except RuntimeError as error:
            writer = self._writer
            if writer is None or not writer.transport.is_closing():
                raise
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"the connection was closed before the request: {error}") from error

    send.survives_resets = True  # type: ignore[attr-defined]  # a mark on a function
    AIOKafkaConnection.send = send
