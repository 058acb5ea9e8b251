"""How much a tenant, a user, a model and a provider's key may take: from settings, and from what `hookline gateway limits`
wrote for one tenant.

Law: asked on every question, so it answers from memory; what others changed is read again every READ_SECONDS. A limit of
0 is no limit. When the table cannot be read, what was last known holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.tables import llm_policies
from infra.settings import ModelLimits, Settings
from infra.telemetry import log
from llm_gateway.question import NANO, Line

READ_SECONDS = 10.0
REPLAYS = "hookline:replays"
"""The user that all replays of a tenant are: their quota is their own, and what people's edits ask is not in it."""
EVERY_MODEL = "*"
"""In `HOOKLINE_PROVIDER_LIMITS`: the provider's key over all models. `provider:model` and `provider:*` speak of one provider,
and go before `model` and `*`.
"""


class Amounts(BaseModel):
    """One quota; 0 is no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: int = Field(default=0, ge=0)
    tokens: int = Field(default=0, ge=0)
    dollars: float = Field(default=0.0, ge=0)


class Exceptions(BaseModel):
    """What holds for one tenant instead of the settings; None: as in settings. Stored as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user_day: Amounts | None = None
    day: Amounts | None = None
    month: Amounts | None = None
    requests_per_minute: int | None = Field(default=None, ge=0)
    tokens_per_minute: int | None = Field(default=None, ge=0)
    weight: float | None = Field(default=None, gt=0, description="Share of a model that is short, beside others' 1.")
    users: Mapping[str, Amounts] = Field(default_factory=dict, description="A user's own quota per day.")
    plan: str = Field(default="", max_length=60, description="The customer's plan; routes may choose models by it.")


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """What holds for one tenant."""

    user_day: Amounts
    day: Amounts
    month: Amounts
    requests_per_minute: int
    tokens_per_minute: int
    weight: float = 1.0
    users: Mapping[str, Amounts] = field(default_factory=dict)
    plan: str = ""

    def user(self, name: str) -> Amounts:
        """The quota of one user's day."""
        return self.users.get(name, self.user_day)

    def in_dollars(self, user: str) -> bool:
        """Whether dollars are limited, for the tenant or this user of it."""
        return bool(self.day.dollars or self.month.dollars or (user and self.user(user).dollars))


@dataclass(frozen=True, slots=True)
class LinePolicy:
    """What a provider gives; the window's length is the settings' `model_window_seconds`."""

    requests: int
    tokens: int
    requests_per_day: int
    tokens_per_day: int
    key_requests: int
    key_tokens: int
    key_requests_per_day: int
    key_tokens_per_day: int

    @property
    def keyed(self) -> bool:
        """Whether the key over all models has a limit."""
        return bool(self.key_requests or self.key_tokens or self.key_requests_per_day or self.key_tokens_per_day)


class Policies:
    """One per gateway."""

    def __init__(self, settings: Settings, engine: AsyncEngine | None = None) -> None:
        self._engine = engine
        self.window_ms = round(settings.model_window_seconds * 1000)
        self.burst = settings.model_burst_share
        self.soft = settings.quota_soft_share
        self._default = TenantPolicy(
            Amounts(
                requests=settings.user_requests_per_day,
                tokens=settings.user_tokens_per_day,
                dollars=settings.user_dollars_per_day,
            ),
            Amounts(
                requests=settings.model_requests_per_day,
                tokens=settings.model_tokens_per_day,
                dollars=settings.model_dollars_per_day,
            ),
            Amounts(
                requests=settings.model_requests_per_month,
                tokens=settings.model_tokens_per_month,
                dollars=settings.model_dollars_per_month,
            ),
            settings.model_requests_per_minute,
            settings.model_tokens_per_minute,
            users={REPLAYS: Amounts(requests=settings.replay_requests_per_day)},
        )
        self._limits = settings.provider_limits
        self._lines: dict[Line, LinePolicy] = {}
        self._tenants: dict[str, TenantPolicy] = {}
        self._task: asyncio.Task[None] | None = None
        self.version = 0
        """Changes with every change."""

    def of(self, tenant: str) -> TenantPolicy:
        """What holds for `tenant`."""
        return self._tenants.get(tenant, self._default)

    def line(self, line: Line) -> LinePolicy:
        """What `line` gives."""
        found = self._lines.get(line)
        if found is None:
            own, whole = self._limit(line.provider, line.model), self._limit(line.provider, EVERY_MODEL)
            found = self._lines[line] = LinePolicy(
                own.requests_per_minute, own.tokens_per_minute, own.requests_per_day, own.tokens_per_day,
                whole.requests_per_minute, whole.tokens_per_minute, whole.requests_per_day, whole.tokens_per_day,
            )  # fmt: skip
        return found

    def _limit(self, provider: str, model: str) -> ModelLimits:
        return self._limits.get(f"{provider}:{model}") or self._limits.get(model, _NONE)

    async def start(self) -> None:
        """Read what was written for single tenants, now if Postgres is there and again and again."""
        if self._engine is not None and self._task is None:
            await self.read()
            self._task = asyncio.create_task(self._run(), name="llm-policies")

    async def stop(self) -> None:
        """Stop reading; may be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def read(self) -> None:
        """Read once; what cannot be read stays as it was."""
        assert self._engine is not None
        try:
            async with self._engine.connect() as connection:
                rows = (await connection.execute(sa.select(llm_policies.c.tenant, llm_policies.c.policy))).all()
            found = {tenant: self.merged(Exceptions.model_validate(policy)) for tenant, policy in rows}
        except (SQLAlchemyError, OSError, ValidationError) as error:
            log("llm_gateway").warning("policies_not_read", error=type(error).__name__)
            return
        if found != self._tenants:
            self._tenants = found
            self.version += 1

    def merged(self, own: Exceptions) -> TenantPolicy:
        """The settings with a tenant's exceptions."""
        base = self._default
        return TenantPolicy(
            own.user_day or base.user_day,
            own.day or base.day,
            own.month or base.month,
            base.requests_per_minute if own.requests_per_minute is None else own.requests_per_minute,
            base.tokens_per_minute if own.tokens_per_minute is None else own.tokens_per_minute,
            own.weight or 1.0,
            {**base.users, **own.users},
            own.plan,
        )

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(READ_SECONDS)
            await self.read()


_NONE = ModelLimits()


def nano(dollars: float) -> int:
    """Dollars in billionths."""
    return round(dollars * NANO)
