"""Groq's stand-in on a thread of its own, for roles and commands that run as processes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from infra.local.groq_stand_in import GroqStandIn

KEY = "gsk_journeys-own-key"


@contextmanager
def groq(responder: Callable[[dict[str, Any]], str] | None = None) -> Iterator[tuple[GroqStandIn, dict[str, str]]]:
    """The stand-in, and the environment that makes it asked."""
    stand_in = GroqStandIn(responder, key=KEY)
    ready: concurrent.futures.Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = concurrent.futures.Future()

    async def serve() -> None:
        over = asyncio.Event()
        async with stand_in.serve() as url:
            ready.set_result((url, asyncio.get_running_loop(), over))
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="groq-stand-in", daemon=True)
    thread.start()
    url, loop, over = ready.result(timeout=10)
    try:
        # One model, asked at once: journeys are about what becomes of its answers, not about which model is asked, and when.
        yield (
            stand_in,
            {
                "GROQ_API_KEY": KEY,
                "GROQ_BASE_URL": url,
                "HOOKLINE_MODEL_CHEAP": "",
                "HOOKLINE_QUESTION_REST_SECONDS": "0",
            },
        )
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
