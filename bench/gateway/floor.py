"""The floor: a proxy that does the least. Raw ASGI on uvicorn, aiohttp to the upstream, one Redis GET, one Redis SET.

No keys, no limits, no quotas, no accounts, no encryption, no single flight. `python -m bench.gateway.floor PORT UPSTREAM REDIS`.
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import aiohttp
import uvicorn
from redis.asyncio import Redis


class Floor:
    """The ASGI application."""

    def __init__(self, upstream: str, redis: str) -> None:
        self._url = f"{upstream}/v1/chat/completions"
        self._redis = Redis.from_url(redis)
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["path"] == "/health/live":
            await _send(send, b"{}")
            return
        name = "floor:" + hashlib.sha256(body).hexdigest()
        answer: Any = await self._redis.get(name)
        if answer is None:
            if self._session is None:
                self._session = aiohttp.ClientSession()
            async with self._session.post(
                self._url, data=body, headers={"content-type": "application/json", "authorization": "Bearer x"}
            ) as response:
                if b'"stream":true' in body:
                    await _pass_on(send, response)
                    return
                answer = await response.read()
            await self._redis.set(name, answer, ex=3600)
        await _send(send, answer)


async def _pass_on(send: Any, response: aiohttp.ClientResponse) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    async for data in response.content.iter_any():
        await send({"type": "http.response.body", "body": data, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _send(send: Any, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(
        Floor(sys.argv[2], sys.argv[3]), port=int(sys.argv[1]), log_level="critical", access_log=False, lifespan="off",
        loop="uvloop", http="httptools", timeout_keep_alive=600,  # longer than the others' turns
    )  # fmt: skip
