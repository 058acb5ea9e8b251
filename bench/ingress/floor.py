"""What the front door is measured against, each a bare ASGI application in a process of its own on the same server.

`read`: read the body, answer 204. `floor`: besides, one HMAC and one Kafka record as it came, acknowledged by all. `per_event`:
the events parsed, and a record each, all at once. `fastapi`: the usual way, a route with a pydantic body that publishes each
event and awaits it before the next.
No limits, no endpoints, no encryption, no metrics, no log. Run by `bench.ingress`.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import importlib
import json
import os
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import uvicorn
import uvloop
from aiokafka import AIOKafkaProducer
from pydantic import BaseModel

GIVEN = "BENCH_INGRESS"
READY = "ready"
TOPIC = "bench.floor"

Scope = MutableMapping[str, Any]


class Event(BaseModel):
    """A HubSpot event, as an application's author would write it down."""

    eventId: int  # noqa: N815 - HubSpot's name, as the rest
    subscriptionId: int  # noqa: N815
    portalId: int  # noqa: N815
    appId: int  # noqa: N815
    occurredAt: int  # noqa: N815
    subscriptionType: str  # noqa: N815
    attemptNumber: int  # noqa: N815
    objectId: int  # noqa: N815
    propertyName: str | None = None  # noqa: N815
    propertyValue: str | None = None  # noqa: N815
    changeSource: str | None = None  # noqa: N815
    sourceId: str | None = None  # noqa: N815
    changeFlag: Literal["NEW", "UPDATED", "DELETED"] | None = None  # noqa: N815
    objectTypeId: str | None = None  # noqa: N815


def _read() -> Any:
    async def application(_scope: Scope, receive: Any, send: Any) -> None:
        await _body(receive)
        await _answer(send)

    return application


def _floor(producer: AIOKafkaProducer, secret: bytes, prefix: bytes) -> Any:
    async def application(scope: Scope, receive: Any, send: Any) -> None:
        body = await _body(receive)
        if not _holds(scope, body, secret, prefix):
            await _answer(send, 401)
            return
        await producer.send_and_wait(TOPIC, body)
        await _answer(send)

    return application


def _per_event(producer: AIOKafkaProducer, secret: bytes, prefix: bytes) -> Any:
    async def application(scope: Scope, receive: Any, send: Any) -> None:
        body = await _body(receive)
        if not _holds(scope, body, secret, prefix):
            await _answer(send, 401)
            return
        acks = [
            await producer.send(TOPIC, json.dumps(event).encode(), key=str(event["objectId"]).encode())
            for event in json.loads(body)
        ]
        await asyncio.gather(*acks)
        await _answer(send)

    return application


def _fastapi(producer: AIOKafkaProducer, secret: bytes, prefix: bytes) -> Any:
    # In an environment of its own: the product does not depend on it.
    fastapi = importlib.import_module("fastapi")
    app = fastapi.FastAPI()

    async def hook(endpoint: str, request: Any, events: Any) -> Any:
        del endpoint
        if not _holds(request.scope, await request.body(), secret, prefix):
            raise fastapi.HTTPException(401)
        for event in events:
            await producer.send_and_wait(TOPIC, event.model_dump_json().encode(), key=str(event.objectId).encode())
        return {"accepted": True}

    hook.__annotations__ = {"endpoint": str, "request": fastapi.Request, "events": list[Event]}
    app.post("/hooks/{endpoint}", status_code=202)(hook)
    return app


async def _body(receive: Any) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return body


async def _answer(send: Any, status: int = 204) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")] if status != 204 else []})  # fmt: skip
    await send({"type": "http.response.body", "body": b""})


def _holds(scope: Scope, body: bytes, secret: bytes, prefix: bytes) -> bool:
    headers = dict(scope["headers"])
    covered = b"POST" + prefix + scope["raw_path"] + body + headers[b"x-hubspot-request-timestamp"]
    wanted = base64.b64encode(hmac.digest(secret, covered, "sha256"))
    return hmac.compare_digest(wanted, headers[b"x-hubspot-signature-v3"])


async def main(kind: str, port: int, kafka: str, secret: bytes, prefix: bytes) -> None:
    """Serve until the process is ended."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all")
    if kind == "read":
        app = _read()
    else:
        await producer.start()
        app = {"floor": _floor, "per_event": _per_event, "fastapi": _fastapi}[kind](producer, secret, prefix)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, loop="none", http="httptools", ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False, date_header=False,
    )  # fmt: skip
    serving = asyncio.create_task(uvicorn.Server(config).serve())
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    try:
        await serving
    finally:
        await producer.stop()


if __name__ == "__main__":
    given = json.loads(os.environ[GIVEN])
    uvloop.run(main(given["kind"], given["port"], given["kafka"], given["secret"].encode(), given["prefix"].encode()))
