"""Several front doors behind one port: a parent that listens, starts workers, watches them and speaks for them.

Law: the parent accepts nothing itself and knows no request. Its listening socket outlives every worker, so what waits in its
queue while one dies or restarts is taken by the next. A worker that dies is started anew, with a pause that grows while
it keeps dying; SIGTERM drains all of them, and so does the parent's own death, of which a pipe tells them. Health and metrics are the parent's: ready while any worker is, and every metric of
each worker with the label `worker`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from infra.http_server import listen
from infra.ops import serve_ops
from infra.settings import Settings, require, variable
from infra.telemetry import configure, log

STEADY_SECONDS = 30.0
"""A worker that has lived for so long begins its pauses from the start."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 15.0
DRAIN_SECONDS = 30.0
_ASK_SECONDS = 3.0


@dataclass(slots=True)
class Worker:
    """One process."""

    number: int
    ops_port: int
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    failures: int = field(default=0)
    """In a row, without a steady life in between."""


class Workers:
    """Starts and keeps `count` processes of `hookline serve ingress` on one listening socket."""

    def __init__(self, settings: Settings, count: int, command: Sequence[str] = ()) -> None:
        """`command` runs one worker; by default this very program does."""
        self._settings = settings
        self._command = list(command) or [sys.executable, "-m", "console", "serve", "ingress"]
        self._log = log("workers")
        self._stopping = asyncio.Event()
        self._socket: socket.socket | None = None
        self._lifeline: int | None = None
        """The end of a pipe that workers read: nobody ever writes, but it ends with this process."""
        self.workers = [Worker(number, port) for number, port in enumerate(_ops_ports(settings, count))]

    @property
    def port(self) -> int:
        """The one that all of them serve."""
        assert self._socket is not None
        return int(self._socket.getsockname()[1])

    async def run(self, ready: Callable[[], object] | None = None) -> None:
        """Serve until `stop`; raises SettingsError when the port is taken or settings are missing. `ready`: all have been started."""
        require(self._settings, "ingress")
        self._socket = listen(self._settings.ingress_host, self._settings.ingress_port, "ingress_port")
        self._lifeline, held = os.pipe()
        ops = await serve_ops(self._settings, {f"worker {each.number}": self._asker(each) for each in self.workers},
                              any_suffices=True, metrics_page=self._metrics)  # fmt: skip
        self._log.info("workers_listen", port=self.port, workers=len(self.workers), ops_port=ops.port)
        try:
            keeping = [asyncio.create_task(self._keep(worker)) for worker in self.workers]
            if ready is not None:
                ready()
            await asyncio.gather(*keeping)
        finally:
            await ops.stop()
            self._socket.close()
            os.close(self._lifeline)
            os.close(held)

    def stop(self) -> None:
        """Drain all of them; `run` returns then."""
        self._stopping.set()

    async def _keep(self, worker: Worker) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            began = loop.time()
            process = worker.process = await self._start(worker)
            ended = asyncio.create_task(process.wait())
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if self._stopping.is_set():
                await self._end(process, ended)
                return
            worker.restarts += 1
            worker.failures = 0 if loop.time() - began > STEADY_SECONDS else worker.failures + 1
            pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(worker.failures, 10))
            self._log.error("worker_died", worker=worker.number, code=process.returncode, pause_seconds=round(pause, 1))
            try:
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    async def _start(self, worker: Worker) -> asyncio.subprocess.Process:
        assert self._socket is not None
        assert self._lifeline is not None
        descriptor = self._socket.fileno()
        environment = {
            **os.environ,
            variable("ingress_socket"): str(descriptor),
            variable("ingress_lifeline"): str(self._lifeline),
            variable("ingress_processes"): str(self._settings.ingress_processes * len(self.workers)),
            variable("ops_port"): str(worker.ops_port),
            variable("ops_host"): "127.0.0.1",
        }
        return await asyncio.create_subprocess_exec(
            *self._command,
            env=environment,
            pass_fds=(descriptor, self._lifeline),
            stdin=asyncio.subprocess.DEVNULL,
            # Ctrl-C reaches the parent alone, which then drains its workers.
            start_new_session=True,
        )

    async def _end(self, process: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> None:
        if process.returncode is None:
            process.terminate()
        _, late = await asyncio.wait({ended}, timeout=DRAIN_SECONDS)
        if late:
            process.kill()
            await ended

    def _asker(self, worker: Worker) -> Callable[[], Awaitable[str | None]]:
        async def ask() -> str | None:
            try:
                text = await asyncio.to_thread(_get, f"http://127.0.0.1:{worker.ops_port}/health/ready")
            except urllib.error.HTTPError as error:
                parts = json.loads(error.read())["parts"]
                return "; ".join(f"{part}: {said}" for part, said in parts.items() if said != "ok")
            except (OSError, ValueError) as error:
                return f"does not answer ({type(error).__name__}), restarted {worker.restarts} times"
            return None if json.loads(text)["ready"] else "not ready"

        return ask

    async def _metrics(self) -> tuple[str, bytes]:
        async def one(worker: Worker) -> tuple[int, str]:
            try:
                return worker.number, await asyncio.to_thread(_get, f"http://127.0.0.1:{worker.ops_port}/metrics")
            except (OSError, ValueError):
                return worker.number, ""

        registry = CollectorRegistry()
        registry.register(_Merged(await asyncio.gather(*(one(worker) for worker in self.workers))))
        return CONTENT_TYPE_LATEST, generate_latest(registry)


class _Merged(Collector):
    """The pages of all workers as one, each sample with its worker's number."""

    def __init__(self, pages: Iterable[tuple[int, str]]) -> None:
        self._pages = list(pages)

    def describe(self) -> Iterator[Metric]:
        yield from ()

    def collect(self) -> Iterator[Metric]:
        found: dict[str, Metric] = {}
        for number, page in self._pages:
            for family in text_string_to_metric_families(page):
                merged = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                merged.samples.extend(
                    sample._replace(labels={**sample.labels, "worker": str(number)}) for sample in family.samples
                )
        yield from found.values()


async def serve_workers(settings: Settings, count: int) -> None:
    """`hookline serve ingress --workers`: until SIGTERM or SIGINT."""
    configure(settings, "hookline-ingress")
    workers = Workers(settings, count)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, workers.stop)
    await workers.run()


def _ops_ports(settings: Settings, count: int) -> list[int]:
    if settings.ops_port:
        return [settings.ops_port + 1 + number for number in range(count)]
    # Free ones: held all at once, so that they differ.
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in held]
    for each in held:
        each.close()
    return ports


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_ASK_SECONDS) as answer:  # noqa: S310 - of our own making, on loopback
        return str(answer.read().decode())
