"""CPU per request at the front door: `make bench-ingress`; the last line is JSON.

Hookline's ingress, as `hookline serve ingress` runs it in production, against a bare application that does the least, and against the
usual way: each one process, the same server and event loop, the same broker, the same load, in rounds that take turns.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from bench.children import Child, cpu_seconds_of, machine_seconds
from bench.failure import BenchError
from bench.ingress import floor
from bench.ingress.load import CONNECTIONS, PACED_CONNECTIONS, SHARED_CONNECTIONS, Load, Run
from console.serve import bring_up_to_date
from infra.accounts import Registry
from infra.database.engine import build_engine
from infra.keyring import Keyring
from infra.local.engine import StackError
from infra.local.ports import Ports
from infra.local.stack import Addresses, EmbeddedStack
from infra.settings import Settings

ROUNDS = int(os.environ.get("ROUNDS", "5"))
ROUND_SECONDS = 4.0
PACED_SECONDS = 4.0
SHARES = (20, 50, 80)
"""Percent of saturation."""
TRIAL_SECONDS = 2.0
START_SECONDS = 60.0
PUBLIC = "https://hooks.example.com"
FASTAPI = ("fastapi==0.165.0",)
_MOST = {1: 30_000, 100: 9_000}
"""Requests a second that are signed beforehand; more than this machine answers."""


@dataclass
class Side:
    """One thing that is measured, with its process."""

    name: str
    events: int
    child: Child
    port: int
    workers: int = 1
    cpu_us: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    @property
    def label(self) -> str:
        """As in the result."""
        return self.name if self.events == 1 else f"{self.name}{self.events}"

    def cpu_seconds(self) -> float:
        """Of the process, or of all workers together; the parent does nothing for a request."""
        if self.workers == 1:
            return self.child.cpu_seconds()
        mine = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()
        return sum(cpu_seconds_of(int(pid)) for pid in mine)


def main() -> int:
    """Run; 0 with a result on the last line, 1 with the reason on standard error."""
    # Children and servers are ended whatever ends this.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="hookline-bench-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o755)  # started as root the servers run as somebody else, who must get in
            result = _measure(Path(folder))
    except (BenchError, StackError) as error:
        print(f"bench.ingress: no result: {error}", file=sys.stderr)
        return 1
    print(f"({time.monotonic() - began:.0f} s in all)")
    print(json.dumps(result))
    return 0


def _measure(folder: Path) -> dict[str, Any]:
    with ExitStack() as stack:
        ports = Ports(folder / "ports.json")
        addresses = stack.enter_context(EmbeddedStack(folder / "stack"))
        port, ops = ports.choose("front door"), ports.choose("health")
        shown, hidden = _environment(addresses, port, ops)
        secret = secrets.token_hex(16)
        settings = _settings(addresses, hidden)
        bring_up_to_date(settings)
        endpoint = uvloop.run(_set_up(settings, secret))
        path = f"/hooks/{endpoint}"
        _show(shown, hidden)
        given = {"kafka": addresses.kafka_url, "secret": secret, "prefix": PUBLIC}
        fastapi = _fastapi_folder(folder)

        def bare(kind: str, extra: Path | None = None) -> tuple[Child, int]:
            chosen = ports.choose(kind)
            environment = {floor.GIVEN: json.dumps({**given, "kind": kind, "port": chosen})}
            child = Child(["bench.ingress.floor"], environment, folder, kind, path=extra)
            stack.callback(child.stop)
            child.wait_for_line(floor.READY, START_SECONDS)
            return child, chosen

        hookline = Child(["console", "serve", "ingress"], {**shown, **hidden}, folder, "ingress")
        stack.callback(hookline.stop)
        bares = {kind: bare(kind) for kind in ("read", "floor", "per_event")}
        if fastapi is not None:
            bares["fastapi"] = bare("fastapi", fastapi)
        hookline.wait_for_answer(f"http://127.0.0.1:{ops}/health/ready", START_SECONDS)
        sides = [
            Side(name, events, *((hookline, port) if name == "ingress" else bares[name]))
            for events in (1, 100)
            for name in ("read", "floor", "ingress", "per_event", "fastapi")
            if (name in bares or name == "ingress") and not (name == "per_event" and events == 1)
        ]
        load = Load(folder, secret.encode(), PUBLIC, path)
        before = _answers(ops)
        sent = _rounds(sides, load)
        bare_one, one = (next(side for side in sides if side.label == name) for name in ("floor", "ingress"))
        paced, paced_sent = _paced([bare_one, one], load)
        _check(before, _answers(ops), sent + paced_sent)
        hookline.check()
        result = _result(sides, paced, load.errors)
        port, ops = ports.choose("front door of two"), ports.choose("health of two")
        shared = {**shown, **hidden, "HOOKLINE_INGRESS_PORT": str(port), "HOOKLINE_OPS_PORT": str(ops)}
        child = Child(["console", "serve", "ingress", "--workers", "2"], shared, folder, "two-workers")
        stack.callback(child.stop)
        return {**result, **_two_workers(one, Side("two_workers", 1, child, port, workers=2), ops, load)}


def _two_workers(one: Side, two: Side, ops: int, load: Load) -> dict[str, Any]:
    """The same door with `--workers 2`, in turns with the one that was measured."""
    for number in (1, 2):
        two.child.wait_for_answer(f"http://127.0.0.1:{ops + number}/health/ready", START_SECONDS)
    sides = [replace(one, cpu_us=[], rates=[]), two]
    before = _answers(ops)
    print("One worker against two on one port:")
    _rounds(sides, load, SHARED_CONNECTIONS)
    grown = _answers(ops, by="worker")
    if sum(_answers(ops).values()) <= sum(before.values()) or len(grown) < 2:
        raise BenchError(f"the two workers did not share the work: {grown}")
    share = min(grown.values()) / sum(grown.values())
    single, double = sides
    return {
        "workers_us": [round(median(side.cpu_us), 1) for side in sides],
        "workers_per_second": [round(median(side.rates)) for side in sides],
        "workers_rate_ratio": round(median(b / a for a, b in zip(single.rates, double.rates, strict=True)), 2),
        "workers_cpus": [
            round(median(us * rate for us, rate in zip(side.cpu_us, side.rates, strict=True)) / 1e6, 2)
            for side in sides
        ],
        "lesser_workers_share": round(share, 2),
    }


def _rounds(sides: Sequence[Side], load: Load, connections: int = CONNECTIONS) -> int:
    """Measure; returns how many requests the ingress answered."""
    sent = 0
    print(f"{ROUNDS} rounds of {ROUND_SECONDS:.0f} s a side after a warm-up, {connections} kept-alive connections; CPU us a request (requests/s):")  # fmt: skip
    for number in range(-1, ROUNDS):
        told = []
        busy, had = machine_seconds()
        for side in sides if number % 2 else reversed(sides):
            cpu = side.cpu_seconds()
            seconds = ROUND_SECONDS if number >= 0 else 1.0
            run = load.run(
                side.port, side.events, seconds, _MOST[side.events], connections=connections, again=side.name == "read"
            )
            used = (side.cpu_seconds() - cpu) / run.requests * 1e6
            sent += run.requests if side.name == "ingress" else 0
            if number >= 0:
                side.cpu_us.append(used)
                side.rates.append(run.rate)
                told.append(f"{side.label} {used:.0f} ({run.rate:.0f})")
        if number >= 0:
            now_busy, now_had = machine_seconds()
            print(f"  {number + 1}: {', '.join(sorted(told))}; machine {(now_busy - busy) / max(1.0, now_had - had):.0%} busy", flush=True)  # fmt: skip
    return sent


def _paced(sides: Sequence[Side], load: Load) -> tuple[dict[str, dict[int, float]], int]:
    """Latency at a share of what each carries by itself: side → percent → p99 in ms, and how many requests the ingress got."""
    found: dict[str, dict[int, float]] = {side.name: {} for side in sides}
    sent = 0
    print(f"Latency of single events at an even pace, medians of {ROUNDS} rounds of {PACED_SECONDS:.0f} s in turns:")
    for share in SHARES:
        runs: dict[str, list[Run]] = {side.name: [] for side in sides}
        paces: dict[str, float] = {}
        for number in range(ROUNDS):
            for side in sides if number % 2 else reversed(sides):
                wanted = median(side.rates) * share / 100
                if side.name not in paces:
                    # An answer's time comes on top of each pause: a short run tells how much that takes.
                    trial = load.run(side.port, 1, TRIAL_SECONDS, _MOST[1], rate=wanted)
                    paces[side.name] = wanted * wanted / trial.rate
                    sent += trial.requests if side.name == "ingress" else 0
                run = load.run(side.port, 1, PACED_SECONDS, _MOST[1], rate=paces[side.name])
                sent += run.requests if side.name == "ingress" else 0
                runs[side.name].append(run)
        for side in sides:
            mine = runs[side.name]
            found[side.name][share] = round(median(run.p99_ms for run in mine), 1)
            rate = median(run.rate for run in mine)
            told = ", ".join(f"{run.p99_ms:.1f}" for run in mine)
            print(f"  {side.name} at {rate / median(side.rates):.0%} of saturation ({rate:.0f}/s): p50 {median(run.p50_ms for run in mine):.1f} ms, p99 {told} ms", flush=True)  # fmt: skip
    return found, sent


def _result(sides: Sequence[Side], paced: dict[str, dict[int, float]], errors: int) -> dict[str, Any]:
    by = {side.label: side for side in sides}

    def cpu(label: str) -> float | None:
        return round(median(by[label].cpu_us), 1) if label in by else None

    def ratio(one: str, other: str) -> float:
        return round(median(a / b for a, b in zip(by[one].cpu_us, by[other].cpu_us, strict=True)), 2)

    return {
        "read_us": cpu("read"), "floor_us": cpu("floor"), "ingress_us": cpu("ingress"), "ratio": ratio("ingress", "floor"),
        "read100_us": cpu("read100"), "floor100_us": cpu("floor100"), "ingress100_us": cpu("ingress100"), "ratio100": ratio("ingress100", "floor100"),
        "per_event100_us": cpu("per_event100"), "fastapi_us": cpu("fastapi"), "p99_ms": paced["ingress"][80], "errors": errors,
        "fastapi100_us": cpu("fastapi100"), "p99_ms_at_20_50_80": [*paced["ingress"].values()],
        "floor_p99_ms_at_20_50_80": [*paced["floor"].values()],
        "requests_per_second": round(median(by["ingress"].rates)),
    }  # fmt: skip


def _answers(ops: int, by: str = "answer") -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{ops}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "hookline_ingress_requests_total" and sample.labels["source"] == "hubspot":
                found[sample.labels[by]] += sample.value  # type: ignore[assignment]  # counters are floats on the wire
    return dict(found)


def _check(before: dict[str, float], after: dict[str, float], sent: int) -> None:
    """Every request must have been accepted and published: an answer from memory would be none."""
    grown = {answer: count - before.get(answer, 0) for answer, count in after.items() if count > before.get(answer, 0)}
    accepted = grown.pop("accepted", 0)
    # wrk hangs up at the end of a run with one request a connection under way, which it does not count.
    uncounted = (ROUNDS + 1) * (CONNECTIONS * 2 + PACED_CONNECTIONS * len(SHARES))
    if grown.keys() - {"BODY_INCOMPLETE"} or not sent <= accepted <= sent + uncounted:
        raise BenchError(f"{sent} requests were sent, {accepted:.0f} accepted, besides {grown}")


def _environment(addresses: Addresses, port: int, ops: int) -> tuple[dict[str, str], dict[str, str]]:
    shown = {
        "HOOKLINE_ENVIRONMENT": "production",
        "HOOKLINE_PUBLIC_URL": PUBLIC,
        "HOOKLINE_INGRESS_PORT": str(port),
        "HOOKLINE_OPS_PORT": str(ops),
        "KAFKA_URL": addresses.kafka_url,
        "HOOKLINE_KAFKA_REPLICATION": "1",
        # On, as by default, but one endpoint may take all that the machine gives.
        "HOOKLINE_INGRESS_RATE_PER_SECOND": "1000000",
        "HOOKLINE_INGRESS_RATE_BURST": "1000000",
    }
    hidden = {
        "DATABASE_URL": addresses.database_url,
        "REDIS_URL": addresses.redis_url,
        "HOOKLINE_MASTER_KEYS": base64.b64encode(secrets.token_bytes(32)).decode(),
    }
    return shown, hidden


def _settings(addresses: Addresses, hidden: dict[str, str]) -> Settings:
    return Settings(
        kafka_url=addresses.kafka_url,
        kafka_replication=1,
        database_url=SecretStr(addresses.database_url),
        redis_url=SecretStr(addresses.redis_url),
        master_keys=SecretStr(hidden["HOOKLINE_MASTER_KEYS"]),
        public_url=PUBLIC,
        _env_file=None,
    )


def _show(shown: dict[str, str], hidden: dict[str, str]) -> None:
    print("Settings of the ingress that differ from their defaults:")
    for name, value in {**shown, **dict.fromkeys(hidden, "(set)")}.items():
        print(f"  {name}={value}")
    settings = Settings(_env_file=None)
    print(
        f"On, by default: signature v3, sealing (AES-256-GCM), replay guard, rate limit, wire limits, metrics, {settings.trace_ratio:.0%} of requests traced,\n"
        f"  log level {settings.log_level} as JSON. {os.cpu_count()} CPUs hold wrk (one thread), Kafka (one broker, on disk, 6 partitions), PostgreSQL and the process under test.\n"
        "  Bodies: 1 event, and 100 events of HubSpot; nothing is sent twice. The floor's and the others' producers: acks=all, linger 0."
    )


async def _set_up(settings: Settings, secret: str) -> str:
    engine = build_engine(settings)
    assert settings.master_keys is not None
    registry = Registry(engine, Keyring(engine, settings.master_keys))
    try:
        await registry.add_tenant("bench")
        endpoint = await registry.add_endpoint("bench", "hubspot", secret=secret)
    finally:
        await engine.dispose()
    assert settings.kafka_url is not None
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_url)
    await admin.start()
    try:
        # Bare records of 100 events would fill the disk in the end. Five rounds of them fit: the broker looks for what to
        # throw away every five minutes and deletes it a minute later, and both would show in whosever turn it is.
        small = {"retention.bytes": "1073741824", "segment.bytes": "33554432"}
        await admin.create_topics([NewTopic(floor.TOPIC, settings.kafka_partitions, 1, topic_configs=small)])
    finally:
        await admin.close()
    return endpoint.id


def _fastapi_folder(folder: Path) -> Path | None:
    """FastAPI in a folder of its own, thrown away afterwards; None where it cannot be had, and the result then lacks its numbers."""
    place = folder / "fastapi"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--target",
        str(place),
        *FASTAPI,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"FastAPI cannot be installed, so the usual way is not measured: {done.stderr.strip()[-300:]}")
        return None
    return place


if __name__ == "__main__":
    raise SystemExit(main())
