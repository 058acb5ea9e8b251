"""`POST /cards/hubspot/insight` and `POST /cards/hubspot/feedback`: the app card's two questions, as ASGI routes.

Law: the signature is judged over the bytes that came, before any of them is parsed; then the account's pace; then the body.
Errors are named refusals. Nothing that a rep wrote, no user and no record's content goes into a log.
HubSpot's own proxy calls (never a browser), so there is no CORS here. It signs the public address: `public_url` must be the one
that is written in the app.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from console.cards.caller import Known, whose
from console.cards.pace import Pace
from console.cards.refusals import Refused
from console.cards.shelf import Shelf, Vote
from infra.accounts import Account
from infra.telemetry import log
from infra.unavailable import as_unavailable
from ingress.dialects.hubspot import OBJECT_TYPES
from ingress.sources.source import InboundRequest

MAX_BODY = 32 * 1024
MAX_NOTE = 2_000
"""Characters of a rep's note."""
PER_SECOND: Final = 20.0
BURST: Final = 60.0
"""Of one account: a floor of reps who all open records at nine o'clock."""
OBJECTS: Final = frozenset({"contact", "company", "deal"})
"""Records that carry our properties and show the card."""


class Asked(BaseModel):
    """Which record; of the account that signed."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    object_type: str
    record: Annotated[str, Field(pattern="^[1-9][0-9]{0,18}$")]

    @property
    def object_(self) -> str:
        """Our name for the type. Raises Refused for one that has no card."""
        found = OBJECT_TYPES.get(self.object_type)
        if found not in OBJECTS:
            raise Refused("BODY_INVALID")
        return found


class Said(Asked):
    """The rep's thumb, and what it should have said."""

    vote: Vote
    note: Annotated[str, Field(max_length=MAX_NOTE, pattern="^[^\\x00]*$")] = ""


Act = Callable[[Account, bytes], Awaitable[dict[str, Any]]]


def routes(
    known: Known,
    shelf: Shelf,
    public_url: Callable[[], str],
    *,
    pace: Pace | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> list[Route]:
    """To be mounted in an ASGI application. `public_url`: scheme, host and path prefix before `/cards`, as HubSpot calls it."""
    limit = pace or Pace(PER_SECOND, BURST)

    def route(name: str, act: Act) -> Route:
        async def handle(request: Request) -> Response:
            return await _answered(name, request, known, limit, public_url(), now, act)

        # Other methods come here too: every refusal of this place has a name.
        return Route(f"/cards/hubspot/{name}", handle, methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])

    async def insight(account: Account, body: bytes) -> dict[str, Any]:
        asked = Asked.model_validate(orjson.loads(body))
        return {"insights": await shelf.insights(account, asked.object_, asked.record)}

    async def feedback(account: Account, body: bytes) -> dict[str, Any]:
        said = Said.model_validate(orjson.loads(body))
        note = said.note.strip()
        await shelf.feedback(account, said.object_, said.record, said.vote, note)
        return {"saved": True}

    return [route("insight", insight), route("feedback", feedback)]


def build(known: Known, shelf: Shelf, public_url: str, **more: Any) -> Starlette:
    """The same as an application of its own; `more` as for `routes`."""
    return Starlette(routes=routes(known, shelf, lambda: public_url, **more))


async def _answered(
    name: str, request: Request, known: Known, pace: Pace, public: str, now: Callable[[], datetime], act: Act
) -> Response:
    account = ""
    try:
        if request.method != "POST":
            raise Refused("METHOD_NOT_ALLOWED")  # noqa: TRY301 - answered below like every other
        inbound = await _inbound(request, public)
        found = whose(inbound, known, now())
        account = found.id
        wait = pace.take(account, time.monotonic())
        if wait:
            raise Refused("TOO_MANY", retry_after=wait)  # noqa: TRY301 - answered below like every other
        answer = await act(found, inbound.body)
    except Exception as error:  # noqa: BLE001 -- every error is an answer
        refused = _refusal(error)
        level = log("cards").error if refused.cause == "BUG" else log("cards").info
        level("card_refused", question=name, cause=refused.cause, account=account, error=type(error).__name__)
        return refused.response()
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})


def _refusal(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, ValidationError | orjson.JSONDecodeError | ClientDisconnect):
        return Refused("BODY_INVALID")
    return Refused("BUG" if as_unavailable(error) is None else "TRY_LATER")


async def _inbound(request: Request, public: str) -> InboundRequest:
    """The call as a signature covers it: path and query as they came, still escaped."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise Refused("BODY_TOO_LARGE")
        parts.append(part)
    path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    query: bytes = request.scope["query_string"]
    return InboundRequest(
        method=request.method.encode(),
        target=path.partition(b"?")[0] + (b"?" + query if query else b""),
        public=public.rstrip("/").encode(),
        headers=dict(request.headers.raw),
        body=b"".join(parts),
    )
