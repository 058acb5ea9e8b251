"""What passes through the gateway's core: a question as cheap as it can be, and what the core makes of it.

Law: plain values alone: no pydantic, no vendor's type. An analysis' `Prompt` and a chat request of the server both become a
`Question`; the core knows neither.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import lru_cache

from infra.keyring import DataKey
from llm_gateway.prompt import Lane

_EPOCH = date(1970, 1, 1)
SHORT_WAIT_SECONDS = 1.0
"""The longest wait, for a turn or for a provider that wants quiet, of a question that another model could answer."""
NANO = 1_000_000_000
"""Dollars are counted in billionths, in whole numbers: a token costs some hundred of them."""


@dataclass(frozen=True, slots=True)
class Line:
    """Where questions queue: one model under one provider's key (Groq limits an organization, by model)."""

    provider: str
    model: str
    key: str = ""
    """Fingerprint of the provider's key, never the key."""

    @property
    def name(self) -> str:
        """How it is called in Redis and on the console."""
        return f"{self.provider}:{self.key}:{self.model}"


@dataclass(slots=True)
class Question:
    """One question, as far as the core must know it."""

    tenant: str
    user: str
    """Bears the per-user quota; '' for nobody known."""
    analysis: str
    """Accounts are kept by it; a bounded set of names."""
    line: Line
    tokens: int
    """Expected, question and answer: what the minute's limit reserves."""
    most_tokens: int
    """At most: what quotas reserve, so that none is overspent while answers are under way."""
    most_nano: int = 0
    """Its price, in billionths of a dollar, if it took `most_tokens`."""
    lane: Lane = "live"
    prompt: str = ""
    version: str = ""
    digest: bytes | None = field(default=None, repr=False)
    """Names the answer in cache and in flight (see `llm_gateway.cache`); None: neither kept nor shared."""
    key: DataKey | None = field(default=None, repr=False)
    """Seals the answer; needed where there is a digest."""
    ttl: int = 0
    """Seconds that the answer is kept; 0 keeps none, but equal questions at once are still one."""
    refresh: bool = False
    """Do not take the answer from the cache; keep the new one."""
    requests: int = 1
    """That it counts in the quotas: a batch is many."""
    priced: bool = False
    """Its price was looked at already: costs nothing because it is free, not because nobody knows."""
    input_tokens: int = 0
    """Of the expected tokens, the question's: what is paid when it was sent and its answer was not heard."""
    another: bool = False
    """Another model can be asked: no wait is longer than SHORT_WAIT_SECONDS."""
    own_wait: bool = False
    """But this one is for the tenant's own limit, which no other model shortens."""


@dataclass(slots=True)
class Hit:
    """An answer that is there already, sealed."""

    sealed: bytes = field(repr=False)
    joined: bool = False
    """It was not in the cache: another replica was just asking."""


@dataclass(slots=True)
class Grant:
    """The right to ask once, now. Settle or release it, exactly once."""

    question: Question
    id: str
    generation: str
    day: str
    """Days since 1970, UTC, by Redis' clock; '' when it was granted without Redis."""
    month: str
    slot: int
    """Of the minute's window; -1 while it waits, -2 when it was granted without Redis."""
    warnings: tuple[str, ...] = ()
    """Quotas beyond their soft limit: `day:tokens`, `user:requests`, `month:dollars`, ..."""
    flight: str = ""
    over: bool = False
    """Settled or released."""
    unheard: int = 0
    """How often it was sent without a word of an answer: to the provider just now, or given up while it was there."""
    alone: tuple[list[int], ...] = ()
    """What it is counted in when it was granted without Redis; see `llm_gateway.alone`."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took."""

    model: str
    """As it names itself."""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    """Of the input tokens, those from the provider's own prompt cache: Groq counts them toward no limit."""
    cost_usd: float = 0.0
    saved_usd: float = 0.0
    """What the provider's prompt cache saved."""
    seconds: float = 0.0
    """From the first attempt to the answer."""
    attempts: int = 1
    packed: int = 0
    """Questions that this call answered besides the first (they shared a prompt)."""
    packed_saved_usd: float = 0.0
    """What packing saved, by the packer's own count."""
    batched: int = 0
    """1 for an answer from a provider's batch."""
    batch_saved_usd: float = 0.0
    """What the batch's price saved."""
    calls: int = 1
    """0: it was sent, and no answer was heard."""


@lru_cache(maxsize=4096)
def pseudonym(tenant: str, user: str) -> str:
    """How a user is called in Redis' keys; '' for nobody."""
    if not user:
        return ""
    return hashlib.blake2b(user.encode(), key=hashlib.sha256(tenant.encode()).digest(), digest_size=12).hexdigest()


def fingerprint(secret: str) -> str:
    """A provider's key as it may be named: twelve hexadecimal digits of its hash."""
    return hashlib.blake2b(secret.encode(), digest_size=6, person=b"hookline-llm-key").hexdigest()


def today() -> tuple[str, str]:
    """The day since 1970 and year * 12 + month (UTC, by this process' clock), as the scripts count them."""
    now = datetime.now(UTC)
    return str((now.date() - _EPOCH).days), str(now.year * 12 + now.month - 1)
