"""The commands that go to Redis with every question, packed: what the scripts in `lua/` are told, argument by argument.

Law: makes bytes and nothing else. What is the same for all questions of a tenant, a user and a line is packed once.
"""

from __future__ import annotations

from infra.redis_wire import Command
from llm_gateway.policy import LinePolicy, Policies, nano
from llm_gateway.question import Grant, Line, Question, pseudonym
from llm_gateway.scripts import Scripts

P = "hookline:llm:"
_LANES = {"interactive": b"1", "live": b"2", "bulk": b"3"}
_ADMIT_ARGS = 39
_SETTLE_ARGS = 29
_SETTLE_MANY_ARGS = 32
_MOST_TAILS = 100_000


class Trips:
    """One per core."""

    def __init__(self, scripts: Scripts, policies: Policies, replica: str, grace_seconds: float) -> None:
        """`grace_seconds`: how much longer than its caller's deadline a reservation lives."""
        self._scripts = scripts
        self._policies = policies
        self._replica = replica
        self._grace_ms = int(grace_seconds * 1000)
        self._tails: dict[tuple[str, str, Line], tuple[int, bytes]] = {}
        self._admit_head = _head(scripts.admit.digest, _ADMIT_ARGS) + _bulk(replica)
        self._settle_head = _head(scripts.settle.digest, _SETTLE_ARGS) + _bulk(replica)
        self._settle_many_head = _head(scripts.settle.digest, _SETTLE_MANY_ARGS) + _bulk(replica)

    def admit(self, question: Question, id_: str, name: str, patience: float, left: float, *, quotas: bool) -> bytes:
        """`admit.lua`; `name` is the flight's ('' for none), `patience` and `left` are seconds."""
        tenant = question.tenant
        key = (tenant, question.user, question.line)
        tail = self._tails.get(key)
        if tail is None or tail[0] != self._policies.version:
            if len(self._tails) > _MOST_TAILS:
                self._tails.clear()
            tail = self._tails[key] = (self._policies.version, self._tail(tenant, question.user, question.line))
        entry = f"{{{tenant}}}:{name}" if name and question.ttl else ""
        return b"".join(
            (
                self._admit_head,
                _bulk(
                    id_, tenant, pseudonym(tenant, question.user), _LANES[question.lane], entry, name,
                    b"0" if question.refresh else b"1", question.tokens, question.most_tokens, question.most_nano,
                    int(patience * 1000), int(left * 1000) + self._grace_ms, question.requests if quotas else b"0",
                ),
                tail[1],
            )
        )  # fmt: skip

    def settle(  # noqa: PLR0917 -- the script's arguments
        self,
        grant: Grant,
        ended: bytes,
        tokens: int,
        cost: int,
        window_tokens: int,
        sealed: bytes,
        told: bytes,
        *,
        answers: int = 1,
        once: str = "",
    ) -> bytes:
        """`settle.lua`; `cost` in billionths of a dollar, `told` is what replicas hear that wait for the same answer."""
        question, line = grant.question, grant.question.line
        limits = self._policies.line(line)
        tenant = question.tenant
        policy = self._policies.of(tenant)
        entry = f"{{{tenant}}}:{grant.flight}" if grant.flight else ""
        many = question.requests != 1 or answers != 1 or bool(once)
        return b"".join(
            (
                self._settle_many_head if many else self._settle_head,
                _bulk(
                    grant.id, tenant, pseudonym(tenant, question.user), grant.day, grant.month,
                    question.most_tokens, question.most_nano, ended, tokens, cost,
                    grant.slot, question.tokens, window_tokens, line.name, _key(line, limits),
                    self._policies.window_ms, str(self._policies.burst), limits.requests, limits.tokens,
                    limits.key_requests, limits.key_tokens, entry, sealed, question.ttl, grant.flight, told,
                    policy.requests_per_minute, policy.tokens_per_minute,
                ),
                _bulk(question.requests, answers, once) if many else b"",
            )
        )  # fmt: skip

    def tick(self, line: Line) -> Command:
        """`tick.lua`: look whether somebody's turn has come."""
        limits = self._policies.line(line)
        return self._scripts.tick.call(
            self._replica, line.name, _key(line, limits), limits.requests, limits.tokens, limits.requests_per_day,
            limits.tokens_per_day, str(self._policies.burst), self._policies.window_ms, limits.key_requests, limits.key_tokens,
            limits.key_requests_per_day, limits.key_tokens_per_day,
        )  # fmt: skip

    def _tail(self, tenant: str, user: str, line: Line) -> bytes:
        policy, limits = self._policies.of(tenant), self._policies.line(line)
        quotas = (policy.user(user), policy.day, policy.month)
        amounts = [part for each in quotas for part in (each.requests, each.tokens, nano(each.dollars))]
        return _bulk(
            line.name, _key(line, limits), *amounts, str(self._policies.soft),
            policy.requests_per_minute, policy.tokens_per_minute, str(policy.weight), self._policies.window_ms,
            limits.requests, limits.tokens, limits.requests_per_day, limits.tokens_per_day, str(self._policies.burst),
            limits.key_requests, limits.key_tokens, limits.key_requests_per_day, limits.key_tokens_per_day,
        )  # fmt: skip


def _key(line: Line, limits: LinePolicy) -> str:
    """What the scripts are told of the provider's key; '' where it has no limit of its own."""
    return (line.key or "-") if limits.keyed else ""


def _bulk(*values: str | bytes | int) -> bytes:
    parts = []
    for value in values:
        raw = value if isinstance(value, bytes) else str(value).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


def _head(digest: str, args: int) -> bytes:
    return b"*%d\r\n" % (args + 3) + _bulk("EVALSHA", digest, 0)
