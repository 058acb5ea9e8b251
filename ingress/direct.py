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
from ingress.conditions import conditions_of
from ingress.gate import Gate

Scope = MutableMapping[str, Any]
Settled = Callable[[Exception | None], None]
Offer = Callable[[Sequence[Outgoing], Settled], object]
"""Calls back once, with None after the broker's acknowledgement or with what went wrong. Never blocks; raises what it knows at once."""
Reply = Callable[[bytes, bytes], None]
"""Takes the answer's status line and headers, each ended by CRLF and without the empty line, and its body. Must not raise."""


class Direct:
    """One per process."""

    def __init__(self, acceptance: Acceptance, gate: Gate, offer: Offer) -> None:
        self._acceptance = acceptance
        self._gate = gate
        self._offer = offer
        self._most = acceptance.limits.message_bytes

    def take(self, scope: Scope, body: bytes, reply: Reply) -> bool:
        """Whether this way is the one for it; False: nothing has happened. Never blocks or raises."""
        if scope["method"] != "POST" or not 0 < len(body) <= self._most:
            return False
        acceptance, gate = self._acceptance, self._gate
        asked = acceptance.asked(scope["raw_path"]) or ""
        endpoint = acceptance.endpoint(asked)
        dialect = acceptance.dialects.get(endpoint.source) if endpoint is not None else None
        if endpoint is None or dialect is None or not endpoint.enabled or conditions_of(endpoint).handshake is not None:
            return False
        headers: dict[bytes, bytes] = dict(scope["headers"])
        key = acceptance.keys.cached_delivery_key(endpoint.tenant, endpoint.id, acceptance.now())
        if key is None or b"content-encoding" in headers or not gate.enter():
            return False
        case = Case(*acceptance.draw.draw(), asked, endpoint, dialect)
        passage = _Passage(acceptance, gate, case, len(body), reply)
        if not gate.take(passage.size):
            passage.leave()
            return False
        try:
            if case.traced:
                acceptance.begin_trace(case)
            acceptance.believe(case, scope, headers, body)
            if acceptance.is_new(case):
                acceptance.spend(case)
                self._offer((acceptance.message(case, key, body),), passage.settled)
            else:
                passage.settled(None, replayed=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, the sender must hear of it
            passage.settled(error)
        return True


class _Passage:
    """One request on its way, until it is answered."""

    __slots__ = ("_acceptance", "_began", "_case", "_gate", "_reply", "size")

    def __init__(self, acceptance: Acceptance, gate: Gate, case: Case, size: int, reply: Reply) -> None:
        self._acceptance, self._gate, self._case, self._reply = acceptance, gate, case, reply
        self.size = size
        self._began = time.perf_counter()

    def leave(self) -> None:
        """It is no longer inside."""
        self._gate.give_back(self.size)
        self._gate.leave()

    def settled(self, error: Exception | None, *, replayed: bool = False) -> None:
        """Answer."""
        case = self._case
        self.leave()
        try:
            if error is None:
                dialect = case.dialect
                assert dialect is not None
                if not replayed:
                    self._acceptance.accepted(case)
                dialect.seconds.observe(time.perf_counter() - self._began)
                head, body = dialect.head, dialect.answer[2]
            else:
                head, body = self._turned_away(error)
        except Exception as bug:  # noqa: BLE001 - as everywhere at the door: a bug of ours answers, too
            head, body = self._failed(bug)
        case.end()
        self._reply(head + case.request_id.encode() + b"\r\n", body)

    def _turned_away(self, error: Exception) -> tuple[bytes, bytes]:
        refused = error if isinstance(error, RefusedError) else self._acceptance.as_refusal(error, self.size)
        if refused is None:
            return self._failed(error)
        answer, extra = self._acceptance.refuse(self._case, refused)
        return head_of(answer, extra), answer[2]

    def _failed(self, error: Exception) -> tuple[bytes, bytes]:
        answer = self._acceptance.failed(self._case, error)
        return head_of(answer), answer[2]
