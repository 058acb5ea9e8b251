"""The house that journeys go through: all roles in a process of their own, the sandbox CRM, and a collector of spans.

The roles run as an operator starts them (`hookline serve all`), so what is read of them is what an operator has: their
log, their spans over OTLP, their metrics, their topics and tables.
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import psycopg
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pydantic import SecretStr

from infra.database.engine import migrate
from infra.local.sandbox.journal import Journal
from infra.local.sandbox.server import Sandbox
from infra.local.stack import Addresses
from infra.settings import Settings
from tests.journeys.behind import leave_behind

READY_SECONDS = 40.0
STOP_SECONDS = 30.0


class Collector:
    """Receives spans over OTLP, as an operator's collector does. Use as a context manager."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans.extend(scope.spans)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def of_trace(self, trace_id: str) -> list[Span]:
        """Every span of one trace so far."""
        return [span for span in list(self.spans) if span.trace_id.hex() == trace_id]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass
class House:
    """What a journey's test needs."""

    settings: Settings
    sandbox: Sandbox
    collector: Collector
    log_file: Path
    secrets: list[str] = field(default_factory=list)
    """Every secret that was given to the product: none may be seen anywhere."""
    _next: int = field(default_factory=lambda: secrets.randbelow(900_000) + 100_000)

    @property
    def door(self) -> str:
        return self.settings.public_url or ""

    def number(self) -> int:
        """A number that no other app or portal of this house has."""
        self._next += 1
        return self._next

    def journal(self) -> Journal:
        self.sandbox.controls.state()  # has it flushed
        return Journal(self.sandbox.data)

    def log(self) -> str:
        """All that the roles' process wrote."""
        return self.log_file.read_text(errors="replace")

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.settings.ops_port}/metrics", timeout=10) as answer:
            return answer.read().decode()


@contextmanager
def open_house(addresses: Addresses, folder: Path, *, events: bool = False, **environment: str) -> Iterator[House]:
    """Start everything on a database of its own, behind what others left on the topics; stop the roles with SIGTERM, and see that they end well.

    `events`: Salesforce's event bus, too. `environment` is given to the roles beside what they need.
    """
    with _database(addresses) as database_url, Collector() as collector:
        sandbox = Sandbox(folder / "sandbox", time_scale=0.2, events=events)
        asyncio.run(sandbox.start())
        try:
            settings = _settings(addresses, database_url, sandbox.base)
            if events:
                environment["HOOKLINE_SALESFORCE_EVENTS_URL"] = sandbox.events_url
            migrate(settings)
            asyncio.run(leave_behind(addresses.kafka_url))
            log_file = folder / "roles.log"
            assert settings.master_keys
            house = House(settings, sandbox, collector, log_file, [settings.master_keys.get_secret_value()])
            with _roles(house, {**_environment(settings, collector), **environment}):
                yield house
        finally:
            asyncio.run(sandbox.stop())


@contextmanager
def _roles(house: House, environment: dict[str, str]) -> Iterator[None]:
    with house.log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "console", "serve", "all"],
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
    try:
        _wait_ready(process, house)
        yield
        assert process.poll() is None, f"the roles ended by themselves:\n{house.log()[-3000:]}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
    assert code == 0, f"the roles ended with {code}:\n{house.log()[-3000:]}"


def _wait_ready(process: subprocess.Popen[bytes], house: House) -> None:
    deadline = time.monotonic() + READY_SECONDS
    url = f"http://127.0.0.1:{house.settings.ops_port}/health/ready"
    while True:
        assert process.poll() is None, f"the roles did not start:\n{house.log()[-3000:]}"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline, f"the roles are not ready:\n{house.log()[-3000:]}"
            time.sleep(0.1)


def _settings(addresses: Addresses, database_url: str, sandbox_url: str) -> Settings:
    port, ops = _free_port(), _free_port()
    return Settings(
        environment="development",
        kafka_url=addresses.kafka_url,
        kafka_replication=1,
        database_url=SecretStr(database_url),
        redis_url=SecretStr(addresses.redis_url),
        master_keys=SecretStr(base64.b64encode(secrets.token_bytes(32)).decode()),
        sandbox_url=sandbox_url,
        ingress_port=port,
        public_url=f"http://127.0.0.1:{port}",
        ops_port=ops,
        _env_file=None,
    )


def _environment(settings: Settings, collector: Collector) -> dict[str, str]:
    assert settings.database_url
    assert settings.redis_url
    assert settings.master_keys
    return {
        "HOOKLINE_ENVIRONMENT": "development",
        "KAFKA_URL": settings.kafka_url or "",
        "HOOKLINE_KAFKA_REPLICATION": "1",
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "HOOKLINE_MASTER_KEYS": settings.master_keys.get_secret_value(),
        "HOOKLINE_SANDBOX_URL": settings.sandbox_url or "",
        "HOOKLINE_INGRESS_PORT": str(settings.ingress_port),
        "HOOKLINE_PUBLIC_URL": settings.public_url or "",
        "HOOKLINE_OPS_PORT": str(settings.ops_port),
        "HOOKLINE_API_PORT": "0",
        "HOOKLINE_COALESCE_WINDOW_SECONDS": "0.3",
        "HOOKLINE_CRM_TIMEOUT_SECONDS": "1",
        "HOOKLINE_TRACE_RATIO": "1",
        "HOOKLINE_LOG_LEVEL": "DEBUG",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _database(addresses: Addresses) -> Iterator[str]:
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(addresses.database_url, autocommit=True) as connection:
        connection.execute(f'create database "{name}"')
    try:
        yield urlunsplit(urlsplit(addresses.database_url)._replace(path=f"/{name}"))
    finally:
        with psycopg.connect(addresses.database_url, autocommit=True) as connection:
            connection.execute(f'drop database "{name}" with (force)')


async def until(
    said: str, condition: Callable[[], Awaitable[object]] | Callable[[], object], seconds: float = 30.0
) -> None:
    """Wait until it holds; fails with what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        holds = condition()
        if asyncio.iscoroutine(holds):
            holds = await holds
        if holds:
            return
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {said}"
        await asyncio.sleep(0.1)
