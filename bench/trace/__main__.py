"""What a day of CRM edits costs: `make bench-trace`; the last line is JSON.

A piece of a day is played, time-scaled, as saves in the sandbox CRM: its webhooks go through front door, translator,
hydrator, analyst and gateway, with the default settings and the Groq stand-in (`bench.trace.model`). Scaled are the waits
that are settings: the coalescing window, the rest of questions and the packing window; what machine and model take is not. So
latencies are shown as measured for a first change, which waits for none of them; and for one in a session with what the
scaling took from the waits added to the measured time: an upper bound.

The naive count: a model call per delivery and analysis that applies to its object, each on the strong model at list price and
about the whole record as it stood then. `least_dollars_share` is the least that is to pay for answers as full, within a minute, where
each analysis asks by itself (both: `bench.trace.naive`). Salesforce's accounts are played on a HubSpot portal of their own; each account
is a tenant.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import secrets
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from bench.children import Child
from bench.failure import BenchError
from bench.journey import Setting
from bench.trace import days
from bench.trace.days import TEXTS, UNREAD, Delivery, saved
from bench.trace.model import SMALL
from bench.trace.naive import bill, least
from console.runtime import ConsoleError
from console.sandbox import SandboxProcess
from console.serve import bring_up_to_date
from infra.accounts import Account, Registry
from infra.crm.vendors import connect
from infra.database.engine import build_engine
from infra.keyring import Keyring
from infra.local.engine import StackError
from infra.local.ports import Ports
from infra.local.sandbox.journal import NAME
from infra.local.sandbox.journal_lines import InsightWrite, Save
from infra.local.sandbox.reconciliation import counts, reconcile
from infra.local.stack import EmbeddedStack
from infra.settings import Settings
from llm_gateway.pricing import most_usd

START_SECONDS = 120.0
SETTLE_SECONDS = 120.0
COALESCE_SECONDS = float(Settings.model_fields["coalesce_window_seconds"].default)
REST_SECONDS = float(Settings.model_fields["question_rest_seconds"].default)
PACK_SECONDS = float(Settings.model_fields["pack_seconds"].default)
CHANGES_PER_SECOND = int(Settings.model_fields["tenant_changes_per_second"].default)
"""The defaults that are scaled: a rate is so much higher in a day that passes so much faster; a burst is what it is."""
LEAST_PACK_SECONDS = 0.02
"""What is due at one moment comes as far apart as this machine's work takes, at whatever scale."""
SESSION_SECONDS = 60.0
"""Of the day: a change is a first one when its record had none for so long."""
LATENCY = 0.3
STRONG = "openai/gpt-oss-120b"


