"""The upstream of every side: an OpenAI-compatible server that answers the same at once, and counts.

`POST /mock {"latency": 0.1}` sets seconds before each answer, `GET /mock` tells how many chat requests came.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import orjson
import uvicorn

_HEAD = {"id": "chatcmpl-1", "created": 1_790_000_000, "model": "openai/gpt-oss-20b"}
_TEXT = "The quick brown fox jumps over the lazy dog. " * 8
_USAGE = {"prompt_tokens": 210, "completion_tokens": 80, "total_tokens": 290}
_ANSWER = orjson.dumps(
    {**_HEAD, "object": "chat.completion", "usage": _USAGE,
     "choices": [{"index": 0, "message": {"role": "assistant", "content": _TEXT}, "finish_reason": "stop", "logprobs": None}]}
)  # fmt: skip


def _chunk(choices: list[Any], **more: Any) -> bytes:
    return b"data: " + orjson.dumps({**_HEAD, "object": "chat.completion.chunk", "choices": choices, **more}) + b"\n\n"


_CHUNKS = [
    *(
        _chunk([{"index": 0, "delta": {"role": "assistant", "content": word + " "}, "finish_reason": None}])
        for word in _TEXT.split()[:20]
    ),
    _chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
]
_GAP = 0.005


class Mock:
    """The ASGI application."""

    def __init__(self) -> None:
        self.latency = 0.0
        self.came = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["path"] == "/mock":
            if scope["method"] == "POST":
                self.latency = float(orjson.loads(body)["latency"])
            await _send(send, orjson.dumps({"came": self.came}))
            return
        self.came += 1
        if self.latency:
            await asyncio.sleep(self.latency)
        if b'"stream":true' not in body:
            await _send(send, _ANSWER)
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for chunk in _CHUNKS:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await asyncio.sleep(_GAP)
        await send({"type": "http.response.body", "body": _chunk([], usage=_USAGE), "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _send(send: Any, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(
        Mock(), port=int(sys.argv[1]), log_level="critical", access_log=False, lifespan="off", timeout_keep_alive=600
    )
