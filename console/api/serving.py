"""The ASGI application: who may call, what is given, what is answered.

Law: a key is asked for before anything else is said, even whether a path exists; bodies are bounded; nothing is kept by caches.
The way back from a CRM (`/oauth/...`) has no key: there the state is the proof.
"""

from __future__ import annotations

import html
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from console.accounts import CRMS
from console.api.openapi import document
from console.api.problems import Problem, problem_of
from console.api.routes import Call, Desk, Operation
from console.connect import complete, connecting
from infra.accounts.keys import ApiKey, ApiKeys, KeyRole

MAX_BODY = 256 * 1024
EVERY_METHOD = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
"""Which of them an operation serves is judged after the key."""
_ID = re.compile(r"[^\x00-\x1f]{1,200}")
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="hookline"'}
Handler = Callable[[Request], Awaitable[Response]]


def build(desk: Desk, operations: Sequence[Operation], beside: Sequence[Route] = ()) -> Starlette:
    """The application; `desk` must be open while it serves. Routes `beside` the API ask for a proof of their own."""
    api = document(operations)
    by_path: dict[str, dict[str, Operation]] = {}
    for each in operations:
        by_path.setdefault(each.path, {})[each.method] = each
    door = _Door(desk)
    routes = [
        Route(f"/api{path}", door.of(served), methods=EVERY_METHOD)
        # A literal path before one with a parameter in its place.
        for path, served in sorted(
            by_path.items(), key=lambda pair: [part.startswith("{") for part in pair[0].split("/")]
        )
    ]

    async def openapi(request: Request) -> Response:
        async def act() -> Response:
            await door.key(request, "viewer")
            return Response(orjson.dumps(api), media_type="application/json")

        return await _answered(act)

    async def callback(request: Request) -> Response:
        return await _callback(desk, request)

    async def nothing(request: Request) -> Response:
        async def act() -> Response:
            await door.key(request, "viewer")
            raise Problem(404)

        return await _answered(act)

    async def refused(_: Request, error: Exception) -> Response:
        return problem_of(error).response()

    return Starlette(
        exception_handlers={HTTPException: refused},
        routes=[
            Route("/api/openapi.json", openapi, methods=["GET"]),
            Route("/oauth/{crm}/callback", callback, methods=["GET"]),
            *routes,
            *beside,
            Route("/{rest:path}", nothing, methods=EVERY_METHOD),
        ],
    )


class _Door:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def key(self, request: Request, role: KeyRole) -> ApiKey:
        """Whose call it is; raises Problem 401 or 403."""
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        found = await ApiKeys(self._desk.parts.engine).whose(text.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            raise Problem(401, "no key, or one that does not count", headers=_CHALLENGE)
        if not found.may(role):
            raise Problem(403, f"this needs the role {role}, and the key has {found.role}")
        return found

    def of(self, served: dict[str, Operation]) -> Handler:
        """What answers at one path, by method."""

        async def handle(request: Request) -> Response:
            async def act() -> Response:
                operation = served.get(request.method)
                key = await self.key(request, operation.role if operation else "viewer")
                if operation is None:
                    raise Problem(
                        405, f"{request.method} is not served here", headers={"Allow": ", ".join(sorted(served))}
                    )
                return await self._serve(operation, key, request)

            return await _answered(act)

        return handle

    async def _serve(self, operation: Operation, key: ApiKey, request: Request) -> Response:
        path = {name: str(value) for name, value in request.path_params.items()}
        if not all(_ID.fullmatch(value) for value in path.values()):
            raise Problem(404, "no id looks like that")
        query = None
        if operation.query is not None:
            pairs = request.query_params.multi_items()
            if len({name for name, _ in pairs}) != len(pairs):
                raise Problem(422, "a parameter is given twice")
            query = operation.query.model_validate(dict(pairs))
        elif request.query_params:
            raise Problem(422, "this takes no parameters")
        body = await _body(operation, request)
        answer = await operation.act(Call(self._desk, key, path, query, body))
        # What is served is what the document says: an answer that does not fit is our bug, and shows as one.
        adapter: TypeAdapter[Any] = TypeAdapter(operation.answer)
        text = adapter.dump_json(adapter.validate_python(answer))
        return Response(text, operation.status, media_type="application/json")


async def _body(operation: Operation, request: Request) -> Any:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise Problem(413, f"a body of more than {MAX_BODY} bytes", headers={"Connection": "close"})
        parts.append(part)
    if operation.body is None:
        return None
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "the body is not declared as JSON")
    text = b"".join(parts)
    try:
        given = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Problem(400, f"the body is not JSON: line {error.lineno}, column {error.colno}") from None
    if b"\\u0000" in text:
        raise Problem(422, "no text may hold the character U+0000")
    return operation.body.model_validate(given, strict=False)


async def _answered(act: Callable[[], Awaitable[Response]]) -> Response:
    try:
        response = await act()
    except ClientDisconnect:
        return Response(status_code=400)
    except Exception as error:  # noqa: BLE001 -- every error is an answer
        return problem_of(error).response()
    response.headers["Cache-Control"] = "no-store"
    return response


async def _callback(desk: Desk, request: Request) -> Response:
    crm = request.path_params["crm"]
    at = connecting(desk.settings, desk.registry, desk.parts.engine, desk.keyring)
    if crm not in CRMS:
        return _page(404, "Not connected", "There is no such CRM.")
    try:
        account = await complete(at, crm, dict(request.query_params))
        return _page(
            200, "Connected", f"{account.id} is connected. What waited for it is on its way; you may close this page."
        )
    except Exception as error:  # noqa: BLE001 -- a person looks at this page
        problem = problem_of(error)
        return _page(problem.status, "Not connected", f"{problem.detail}. {problem.remedy}")


def _page(status: int, title: str, text: str) -> Response:
    body = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><h1>{html.escape(title)}</h1><p>{html.escape(text)}</p></html>'
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        # The address of this page holds the code.
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return HTMLResponse(body, status, headers)
