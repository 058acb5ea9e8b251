"""The controls over HTTP: `POST /sandbox/{method}` with the method's parameters as a JSON object.

Law: adds nothing to `Controls`. Loopback alone reaches it, and it asks for no token.
"""

from __future__ import annotations

import asyncio
from typing import Any

from infra.local.sandbox.controls import ControlError, Controls
from infra.local.sandbox.journal import Journal
from infra.local.sandbox.state import World
from infra.local.sandbox.web import BadJsonError, Request, Response, answer


def methods() -> list[str]:
    """The names of all control calls."""
    return sorted(name for name in dir(Controls) if not name.startswith("_"))


class ControlApi:
    """Serves `/sandbox/...`."""

    def __init__(self, world: World, controls: Controls) -> None:
        self.world = world
        self.controls = controls
        self.methods = frozenset(methods())

    async def handle(self, request: Request) -> Response:
        """Answer one request: 200, 400 with what to do instead, or 404 with the calls that there are."""
        parts = request.path.strip("/").split("/")[1:]
        try:
            result = await self._result(request, parts)
        except (ControlError, BadJsonError) as error:
            return answer({"error": str(error)}, 400)
        except (TypeError, ValueError) as error:
            return answer({"error": f"wrong parameters: {error}"}, 400)
        if result is None:
            return answer({"error": "no such control", "methods": sorted(self.methods)}, 404)
        return answer(result)

    async def _result(self, request: Request, parts: list[str]) -> Any:
        if request.method == "GET" and parts == ["journal", "summary"]:
            self.world.journal.flush()
            since = int(request.param("since", "0"))
            found = await asyncio.to_thread(Journal(self.world.journal.path).reconcile, since=since)
            return {**found.summary(), "unsettled_records": [outcome._asdict() for outcome in found.unsettled[:100]]}
        if request.method == "GET" and parts == ["state"]:
            return self.controls.state()
        if request.method == "POST" and len(parts) == 3 and parts[0] == "accounts" and parts[2] == "properties":
            return self.controls.create_properties(parts[1], **request.json())
        if request.method == "POST" and len(parts) == 1 and parts[0] in self.methods:
            return getattr(self.controls, parts[0])(**request.json())
        return None
