"""Latency of the whole journey against its floor: `make bench-journey`; the last line is JSON.

Both are measured by the sandbox CRM's journal, from a save to the insight readable on the record, in the same run on the
same broker, in rounds that take turns: Hookline's five roles in one process, and five bare Kafka hops with the same
vendor-library calls in another (`bench.hops`). Then Hookline starts again with its default window, for first changes.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

import uvloop
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from pydantic import SecretStr

from bench import hops
from bench.children import Child, machine_seconds
from bench.failure import BenchError
from bench.load import Load, Round
from console.runtime import ConsoleError
from console.sandbox import SandboxProcess
from console.serve import bring_up_to_date
from infra.accounts import Account, Registry
from infra.crm.vendors import connect
from infra.database.engine import build_engine
from infra.keyring import Keyring
from infra.local.engine import StackError
from infra.local.ports import Ports
from infra.local.stack import Addresses, EmbeddedStack
from infra.settings import Settings

RATE = 20.0
ROUNDS = 5
ROUND_SECONDS = 8.0
PORTAL_SIZE = 500
START_SECONDS = 40.0
TENANT = "bench"
FLOOR_PORTAL, HOOKLINE_PORTAL = "71000001", "72000001"


class Setting:
    """The settings of a Hookline process, as an operator gives them: by environment."""

    def __init__(self, addresses: Addresses, sandbox: str, ports: Ports) -> None:
        port, ops = ports.choose("front door"), ports.choose("health")
        self.public_url = f"http://127.0.0.1:{port}"
        self.ready_url = f"http://127.0.0.1:{ops}/health/ready"
        self.shown = {
            "HOOKLINE_ENVIRONMENT": "development",  # production refuses the sandbox
            "HOOKLINE_SANDBOX_URL": sandbox,
            "HOOKLINE_PROVIDER": "offline",
            "HOOKLINE_INGRESS_PORT": str(port),
            "HOOKLINE_OPS_PORT": str(ops),
            "HOOKLINE_PUBLIC_URL": self.public_url,
            "HOOKLINE_LOG_LEVEL": "WARNING",
            # 20 deliveries a second ask more than the defaults allow one tenant.
            "HOOKLINE_MODEL_REQUESTS_PER_MINUTE": "100000",
            "HOOKLINE_MODEL_TOKENS_PER_MINUTE": "100000000",
            "KAFKA_URL": addresses.kafka_url,
            "HOOKLINE_KAFKA_REPLICATION": "1",
        }
        self.secret = {
            "DATABASE_URL": addresses.database_url,
            "REDIS_URL": addresses.redis_url,
            "HOOKLINE_MASTER_KEYS": base64.b64encode(secrets.token_bytes(32)).decode(),
        }

    def environment(self, **more: str) -> dict[str, str]:
        """All of it."""
        return {**self.shown, **self.secret, **more}

    def settings(self) -> Settings:
        """The same for this process, which sets up what an operator sets up."""
        return Settings(
            environment="development",
            sandbox_url=self.shown["HOOKLINE_SANDBOX_URL"],
            kafka_url=self.shown["KAFKA_URL"],
            kafka_replication=1,
            database_url=SecretStr(self.secret["DATABASE_URL"]),
            redis_url=SecretStr(self.secret["REDIS_URL"]),
            master_keys=SecretStr(self.secret["HOOKLINE_MASTER_KEYS"]),
            public_url=self.public_url,
            _env_file=None,
        )

    def show(self) -> None:
        """Print every setting that differs from its default, and the process layout."""
        print("Settings of the Hookline process that differ from their defaults:")
        for name, value in {**self.shown, **dict.fromkeys(self.secret, "(set)")}.items():
            print(f"  {name}={value}")
        print("  HOOKLINE_COALESCE_WINDOW_SECONDS=0   (in the last part: the default, 5)")
        print(
            f"Layout, {os.cpu_count()} CPUs: Kafka (one broker), PostgreSQL and Valkey of the embedded stack; the sandbox CRM, one process;\n"
            "  Hookline: `hookline serve all`, its five roles in one process; the floor: a receiver and five hops in one process.\n"
            "  Production runs a process a role; here one a side, so that neither side has more of the machine than the other."
        )


def main() -> int:
    """Run; 0 with a result on the last line, 1 with the reason on standard error."""
    signal.signal(signal.SIGTERM, _ended)
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="hookline-bench-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o755)  # started as root the servers run as somebody else, who must get in
            result = _measure(Path(folder))
    except (BenchError, ConsoleError, StackError) as error:
        print(f"bench.journey: no result: {error}", file=sys.stderr)
        return 1
    print(f"({time.monotonic() - began:.0f} s in all)")
    print(json.dumps(result))
    return 0


def _ended(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)


def _measure(folder: Path) -> dict[str, Any]:
    with ExitStack() as stack:
        ports = Ports(folder / "ports.json")
        sandbox = stack.enter_context(SandboxProcess(folder / "sandbox"))
        setting = Setting(stack.enter_context(EmbeddedStack(folder / "stack")), sandbox.url, ports)
        setting.show()
        settings = setting.settings()
        bring_up_to_date(settings)
        floor_port = ports.choose("floor")
        floor = uvloop.run(_set_up(settings, sandbox, floor_port))
        given = json.dumps({"account": floor, "port": floor_port})
        bare = Child(["bench.hops"], setting.environment(**{hops.GIVEN: given}), folder, "hops")
        stack.callback(bare.stop)
        hookline = Child(
            ["console", "serve", "all"], setting.environment(HOOKLINE_COALESCE_WINDOW_SECONDS="0"), folder, "hookline"
        )
        stack.callback(hookline.stop)
        bare.wait_for_line(hops.READY, START_SECONDS)
        hookline.wait_for_answer(setting.ready_url, START_SECONDS)
        load = Load(sandbox, RATE, random.Random(7))
        rounds = uvloop.run(_rounds(load, bare, hookline))
        bare.stop()
        hookline.stop()
        again = Child(["console", "serve", "all"], setting.environment(), folder, "hookline-default-window")
        stack.callback(again.stop)
        again.wait_for_answer(setting.ready_url, START_SECONDS)
        default = uvloop.run(_first_changes(load, again))
    return _result(rounds, default)


async def _set_up(settings: Settings, sandbox: SandboxProcess, floor_port: int) -> dict[str, Any]:
    """Two portals, one for each side, with our properties; returns the floor's account."""
    engine = build_engine(settings)
    assert settings.master_keys is not None
    registry = Registry(engine, Keyring(engine, settings.master_keys))
    client = connect(settings, ["hubspot"])["hubspot"]
    try:
        await registry.add_tenant(TENANT, "Benchmark")
        secret = secrets.token_hex(16)
        endpoint = await registry.add_endpoint(
            TENANT, "hubspot", name="app", config={"app_id": HOOKLINE_PORTAL}, secret=secret
        )
        door = f"{settings.public_url}/hooks/{endpoint.id}"
        accounts = []
        for portal, url in ((FLOOR_PORTAL, f"http://127.0.0.1:{floor_port}/"), (HOOKLINE_PORTAL, door)):
            token = f"sandbox-{secrets.token_hex(12)}"
            await sandbox.acall("create_app", app_id=portal, client_secret=secret, target_url=url)
            await sandbox.acall("create_portal", portal_id=portal, app_id=portal, access_token=token, size=PORTAL_SIZE)
            account = Account(
                f"hubspot:{portal}", TENANT, "hubspot", portal, {"app_id": portal}, {"access_token": token}
            )
            await client.provision(account)
            accounts.append(account)
        own = accounts[1]
        await registry.add_account(
            TENANT, "hubspot", own.id, name=own.name, config=own.config, credentials=own.credentials, endpoints=[endpoint.id]
        )  # fmt: skip
    finally:
        await client.close()
        await engine.dispose()
    assert settings.kafka_url is not None
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_url)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, settings.kafka_partitions, 1) for name in hops.TOPICS])
    finally:
        await admin.close()
    return dataclasses.asdict(accounts[0])


