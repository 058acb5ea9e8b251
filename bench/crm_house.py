"""What the CRM benchmarks run in: the embedded stack, the sandbox CRM, and all roles in a process of their own.

Law: starts and ends; measures nothing. The settings are production's but for those that are printed.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import uvloop

from bench.failure import BenchError
from infra.kafka.topics import migrate_topics
from infra.local.engine import StackError
from infra.local.stack import EmbeddedStack
from infra.settings import Settings
from tests.journeys.house import House, open_house

SETTINGS = {
    "HOOKLINE_API_PORT": "0",
    "HOOKLINE_LOG_LEVEL": "WARNING",
    "HOOKLINE_TRACE_RATIO": "0",
    "HOOKLINE_COALESCE_WINDOW_SECONDS": "5",
    "HOOKLINE_CRM_TIMEOUT_SECONDS": "20",
    # Thousands of records at once ask more of a model than the defaults allow one tenant.
    "HOOKLINE_MODEL_REQUESTS_PER_MINUTE": "1000000",
    "HOOKLINE_MODEL_TOKENS_PER_MINUTE": "1000000000",
}


@contextmanager
def house(folder: Path, **more: str) -> Iterator[House]:
    """Everything is up; prints how."""
    with EmbeddedStack(folder / "stack") as addresses:
        settings = {**SETTINGS, **more}
        print("Settings that differ from their defaults, beside addresses: " + ", ".join(f"{name}={value}" for name, value in settings.items()))  # fmt: skip
        print("Layout: Kafka, PostgreSQL, Valkey; `hookline serve all` in one process; the sandbox CRM in this one.", flush=True)  # fmt: skip
        asyncio.run(
            migrate_topics(
                Settings(kafka_url=addresses.kafka_url, kafka_partitions=6, kafka_replication=1, _env_file=None)
            )
        )
        with open_house(addresses, folder, events=False, **settings) as opened:
            yield opened


def main(name: str, measure: Callable[[House], Coroutine[Any, Any, tuple[dict[str, Any], bool]]], **more: str) -> int:
    """Run; the result is the last line. 0 when it is there and good, 1 otherwise."""
    signal.signal(signal.SIGTERM, _ended)
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix=f"hookline-{name}-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o755)  # started as root the servers run as somebody else, who must get in
            with house(Path(folder), **more) as opened:
                result, good = uvloop.run(measure(opened))
    except (BenchError, StackError, AssertionError) as error:
        print(f"bench.{name}: no result: {error}", file=sys.stderr)
        return 1
    print(f"({time.monotonic() - began:.0f} s in all)")
    print(json.dumps(result))
    return 0 if good else 1


def _ended(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)
