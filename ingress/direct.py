"""The short way through the door: a request that is whole and needs no waiting, without a task, a future or ASGI messages.

Law: takes a request only where everything that it may need is in memory, and says so before anything happened; then `reply` is
called once, at once or when the broker has spoken. What decides is `ingress/acceptance.py`, as on the usual way. Why
there are two ways, and what the short one saves: docs/adr/0010.
"""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from infra.kafka.codec import Outgoing
from ingress.acceptance import Acceptance, Case, RefusedError
from ingress.answers import head_of
from ingress.gate import Gate
from ingress.known import Known
from ingress.sources.source import InboundRequest

Settled = Callable[[Exception | None], None]
Offer = Callable[[Sequence[Outgoing], Settled], object]
"""Calls back once, with None after the broker's acknowledgement or with what went wrong. Never blocks; raises what it knows at once."""
Reply = Callable[[bytes, bytes], None]
"""Takes the answer's status line and headers, each ended by CRLF and without the empty line, and its body. Must not raise."""
Peer = MutableMapping[str, Any]
"""What ASGI's scope says of a connection (`client`, `scheme`, `state`), and the `headers` of the request; read until `reply`."""


class Direct:
    """One per process."""

    def __init__(self, acceptance: Acceptance, gate: Gate, offer: Offer) -> None:
        self._acceptance = acceptance
        self._gate = gate
        self._offer = offer
        self._most = acceptance.limits.message_bytes

    def take(self, method: bytes, url: bytes, peer: Peer, body: bytes, reply: Reply) -> bool:
        """Whether this way is the one for it; False: nothing has happened. Never blocks or raises."""
        size = len(body)
        if method != b"POST" or not 0 < size <= self._most:
            return False
        acceptance, gate = self._acceptance, self._gate
        path, query = url, b""
        if b"?" in url:
            path, _, query = url.partition(b"?")
        known = acceptance.known(path)
        if known is None or not known.plain:
            return False
        headers: dict[bytes, bytes] = dict(peer["headers"])
        now = acceptance.now()
        key = acceptance.key(known, now)
        if key is None or b"content-encoding" in headers or not gate.enter():
            return False
        passage = _Passage(acceptance, gate, known, size, reply)
        if not gate.take(size):
            gate.done(size)
            return False
        try:
            if passage.traced:
                acceptance.begin_trace(passage)
            request = InboundRequest(method, url if query else path, known.public or b"", headers, body)
            acceptance.judge(passage, known, request, peer, now)
            if acceptance.is_new(passage):
                acceptance.spend(passage)
                self._offer((acceptance.message(passage, key, body),), passage.settled)
            else:
                passage.settled(None, replayed=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, the sender must hear of it
            passage.settled(error)
        return True


class _Passage(Case):
    """One request on its way, until it is answered."""

    __slots__ = ("_acceptance", "_began", "_gate", "_reply", "_size")

    def __init__(self, acceptance: Acceptance, gate: Gate, known: Known, size: int, reply: Reply) -> None:
        super().__init__(*acceptance.draw.draw(), known.endpoint.id, known.endpoint, known.dialect, known)
        self._acceptance, self._gate, self._reply, self._size = acceptance, gate, reply, size
        self._began = time.perf_counter()

    def settled(self, error: Exception | None, *, replayed: bool = False) -> None:
        """Answer."""
        self._gate.done(self._size)
        try:
            if error is None:
                dialect = self.dialect
                assert dialect is not None
                took = time.perf_counter() - self._began
                if replayed:
                    dialect.seconds.observe(took)
                else:
                    self._acceptance.accepted(self, took)
                head, body = dialect.head, dialect.body
            else:
                head, body = self._turned_away(error)
        except Exception as bug:  # noqa: BLE001 - as everywhere at the door: a bug of ours answers, too
            head, body = self._failed(bug)
        if self.span is not None:
            self.end()
        self._reply(head + self.request_id.encode() + b"\r\n", body)

    def _turned_away(self, error: Exception) -> tuple[bytes, bytes]:
        refused = error if isinstance(error, RefusedError) else self._acceptance.as_refusal(error, self._size)
        if refused is None:
            return self._failed(error)
        answer, extra = self._acceptance.refuse(self, refused)
        return head_of(answer, extra), answer[2]

    def _failed(self, error: Exception) -> tuple[bytes, bytes]:
        answer = self._acceptance.failed(self, error)
        return head_of(answer), answer[2]