async def _rounds(load: Load, bare: Child, hookline: Child) -> list[tuple[Round, Round]]:
    """(floor, Hookline) of each counted round; they take turns in going first."""

    def alive() -> None:
        bare.check()
        hookline.check()

    sides = {"hops": (f"hubspot:{FLOOR_PORTAL}", bare), "hookline": (f"hubspot:{HOOKLINE_PORTAL}", hookline)}
    records = {name: await load.records(account) for name, (account, _) in sides.items()}
    for name, (account, _) in sides.items():
        # Each record once: its data key and what is remembered of it are made then, once in a record's life.
        await load.round(account, records[name], len(records[name]) / RATE, alive)
    print(
        f"{ROUNDS} rounds of {ROUND_SECONDS:.0f} s at {RATE:.0f} saves/s a side, after a warm-up of a save a record; milliseconds:"
    )
    found = []
    for number in range(ROUNDS):
        this: dict[str, Round] = {}
        told: dict[str, str] = {}
        for name in sorted(sides, reverse=number % 2 == 0):
            account, child = sides[name]
            before, (busy, had) = child.cpu_seconds(), machine_seconds()
            this[name] = await load.round(account, records[name], ROUND_SECONDS, alive)
            cpu = (child.cpu_seconds() - before) / this[name].saves * 1_000
            now_busy, now_had = machine_seconds()
            share = (now_busy - busy) / max(1.0, now_had - had)
            told[name] = f"p50 {this[name].p50}, p95 {this[name].p95}, CPU {cpu:.0f} a save, machine {share:.0%} busy"
        found.append((this["hops"], this["hookline"]))
        print(f"  {number + 1}: " + "   ".join(f"{name} {told[name]}" for name in sides), flush=True)
    return found


async def _first_changes(load: Load, hookline: Child) -> Round:
    account = f"hubspot:{HOOKLINE_PORTAL}"
    return await load.round(account, await load.records(account), ROUND_SECONDS, hookline.check)


def _result(rounds: list[tuple[Round, Round]], default: Round) -> dict[str, Any]:
    return {
        "hops_p50_ms": median(floor.p50 for floor, _ in rounds),
        "hops_p95_ms": median(floor.p95 for floor, _ in rounds),
        "p50_ms": median(ours.p50 for _, ours in rounds),
        "p95_ms": median(ours.p95 for _, ours in rounds),
        "p50_ratio": round(median(ours.p50 / floor.p50 for floor, ours in rounds), 2),
        "p95_ratio": round(median(ours.p95 / floor.p95 for floor, ours in rounds), 2),
        "default_window_p95_ms": default.p95,
    }


if __name__ == "__main__":
    raise SystemExit(main())
