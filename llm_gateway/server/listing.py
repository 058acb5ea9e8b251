"""Which models are served: the provider's, and the names of our own.

Law: asked of the provider once in a while; while it does not answer, what it last said, or else what is known here.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from llm_gateway.models import known
from llm_gateway.providers.provider import ProviderFailure
from llm_gateway.server.keys import VirtualKey
from llm_gateway.server.upstream import Upstream

_SECONDS = 300.0


class Listing:
    """One per server."""

    def __init__(self, upstream: Upstream, names: frozenset[str]) -> None:
        """`names`: of our own, from the routes file."""
        self._upstream = upstream
        self._names = names
        self._kept: tuple[float, list[dict[str, Any]]] = (0.0, [])

    async def shown_to(self, key: VirtualKey) -> list[dict[str, Any]]:
        """Those that `key` may ask, as OpenAI's model objects."""
        now = asyncio.get_running_loop().time()
        if not self._kept[1] or self._kept[0] < now:
            self._kept = (now + _SECONDS, await self._asked())
        own = [{"id": name, "object": "model", "created": 0, "owned_by": "hookline"} for name in sorted(self._names)]
        found = [*own, *(each for each in self._kept[1] if each.get("id") not in self._names)]
        return [each for each in found if not key.models or each.get("id") in key.models]

    async def _asked(self) -> list[dict[str, Any]]:
        try:
            raw = await self._upstream.raw("GET", "models")
            if raw.status == 200:
                return [each for each in orjson.loads(raw.body)["data"] if isinstance(each, dict)]
        except (ProviderFailure, ValueError, KeyError, TypeError):
            pass
        if self._kept[1]:
            return self._kept[1]
        return [
            {"id": facts.name, "object": "model", "created": 0, "owned_by": "groq"}
            for facts in known()
            if "/" in facts.name
        ]
