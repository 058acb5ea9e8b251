"""The gateway's server as a process of its own: what `hookline serve gateway` becomes.

Law: imports what the server needs and nothing else: the console's other commands would cost it a third of its memory. Reads
its settings from the environment. SIGTERM and Ctrl-C drain.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop

from infra.http_server import settle_memory
from infra.ops import serve_ops
from infra.settings import Settings, SettingsError
from infra.telemetry import configure, log, shutdown
from llm_gateway.server.app import GatewayServer

DRAIN_SECONDS = 20.0


async def serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT; raises SettingsError, Unavailable, and what stopped it by itself."""
    configure(settings, "hookline-gateway")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = GatewayServer(settings)
    await server.start()
    ops = None
    try:
        ops = await serve_ops(settings, server.readiness())
        settle_memory()
        log("llm_gateway").info("ready", port=server.port, ops_port=ops.port)
        ended = asyncio.create_task(server.wait())
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if ended in done:
            ended.result()
        ended.cancel()
    finally:
        if ops is not None:
            await ops.stop()
        await server.drain(DRAIN_SECONDS)
        shutdown()


def main() -> int:
    """Serve; 2 with one message when it cannot."""
    try:
        uvloop.run(serve(Settings()))
    except SettingsError as error:
        sys.stderr.write(f"error {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
