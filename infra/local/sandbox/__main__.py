"""`python -m infra.local.sandbox --port P --data DIR`: the stand-in in a process of its own, until SIGTERM or Ctrl-C.

Prints one line of JSON with its address when it is ready.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from infra.local.sandbox.server import NotLoopbackError, Sandbox

PARENT_CHECK_S = 0.5


async def serve(arguments: argparse.Namespace) -> int:
    """Run until told to stop; returns the exit code."""
    parent = os.getppid()  # before anybody hears that we are up, and may be killed
    try:
        sandbox = Sandbox(
            arguments.data,
            port=arguments.port,
            seed=arguments.seed,
            time_scale=arguments.time_scale,
            host=arguments.host,
            events=arguments.events,
        )
        base = await sandbox.start()
    except (NotLoopbackError, OSError) as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 2
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    told = {"sandbox": base, "journal": str(arguments.data / "journal.jsonl")}
    if sandbox.events_url:
        told["events"] = sandbox.events_url
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    watching = asyncio.ensure_future(_until_orphaned(parent, stopped)) if arguments.exit_with_parent else None
    await stopped.wait()
    if watching is not None:
        watching.cancel()
    await sandbox.stop()
    return 0


async def _until_orphaned(parent: int, stopped: asyncio.Event) -> None:
    """Stop when the process that started this one is gone, however it died."""
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells of a parent's end; one has to look
        await asyncio.sleep(PARENT_CHECK_S)
    stopped.set()


def main() -> int:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.local.sandbox", description="A stand-in for HubSpot and Salesforce."
    )
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--data", type=Path, required=True, help="folder of the journal")
    parser.add_argument("--events", action="store_true", help="Salesforce's event bus, too, over gRPC")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--time-scale", type=float, default=1.0, help="stretches the delays of retries and duplicates")
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="stop when the process that started this one ends"
    )
    return asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
