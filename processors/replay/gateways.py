"""A gateway per model, where more than one is asked.

Law: all of them share Redis, quotas and accounts; only the model differs. Opened at first use, closed together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.settings import Settings, SettingsError
from llm_gateway.accounting import Stats
from llm_gateway.gateway import Gateway
from llm_gateway.routing import chosen, tell_prices


class Gateways:
    """Safe for any number of tasks of one event loop."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        engine: AsyncEngine,
        *,
        build: Callable[[Settings], Gateway] | None = None,
    ) -> None:
        self._settings = settings
        self._build = build or (lambda given: Gateway(given, redis, engine))
        self._open: dict[str, Gateway] = {}
        self._opening = asyncio.Lock()

    async def open(self, model: str = "") -> Gateway:
        """The gateway to `model`; empty: the one that settings name. Raises SettingsError."""
        if model and chosen(self._settings) == "offline":
            raise SettingsError(
                f"the model {model} cannot be asked: HOOKLINE_PROVIDER is the offline rules here; set GROQ_API_KEY"
            )
        async with self._opening:
            if model not in self._open:
                tell_prices(self._settings)
                made = self._build(self._settings.model_copy(update=_pinned(model) if model else {}))
                await made.start()
                self._open[model] = made
            return self._open[model]

    def stats(self) -> list[Stats]:
        """Of each that is open."""
        return [gateway.stats() for gateway in self._open.values()]

    async def stop(self) -> None:
        """Close all; accounts are written."""
        async with self._opening:
            for gateway in self._open.values():
                await gateway.stop()
            self._open.clear()


def _pinned(model: str) -> dict[str, object]:
    """This model and no other: what is tried or promoted is what answers."""
    return {"model": model, "model_cheap": "", "routes": None}
