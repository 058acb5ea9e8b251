"""The stand-in of Groq with a lasting temper: what it does to every request until it is told otherwise.

Law: imports no product code. `POST /control` with a JSON object: `{"temper": {step}}` (see `groq_stand_in.Step`; null:
well again), `{"share": 0..1}` of the requests that meet it; answers how many requests came and how many met it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
from typing import Any

from infra.local.groq_stand_in import GroqStandIn, Receive, Scope, Send, Step, _answer, _body

KEPT = 1_000


class Temperamental(GroqStandIn):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self._temper: dict[str, Any] | None = None
        self._share = 1.0
        self._met = 0
        self._came = 0
        self._chance = random.Random(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/control":
            told = json.loads(await _body(receive))
            self._temper = told.get("temper", self._temper)
            self._share = float(told.get("share", self._share))
            await _answer(send, 200, {"came": self._came, "met": self._met})
            self._met = 0
            return
        if scope["type"] == "http" and scope["path"].endswith("/chat/completions"):
            self._came += 1
            del self.asked[:-KEPT]
            if self._temper is not None and self._chance.random() < self._share:
                self._met += 1
                self.script.append(Step(**self._temper))
        await super().__call__(scope, receive, send)


async def main(port: int) -> None:
    """Until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with Temperamental().serve(port):
        await stopped.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(main(parser.parse_args().port))