def main() -> int:
    """Run; 0 with a result on the last line, 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="bench.trace")
    parser.add_argument("--trace", type=Path, help="a file of deliveries; without it a day is drawn")
    parser.add_argument("--seed", type=int, default=11, help="of the drawn day")
    parser.add_argument("--scale", type=float, default=20.0, help="seconds of the day in one of ours")
    parser.add_argument("--duration", type=float, default=120.0, help="seconds that are played")
    parser.add_argument("--start", type=float, default=36_000.0, help="second of the day at which to begin")
    parser.add_argument(
        "--window",
        type=float,
        default=COALESCE_SECONDS,
        help="coalescing window, unscaled seconds; default: the setting's",
    )
    parser.add_argument("--rest", type=float, default=REST_SECONDS, help="rest of questions, unscaled seconds; default: the setting's")  # fmt: skip
    given = parser.parse_args()
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="hookline-bench-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o755)
            result = _measure(Path(folder), given)
    except (BenchError, ConsoleError, StackError) as error:
        print(f"bench.trace: no result: {error}", file=sys.stderr)
        return 1
    print(f"({time.monotonic() - began:.0f} s in all)")
    print(json.dumps(result))
    return 0


def _measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    day = days.read(given.trace) if given.trace else days.draw(given.seed)
    piece = [each for each in day if given.start <= each.t < given.start + given.duration * given.scale]
    if not any(each.object in {"contact", "deal"} for each in piece):
        raise BenchError(
            "nothing happens in that piece of the day that a model is asked about: choose another --start, or a longer --duration"
        )
    with ExitStack() as stack:
        ports = Ports(folder / "ports.json")
        sandbox = stack.enter_context(SandboxProcess(folder / "sandbox"))
        setting = Setting(stack.enter_context(EmbeddedStack(folder / "stack")), sandbox.url, ports)
        model_port = ports.choose("model")
        model_url = f"http://127.0.0.1:{model_port}"
        for name in ("HOOKLINE_MODEL_REQUESTS_PER_MINUTE", "HOOKLINE_MODEL_TOKENS_PER_MINUTE"):
            del setting.shown[name]
        setting.shown |= {
            "HOOKLINE_PROVIDER": "groq",
            "GROQ_API_KEY": "stand-in",
            "GROQ_BASE_URL": model_url,
            "HOOKLINE_COALESCE_WINDOW_SECONDS": f"{given.window / given.scale:g}",
            "HOOKLINE_QUESTION_REST_SECONDS": f"{given.rest / given.scale:g}",
            "HOOKLINE_PACK_SECONDS": f"{max(LEAST_PACK_SECONDS, PACK_SECONDS / given.scale):g}",
            "HOOKLINE_TENANT_CHANGES_PER_SECOND": f"{round(CHANGES_PER_SECOND * given.scale)}",
        }
        print("Settings of the Hookline process that differ from their defaults:")
        for name, value in setting.shown.items():
            print(f"  {name}={value}")
        print(
            f"{len(piece)} deliveries of {len({each.record for each in piece})} records, {given.duration:.0f} s at {given.scale:g}x, "
            f"model latency {LATENCY} s",
            flush=True,
        )
        bring_up_to_date(setting.settings())
        model = Child(["bench.trace.model", "--port", str(model_port), "--latency", str(LATENCY)], {}, folder, "model")
        stack.callback(model.stop)
        model.wait_for_answer(f"{model_url}/stand-in", START_SECONDS)
        house = Child(["console", "serve", "all"], setting.environment(), folder, "hookline")
        stack.callback(house.stop)
        house.wait_for_answer(setting.ready_url, START_SECONDS)
        return uvloop.run(_Run(setting, sandbox, model_url, [model, house], given).play(piece))


class _Run:
    """One run on servers that are up."""

    def __init__(
        self,
        setting: Setting,
        sandbox: SandboxProcess,
        model_url: str,
        children: list[Child],
        given: argparse.Namespace,
    ) -> None:
        self._setting = setting
        self._sandbox = sandbox
        self._model_url = model_url
        self._children = children
        self._given = given
        self._ids: dict[tuple[str, str, str], tuple[str, str]] = {}

    async def play(self, piece: list[Delivery]) -> dict[str, Any]:
        """Prepare, play, wait until all is through, count."""
        await self._accounts({each.account for each in piece})
        for account, kind, id_ in dict.fromkeys(each.record for each in piece):
            portal = self._portals[account]
            made = await self._sandbox.acall("create_record", account=portal, object=kind, properties={})
            self._ids[account, kind, id_] = portal, str(made["id"])
        await self._quiet()
        _ask(self._model_url, {"forget": True})
        before, since = await self._counted(), int((await self._sandbox.look("/sandbox/state"))["at"])
        firsts = await self._saves(piece)
        await self._quiet()
        after = await self._counted()
        taken = {name: after[name] - before.get(name, 0) for name in after}
        return self._result(piece, taken, firsts, since)

    async def _accounts(self, names: set[str]) -> None:
        settings = self._setting.settings()
        engine = build_engine(settings)
        assert settings.master_keys is not None
        registry = Registry(engine, Keyring(engine, settings.master_keys))
        client = connect(settings, ["hubspot"])["hubspot"]
        self._portals = {}
        try:
            for number, name in enumerate(sorted(names)):
                tenant, portal = f"bench{number}", str(76_000_001 + number)
                await registry.add_tenant(tenant, tenant)
                secret, token = secrets.token_hex(16), f"sandbox-{secrets.token_hex(12)}"
                endpoint = await registry.add_endpoint(tenant, "hubspot", name="app", config={"app_id": portal}, secret=secret)  # fmt: skip
                door = f"{self._setting.public_url}/hooks/{endpoint.id}"
                await self._sandbox.acall("create_app", app_id=portal, client_secret=secret, target_url=door)
                await self._sandbox.acall("create_portal", portal_id=portal, app_id=portal, access_token=token, size=1)
                account = Account(f"hubspot:{portal}", tenant, "hubspot", portal, {"app_id": portal}, {"access_token": token})  # fmt: skip
                await client.provision(account)
                await registry.add_account(
                    tenant, "hubspot", account.id, name=portal, config=account.config, credentials=account.credentials,
                    endpoints=[endpoint.id],
                )  # fmt: skip
                self._portals[name] = account.id
        finally:
            await client.close()
            await engine.dispose()

    async def _saves(self, piece: list[Delivery]) -> set[tuple[str, str, int]]:
        """Play; which saves (account, id, modified at) were the first of a session."""
        loop, given = asyncio.get_running_loop(), self._given
        began, firsts = loop.time(), set()
        last: dict[tuple[str, str, str], float] = {}

        async def one(each: Delivery, *, first: bool) -> None:
            portal, id_ = self._ids[each.record]
            fields = dict(saved(*event) for event in each.events if event[0] not in TEXTS and event[0] != "industry")
            moment = 0
            if fields:
                by = "person" if each.source == "CRM_UI" else "sync"
                told = await self._sandbox.acall("save", account=portal, object=each.object, id=id_, properties=fields, by=by)  # fmt: skip
                moment = int(told["modified_at"])
            for name, value in each.events:
                if name in TEXTS:
                    kind = "note" if name == "note" else "email"
                    await self._sandbox.acall("note", account=portal, object=each.object, id=id_, text=saved(name, value)[1], kind=kind)  # fmt: skip
            if first and moment:
                firsts.add((portal, id_, moment))

        tasks = []
        for each in piece:
            await asyncio.sleep(max(0.0, began + (each.t - given.start) / given.scale - loop.time()))
            for child in self._children:
                child.check()
            first = each.t - last.get(each.record, -1e9) > SESSION_SECONDS
            if any(name not in UNREAD for name, _ in each.events):
                last[each.record] = each.t
            tasks.append(asyncio.create_task(one(each, first=first)))
        await asyncio.gather(*tasks)
        late = loop.time() - began - given.duration
        print(f"played; {max(0.0, late):.1f} s later than planned", flush=True)
        return firsts

    async def _quiet(self) -> None:
        """Until neither CRM nor model has heard anything for a while. Raises BenchError when that does not come."""
        deadline, same, before = time.monotonic() + SETTLE_SECONDS, 0, None
        # Beyond the rest of questions, as scaled: what still waits would be missed.
        enough = 6 + int(2 * self._given.rest / self._given.scale)
        while same < enough:
            if time.monotonic() > deadline:
                raise BenchError(f"not quiet after {SETTLE_SECONDS:.0f} s")
            await asyncio.sleep(0.5)
            state = await self._sandbox.look("/sandbox/state")
            size = (self._sandbox.data / NAME).stat().st_size
            now = (size, (await asyncio.to_thread(_ask, self._model_url))["asked"])
            same = same + 1 if now == before and state["idle"] else 0
            before = now

    async def _counted(self) -> dict[str, float]:
        """What the house says of itself, and the model of the house."""
        await asyncio.sleep(2.5)  # accounts are written every second
        page = await asyncio.to_thread(_page, self._setting.ready_url.replace("/health/ready", "/metrics"))
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name == "hookline_model_joined_total":
                    found["joined"] = sample.value
                if sample.name in {"hookline_insights_total", "hookline_model_cascades_total"}:
                    name = f"{sample.name}:{sample.labels['outcome']}"
                    found[name] = found.get(name, 0) + sample.value
                    if name.startswith("hookline_insights"):
                        mine = f"{sample.labels['analysis']}:{sample.labels['outcome']}"
                        found[mine] = found.get(mine, 0) + sample.value
        seen = await asyncio.to_thread(_ask, self._model_url)
        engine = build_engine(self._setting.settings())
        names = ("calls", "cache_hits", "packed", "input_tokens", "output_tokens", "cost_usd", "packed_saved_usd")
        sums = ", ".join(f"coalesce(sum({name}), 0)" for name in names)
        async with engine.connect() as connection:
            row = (await connection.execute(sa.text(f"select {sums} from llm_usage"))).one()
            spent = await connection.execute(sa.text(
                "select analysis, sum(calls), sum(input_tokens), sum(output_tokens), sum(cost_usd) from llm_usage group by 1"))  # fmt: skip
            at_strong = 0.0
            for analysis, calls, input_tokens, output_tokens, cost in spent:
                at_strong += most_usd("groq", STRONG, int(input_tokens), int(output_tokens))
                taken = {"calls": calls, "input_tokens": input_tokens, "output_tokens": output_tokens, "dollars": cost}
                found |= {f"{name} of {analysis}": float(value) for name, value in taken.items()}
        await engine.dispose()
        return found | dict(zip(names, map(float, row), strict=True)) | {"asked": seen["asked"], "at_strong": at_strong}

    def _result(
        self, piece: list[Delivery], taken: dict[str, float], firsts: set[tuple[str, str, int]], since: int
    ) -> dict[str, Any]:
        first, later = self._latencies(firsts, since)
        naive = bill(piece, STRONG)
        fewest = least(piece, SMALL, SESSION_SECONDS)
        answers = taken["calls"]
        provisional = taken.get("hookline_insights_total:provisional", 0)
        looked = (
            sum(value for name, value in taken.items() if name.startswith("hookline_insights_total:")) - provisional
        )
        unchanged = taken.get("hookline_insights_total:unchanged", 0)
        checks = sum(
            value
            for name, value in taken.items()
            if name.startswith("data_quality:") and not name.endswith((":unchanged", ":provisional"))
        )
        asked = taken["asked"]
        # A record's questions share a call; no two records do.
        unpacked = answers - taken.get("joined", 0)
        scaled_away = (self._given.window + self._given.rest) * (1 - 1 / self._given.scale)
        by_saving = {
            "coalescing_calls": naive.calls - looked,
            "unchanged_input_calls": unchanged,
            "deterministic_checks_calls": checks,
            "no_text_calls": max(0.0, looked - unchanged - checks - taken["cache_hits"] - answers
                                 + taken.get("hookline_model_cascades_total:passed_on", 0)),
            "cache_calls": taken["cache_hits"],
            "provisional_insights": provisional,
            "joined_calls": taken.get("joined", 0),
            "packing_calls": taken["packed"] - taken.get("joined", 0),
            "asked_alone_dollars": round(taken["at_strong"] + taken["packed_saved_usd"], 6),
            "packing_dollars": round(taken["packed_saved_usd"], 6),
            "tiers_dollars": round(taken["at_strong"] - taken["cost_usd"], 6),
            "cascade_passed_on_calls": taken.get("hookline_model_cascades_total:passed_on", 0),
        }  # fmt: skip
        return {
            "trace": str(self._given.trace.name) if self._given.trace else f"seed {self._given.seed}",
            "scale": self._given.scale,
            "coalesce_window_s": self._given.window,
            "question_rest_s": self._given.rest,
            "deliveries": len(piece),
            "naive_calls": naive.calls,
            "questions": answers,
            "calls_unpacked": unpacked,
            "calls": asked,
            "questions_share": round(answers / naive.calls, 4),
            "calls_unpacked_share": round(unpacked / naive.calls, 4),
            "calls_share": round(asked / naive.calls, 4),
            "naive_dollars": round(naive.dollars, 6),
            "dollars": round(taken["cost_usd"], 6),
            "dollars_share": round(taken["cost_usd"] / naive.dollars, 4),
            "least_dollars_share": round(fewest / naive.dollars, 4),
            "p95_first_change_s": _p95(first),
            "p95_later_change_s": round(_p95(later) + scaled_away, 2),
            "p95_later_change_measured_s": _p95(later),
            "by_saving": by_saving,
            "by_analysis": {
                name: {"naive": found} | {"ours": {key: taken.get(f"{key} of {name}", 0.0) for key in found}}
                for name, found in naive.by_analysis.items()
            },
        }

    def _latencies(self, firsts: set[tuple[str, str, int]], since: int) -> tuple[list[int], list[int]]:
        saves, writes = [], []
        for line in (self._sandbox.data / NAME).read_bytes().splitlines():
            found = orjson.loads(line)
            if found.get("kind") == "save" and found["at"] >= since:
                saves.append(_fields(Save, found))
            elif found.get("kind") == "insight_write" and found["at"] >= since:
                writes.append(_fields(InsightWrite, found))
        first = [save for save in saves if counts(save) and (save.account, save.id, save.modified_at) in firsts]
        later = [save for save in saves if counts(save) and (save.account, save.id, save.modified_at) not in firsts]
        return reconcile(first, writes).latencies_ms, reconcile(later, writes).latencies_ms


def _p95(latencies: list[int]) -> float:
    return round(latencies[int(0.95 * (len(latencies) - 1))] / 1000, 3) if latencies else 0.0


def _fields(kind: Any, line: dict[str, Any]) -> Any:
    return kind(**{each.name: line[each.name] for each in dataclasses.fields(kind) if each.name in line})


def _page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def _ask(url: str, told: dict[str, Any] | None = None) -> dict[str, Any]:
    body = json.dumps(told).encode() if told is not None else None
    with urllib.request.urlopen(urllib.request.Request(f"{url}/stand-in", data=body), timeout=10) as answer:
        return dict(json.loads(answer.read()))


if __name__ == "__main__":
    raise SystemExit(main())
