"""What one tenant's trouble costs another: `make bench-flood`; the last line is JSON.

Two tenants with a sandbox portal each, five roles in five processes. In the quiet one people save at an even pace; the
latency is the sandbox's own journal's, from the save to the insight on the record. The other one floods the front door with
changes, then loses its token, then spends its quota. Each is held against rounds without it, before and after.

Law: nothing is measured of what was lost: a run ends without a result unless every save of both tenants is settled.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import os
import random
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

import aiohttp
import orjson
import sqlalchemy as sa
import uvloop

from bench.backlog.drain import Offsets
from bench.children import Child, machine_seconds
from bench.failure import BenchError
from bench.journey import Setting
from bench.load import edit
from console.runtime import ConsoleError
from console.sandbox import SandboxProcess
from console.serve import bring_up_to_date
from infra.accounts import Account, Registry
from infra.crm.limits_gate import KEY
from infra.crm.vendors import connect
from infra.database.engine import build_engine
from infra.database.tables import set_aside
from infra.keyring import Keyring
from infra.local.engine import StackError
from infra.local.ports import Ports
from infra.local.sandbox.journal import NAME
from infra.local.sandbox.journal_lines import InsightWrite, Save
from infra.local.sandbox.reconciliation import Reconciliation, reconcile
from infra.local.stack import EmbeddedStack
from infra.redis import build_redis
from infra.settings import ROLES
from ingress.translator_app import GROUP as TRANSLATOR_GROUP
from processors.app import ANALYST_GROUP, HYDRATOR_BULK_GROUP, HYDRATOR_GROUP
from schemas.topics import CHANGES, CHANGES_BULK, DELIVERIES, RECORDS

START_SECONDS = 60.0
SETTLE_SECONDS = 120.0
PORTAL_SIZE = 400
EVENTS = 100
SENDERS = 4
_TYPES = {"contact": ("0-1", "jobtitle"), "company": ("0-2", "city"), "deal": ("0-3", "amount")}


@dataclass
class Tenant:
    """One of the two."""

    name: str
    account: Account
    door: str
    secret: str
    records: list[tuple[str, str]]
    turns: Iterator[tuple[str, str]]
    """Its records over and over, in one order of chance."""


def main() -> int:
    """Run; 0 with a result on the last line, 1 with the reason on standard error."""
    signal.signal(signal.SIGTERM, _ended)
    given = _arguments()
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="hookline-flood-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o755)  # started as root the servers run as somebody else, who must get in
            result = _measure(Path(folder), given)
    except (BenchError, ConsoleError, StackError) as error:
        print(f"bench.flood: no result: {error}", file=sys.stderr)
        return 1
    print(f"({time.monotonic() - began:.0f} s in all)")
    print(json.dumps(result))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.flood", description=__doc__)
    parser.add_argument("--changes", type=int, default=100_000, help="of the flood")
    parser.add_argument("--records", type=int, default=5_000, help="that the flood is about")
    parser.add_argument("--rate", type=float, default=5.0, help="saves a second of the quiet tenant")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=5, help="with trouble, and as many without")
    parser.add_argument("--parts", default="flood,token,quota")
    return parser.parse_args()


def _ended(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)


def _measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as stack:
        ports = Ports(folder / "ports.json")
        sandbox = stack.enter_context(SandboxProcess(folder / "sandbox"))
        setting = Setting(stack.enter_context(EmbeddedStack(folder / "stack")), sandbox.url, ports)
        print("Settings of Hookline's processes that differ from their defaults:")
        for name, value in {**setting.shown, **dict.fromkeys(setting.secret, "(set)")}.items():
            print(f"  {name}={value}")
        print(f"Layout, {os.cpu_count()} CPUs: the embedded stack, the sandbox CRM, and `hookline serve` of each role in a process of its own.", flush=True)  # fmt: skip
        bring_up_to_date(setting.settings())
        roles = []
        for role in ROLES:
            ops = ports.choose(f"health-{role}")
            child = Child(["console", "serve", role], setting.environment(HOOKLINE_OPS_PORT=str(ops)), folder, role)
            stack.callback(child.stop)
            roles.append((child, f"http://127.0.0.1:{ops}/health/ready"))
        for child, ready in roles:
            child.wait_for_answer(ready, START_SECONDS)
        return uvloop.run(_Run(setting, sandbox, [child for child, _ in roles], given).all())


class Story:
    """The sandbox's journal, read once and kept as far as one asks for it: a flood makes it long."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._saves: dict[str, list[Save]] = {}
        self._writes: dict[str, list[InsightWrite]] = {}
        self._reading = threading.Lock()

    def reconcile(self, account: str, since: int) -> Reconciliation:
        """The account's saves from `since` (epoch ms) on against its insights."""
        with self._reading, self._path.open("rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._at += len(line)
                self._keep(orjson.loads(line))
        saves = [save for save in self._saves.get(account, ()) if save.at >= since]
        changed = {(save.object, save.id) for save in saves}
        writes = [
            each for each in self._writes.get(account, ()) if each.at >= since and (each.object, each.id) in changed
        ]
        return reconcile(saves, writes)

    def _keep(self, line: dict[str, Any]) -> None:
        kind = line.get("kind")
        if kind == "save":
            self._saves.setdefault(line["account"], []).append(_read(Save, line))
        elif kind == "insight_write":
            self._writes.setdefault(line["account"], []).append(_read(InsightWrite, line))


class _Run:
    """One run on servers and roles that are up."""

    def __init__(
        self, setting: Setting, sandbox: SandboxProcess, roles: list[Child], given: argparse.Namespace
    ) -> None:
        self._setting = setting
        self._settings = setting.settings()
        self._sandbox = sandbox
        self._roles = roles
        self._given = given
        self._story = Story(sandbox.data / NAME)
        self._chance = random.Random(7)

    async def all(self) -> dict[str, Any]:
        """Every part that was asked for."""
        given = self._given
        engine = self._engine = build_engine(self._settings)
        assert self._settings.master_keys is not None
        self._registry = Registry(engine, Keyring(engine, self._settings.master_keys))
        assert self._settings.kafka_url is not None
        self._offsets = Offsets(self._settings.kafka_url)
        await self._offsets.start()
        try:
            quiet = await self._tenant("quiet", "74000001", PORTAL_SIZE)
            noisy = await self._tenant("noisy", "75000001", max(PORTAL_SIZE, given.records))
            await self._round(quiet, "warm-up")
            await self._round(noisy, "warm-up")
            parts = {"flood": self._flood, "token": self._token, "quota": self._quota}
            found: dict[str, Any] = {}
            for part in given.parts.split(","):
                found[part] = await parts[part](quiet, noisy)
            return found
        finally:
            await self._offsets.stop()
            await engine.dispose()

    async def _tenant(self, name: str, portal: str, size: int) -> Tenant:
        client = connect(self._settings, ["hubspot"])["hubspot"]
        try:
            await self._registry.add_tenant(name)
            secret, token = secrets.token_hex(16), f"sandbox-{secrets.token_hex(12)}"
            account = await self._registry.add_account(
                name, "hubspot", f"hubspot:{portal}", config={"app_id": portal}, credentials={"access_token": token}
            )
            endpoint = await self._registry.add_endpoint(
                name, "hubspot", config={"app_id": portal}, secret=secret, accounts=[account.id]
            )
            door = f"{self._setting.public_url}/hooks/{endpoint.id}"
            await self._sandbox.acall("create_app", app_id=portal, client_secret=secret, target_url=door)
            await self._sandbox.acall("create_portal", portal_id=portal, app_id=portal, access_token=token, size=size)
            await client.provision(account)
        finally:
            await client.close()
        records = [
            (kind, one)
            for kind in _TYPES
            for one in await self._sandbox.acall("records", account=account.id, object=kind)
        ]
        order = self._chance.sample(records, len(records))
        return Tenant(name, account, door, secret, records, itertools.cycle(order))

    # Parts

    async def _flood(self, quiet: Tenant, noisy: Tenant) -> dict[str, Any]:
        """Rounds before, rounds while the flood is in the house, rounds after."""
        given = self._given
        before = [await self._round(quiet, "before") for _ in range((given.rounds + 1) // 2)]
        began = time.monotonic()
        sending = asyncio.create_task(self._send(noisy))
        during: list[list[int]] = []
        bulk = 0
        while len(during) < given.rounds:
            if sending.done():
                sending.result()
                if not await self._behind():
                    break
            during.append(await self._round(quiet, "flood"))
            bulk = max(bulk, await self._behind())
        sent = await sending
        while await self._behind():
            self._alive()
            await asyncio.sleep(0.5)
        drained = time.monotonic() - began
        after = [await self._round(quiet, "after") for _ in range(given.rounds // 2)]
        if not during:
            raise BenchError("the flood was gone before a round had ended: ask for more with --changes")
        return {
            "changes": sent,
            "drained_s": round(drained),
            "most_behind": bulk,
            **_compared(before + after, during),
        }

    async def _token(self, quiet: Tenant, noisy: Tenant) -> dict[str, Any]:
        """Both save at the same rate; in every other round the noisy one's token is revoked."""
        token = (noisy.account.credentials or {})["access_token"]

        async def break_it() -> None:
            await self._sandbox.acall("revoke_token", token=token)

        async def mend_it() -> None:
            await self._sandbox.acall("revoke_token", token=token, revoked=False)
            await self._registry.add_account(
                noisy.name,
                "hubspot",
                noisy.account.id,
                config=noisy.account.config,
                credentials={"access_token": token},
            )

        return await self._broken(quiet, noisy, "token revoked", break_it, mend_it)

    async def _quota(self, quiet: Tenant, noisy: Tenant) -> dict[str, Any]:
        """Likewise with a spent daily quota of the CRM."""

        async def break_it() -> None:
            await self._sandbox.acall("set_limits", account=noisy.account.id, daily=1, used_today=1)

        async def mend_it() -> None:
            await self._sandbox.acall("set_limits", account=noisy.account.id, daily=None)
            async with build_redis(self._settings) as redis:
                await redis.delete(
                    f"{KEY}{noisy.account.id}"
                )  # what the CRM said of its day is believed for half an hour
            await self._hurry(noisy)

        return await self._broken(quiet, noisy, "quota spent", break_it, mend_it)

    async def _broken(self, quiet: Tenant, noisy: Tenant, name: str, break_it: Any, mend_it: Any) -> dict[str, Any]:
        healthy, broken = [], []
        delivered = 0
        for _ in range(self._given.rounds):
            found, _ = await asyncio.gather(self._round(quiet, f"{name}: no"), self._round(noisy, ""))
            healthy.append(found)
            await break_it()
            since = await self._now()
            saves = asyncio.create_task(self._save(noisy))
            broken.append(await self._round(quiet, f"{name}: yes"))
            await saves
            await mend_it()
            delivered += len(await self._settled(noisy, since, len(saves.result()), mend_it))
        return {**_compared(healthy, broken), "delivered_after_mending": delivered}

    # Load

    async def _round(self, tenant: Tenant, name: str) -> list[int]:
        """Latencies in ms of one round of saves, all of them settled."""
        self._alive()
        since = await self._now()
        busy, had = machine_seconds()
        saves = await self._save(tenant)
        found = await self._settled(tenant, since, len(saves))
        now_busy, now_had = machine_seconds()
        if name:
            share = (now_busy - busy) / max(1.0, now_had - had)
            print(f"  {name:<20} p50 {_p(found, 0.5):>6} p95 {_p(found, 0.95):>6} ms, {len(found)} saves, machine {share:.0%} busy", flush=True)  # fmt: skip
        return found

    async def _save(self, tenant: Tenant) -> list[Any]:
        given = self._given
        # In turn: a record that is saved again within the cooldown waits for its end, whatever others do.
        chosen = [next(tenant.turns) for _ in range(min(len(tenant.records), int(given.rate * given.seconds)))]
        loop = asyncio.get_running_loop()
        start, saves = loop.time(), []
        for place, (kind, one) in enumerate(chosen):
            await asyncio.sleep(max(0.0, start + place / given.rate - loop.time()))
            call = self._sandbox.acall(
                "save", account=tenant.account.id, object=kind, id=one, properties=edit(self._chance, kind)
            )
            saves.append(asyncio.create_task(call))
        return list(await asyncio.gather(*saves))

    async def _settled(self, tenant: Tenant, since: int, saves: int, again: Any = None) -> list[int]:
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            self._alive()
            found = await asyncio.to_thread(self._story.reconcile, tenant.account.id, since)
            if not found.unsettled and len(found.latencies_ms) >= saves:
                return found.latencies_ms
            if time.monotonic() > deadline:
                raise BenchError(f"{tenant.name}: {len(found.unsettled)} of {saves} saves are not settled after {SETTLE_SECONDS:.0f} s")  # fmt: skip
            if again is not None:
                await again()
            await asyncio.sleep(0.3)

    async def _now(self) -> int:
        return int((await self._sandbox.look("/sandbox/state"))["at"])

    async def _send(self, tenant: Tenant) -> int:
        """The flood, as fast as the front door takes it; returns the changes that it has acknowledged."""
        total, chosen = self._given.changes, tenant.records[: self._given.records]
        numbers = iter(range(0, total, EVENTS))
        sent = 0

        async def sender(http: aiohttp.ClientSession) -> None:
            nonlocal sent
            for start in numbers:
                events = [self._event(tenant, start + each, chosen) for each in range(min(EVENTS, total - start))]
                body = json.dumps(events).encode()
                # The front door says when it is too much, and not when it no longer is.
                while not await self._post(http, tenant, body):  # noqa: ASYNC110 -- as above
                    await asyncio.sleep(0.2)
                sent += len(events)

        async with aiohttp.ClientSession() as http:
            await asyncio.gather(*(sender(http) for _ in range(SENDERS)))
        return sent

    def _event(self, tenant: Tenant, number: int, chosen: list[tuple[str, str]]) -> dict[str, Any]:
        kind, one = chosen[number % len(chosen)]
        object_type, name = _TYPES[kind]
        return {
            "eventId": 1_000_000_000 + number, "subscriptionId": 9, "portalId": int(tenant.account.id.partition(":")[2]),
            "occurredAt": int(time.time() * 1000), "attemptNumber": 0, "subscriptionType": f"{kind}.propertyChange",
            "objectTypeId": object_type, "objectId": int(one), "propertyName": name, "propertyValue": "x", "changeSource": "CRM_UI",
        }  # fmt: skip

    async def _post(self, http: aiohttp.ClientSession, tenant: Tenant, body: bytes) -> bool:
        stamp = str(int(time.time() * 1000))
        mac = hmac.digest(
            tenant.secret.encode(), b"POST" + tenant.door.encode() + body + stamp.encode(), hashlib.sha256
        )
        headers = {
            "content-type": "application/json",
            "X-HubSpot-Signature-v3": base64.b64encode(mac).decode(),
            "X-HubSpot-Request-Timestamp": stamp,
        }
        async with http.post(tenant.door, data=body, headers=headers) as answer:
            if answer.status < 300:
                return True
            if answer.status in {429, 503}:
                return False
            raise BenchError(f"the front door answered {answer.status} to the flood")

    async def _behind(self) -> int:
        """Messages that wait before any stage up to the analyst."""
        total = 0
        for group, topic in (
            (TRANSLATOR_GROUP, DELIVERIES),
            (HYDRATOR_GROUP, CHANGES),
            (HYDRATOR_BULK_GROUP, CHANGES_BULK),
            (ANALYST_GROUP, RECORDS),
        ):
            ends = await self._offsets.ends(topic.name)
            total += sum(ends.values()) - await self._offsets.done(group, topic.name)
        return total

    async def _hurry(self, tenant: Tenant) -> None:
        """The quota's reset, which is an hour away, has come."""
        due = set_aside.update().where(set_aside.c.tenant == tenant.name, set_aside.c.emitted_at.is_(None))
        async with self._engine.begin() as connection:
            await connection.execute(due.where(set_aside.c.due_at > sa.func.now()).values(due_at=sa.func.now()))

    def _alive(self) -> None:
        for child in self._roles:
            child.check()


def _read(kind: Any, line: dict[str, Any]) -> Any:
    values = {name: line[name] for name in kind.__slots__ if name in line}
    return kind(**{name: tuple(value) if name == "changed" else value for name, value in values.items()})


def _p(found: list[int], share: float) -> int:
    ordered = sorted(found)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _compared(without: list[list[int]], within: list[list[int]]) -> dict[str, Any]:
    """Medians of the rounds' percentiles; the spread of the rounds without is the machine's noise."""
    calm = sorted(_p(each, 0.95) for each in without)
    return {
        "p50_ms": round(median(_p(each, 0.5) for each in without)),
        "p95_ms": round(median(calm)),
        "p95_ms_noise": [calm[0], calm[-1]],
        "with_p50_ms": round(median(_p(each, 0.5) for each in within)),
        "with_p95_ms": round(median(_p(each, 0.95) for each in within)),
        "p95_ratio": round(median(_p(each, 0.95) for each in within) / max(1, median(calm)), 2),
        "rounds": [len(without), len(within)],
    }


if __name__ == "__main__":
    raise SystemExit(main())
