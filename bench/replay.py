"""What a replay costs live traffic, and how well its plan foretold it: `make bench-replay`; the last line is JSON.

Live saves at a steady rate in rounds that take turns: alone, and beside a replay that writes (a raised generation, so that
every record is judged and delivered anew), run as an operator runs it: `hookline replay plan`, `hookline replay run`.
Latency is the sandbox's journal's, from a save to the insight readable on the record. By default the rules answer; with
`--model groq` the Groq stand-in does, with the default tiers and packs, and tokens and dollars are held against the plan, too.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from bench.children import ROOT, Child
from bench.failure import BenchError
from bench.journey import START_SECONDS, TENANT, Setting, _ended
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
from infra.local.stack import EmbeddedStack
from infra.settings import Settings

LIVE_RATE = 5.0
REPLAY_RATE = 20.0
WARM_UP_RATE = 10.0
ROUNDS = 5
ROUND_SECONDS = 10.0
PORTAL = "73000001"
PORTAL_SIZE = 240
COUNTED = ("insights", "model_calls")
PAID = ("input_tokens", "output_tokens", "cost_usd")
MODEL_LATENCY = 0.05
"""Seconds that the stand-in takes for an answer."""
REPLAYED = "deal"
"""Live saves are of the other kinds, so that a plan is not overtaken by them."""


def main() -> int:
    """Run; 0 with a result on the last line, 1 with the reason on standard error."""
    signal.signal(signal.SIGTERM, _ended)
    parser = argparse.ArgumentParser(prog="python -m bench.replay")
    parser.add_argument(
        "--model", choices=("offline", "groq"), default="offline", help="who answers; groq: its stand-in"
    )
    given = parser.parse_args()
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="hookline-bench-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o755)  # started as root the servers run as somebody else, who must get in
            result = _measure(Path(folder), paid=given.model == "groq")
    except (BenchError, ConsoleError, StackError) as error:
        print(f"bench.replay: no result: {error}", file=sys.stderr)
        return 1
    print(f"({time.monotonic() - began:.0f} s in all)")
    print(json.dumps(result))
    return 0


def _measure(folder: Path, *, paid: bool) -> dict[str, Any]:
    with ExitStack() as stack:
        ports = Ports(folder / "ports.json")
        sandbox = stack.enter_context(SandboxProcess(folder / "sandbox"))
        setting = Setting(stack.enter_context(EmbeddedStack(folder / "stack")), sandbox.url, ports)
        if paid:
            port = ports.choose("model")
            url = f"http://127.0.0.1:{port}"
            model = Child(
                ["bench.trace.model", "--port", str(port), "--latency", str(MODEL_LATENCY)], {}, folder, "model"
            )
            stack.callback(model.stop)
            model.wait_for_answer(f"{url}/stand-in", START_SECONDS)
            # What rests on purpose would hide what a replay costs.
            setting.shown |= {
                "HOOKLINE_PROVIDER": "groq",
                "GROQ_API_KEY": "stand-in",
                "GROQ_BASE_URL": url,
                "HOOKLINE_QUESTION_REST_SECONDS": "0",
            }
        setting.show()
        settings = setting.settings()
        bring_up_to_date(settings)
        uvloop.run(_set_up(settings, sandbox))
        hookline = Child(
            ["console", "serve", "all"], setting.environment(HOOKLINE_COALESCE_WINDOW_SECONDS="0"), folder, "hookline"
        )
        stack.callback(hookline.stop)
        hookline.wait_for_answer(setting.ready_url, START_SECONDS)
        counted = COUNTED + PAID if paid else COUNTED
        load = Load(sandbox, LIVE_RATE, random.Random(7))
        return uvloop.run(_rounds(load, hookline, setting, folder, counted))


async def _set_up(settings: Settings, sandbox: SandboxProcess) -> None:
    engine = build_engine(settings)
    assert settings.master_keys is not None
    registry = Registry(engine, Keyring(engine, settings.master_keys))
    client = connect(settings, ["hubspot"])["hubspot"]
    try:
        await registry.add_tenant(TENANT, "Benchmark")
        secret, token = secrets.token_hex(16), f"sandbox-{secrets.token_hex(12)}"
        endpoint = await registry.add_endpoint(TENANT, "hubspot", name="app", config={"app_id": PORTAL}, secret=secret)
        door = f"{settings.public_url}/hooks/{endpoint.id}"
        await sandbox.acall("create_app", app_id=PORTAL, client_secret=secret, target_url=door)
        await sandbox.acall("create_portal", portal_id=PORTAL, app_id=PORTAL, access_token=token, size=PORTAL_SIZE)
        account = Account(f"hubspot:{PORTAL}", TENANT, "hubspot", PORTAL, {"app_id": PORTAL}, {"access_token": token})
        await client.provision(account)
        await registry.add_account(
            TENANT, "hubspot", account.id, name=account.name, config=account.config, credentials=account.credentials,
            endpoints=[endpoint.id],
        )  # fmt: skip
    finally:
        await client.close()
        await engine.dispose()


async def _rounds(
    load: Load, hookline: Child, setting: Setting, folder: Path, counted: Sequence[str]
) -> dict[str, Any]:
    account = f"hubspot:{PORTAL}"
    records = await load.records(account)
    print(f"Warm-up: {len(records)} records, each saved once.", flush=True)
    await dataclasses.replace(load, rate=WARM_UP_RATE).round(
        account, records, len(records) / WARM_UP_RATE, hookline.check
    )
    print(
        f"{ROUNDS} rounds of {ROUND_SECONDS:.0f} s, {LIVE_RATE:.0f} live saves/s, the replay at {REPLAY_RATE:.0f} records/s; milliseconds:"
    )
    live = [(kind, one) for kind, one in records if kind != REPLAYED]
    alone: list[Round] = []
    beside: list[Round] = []
    off: dict[str, list[float]] = {name: [] for name in counted}
    for number in range(ROUNDS):
        for replaying in (number % 2 == 0, number % 2 == 1):
            if not replaying:
                alone.append(await load.round(account, live, ROUND_SECONDS, hookline.check))
                continue
            # The prompt is the same: without a cache of answers the replay asks, as it would with another one.
            environment = setting.environment(
                HOOKLINE_GENERATION=str(number + 2),
                HOOKLINE_CACHE_TTL_SECONDS="0",
                HOOKLINE_COALESCE_WINDOW_SECONDS="0",
            )
            planned = await asyncio.to_thread(
                _command, environment, folder, "plan", "--object", REPLAYED, "--rate", f"{REPLAY_RATE}"
            )
            running = asyncio.create_task(asyncio.to_thread(_command, environment, folder, "run", planned["id"]))
            beside.append(await load.round(account, live, ROUND_SECONDS, hookline.check))
            done = await running
            for name, found in off.items():
                if not (foretold := planned["planned"][name]):
                    raise BenchError(f"the plan foretold no {name} at all")
                found.append(done["used"].get(name, 0) / foretold - 1)
        print(
            f"  {number + 1}: alone p50 {alone[-1].p50}, p95 {alone[-1].p95}   beside p50 {beside[-1].p50}, p95 {beside[-1].p95}   "
            f"used against planned: {', '.join(f'{name} {found[-1]:+.1%}' for name, found in off.items())}",
            flush=True,
        )
    return {
        "p95_alone_ms": median(each.p95 for each in alone),
        "p95_beside_ms": median(each.p95 for each in beside),
        "p95_ratio": round(median(b.p95 / a.p95 for a, b in zip(alone, beside, strict=True)), 2),
        "p50_ratio": round(median(b.p50 / a.p50 for a, b in zip(alone, beside, strict=True)), 2),
        "plan_off": {name: round(median(abs(each) for each in found), 3) for name, found in off.items()},
        "plan_off_at_most": {name: round(max(abs(each) for each in found), 3) for name, found in off.items()},
    }


def _command(environment: dict[str, str], folder: Path, *arguments: str) -> dict[str, Any]:
    """`hookline replay ... --json`."""
    done = subprocess.run(
        [sys.executable, "-m", "console", "replay", *arguments, "--json"],
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)}, cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BenchError(f"hookline replay {' '.join(arguments)}: {done.stderr[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    sys.exit(main())
