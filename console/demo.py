"""`hookline demo`: the whole journey on this machine, with a sandbox CRM whose people edit records.

Law: it runs what production runs, through the same front door, topics and stores; it decides by the sandbox's journal.
Each run has a tenant and accounts of its own, so that earlier runs are not in the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import secrets
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
import typer
import uvloop
from prometheus_client import Counter
from rich.console import Console
from rich.live import Live

from console import dead_letters
from console.demo_report import Report, judge
from console.demo_view import Progress, render, summary
from console.reading import read
from console.roles import running
from console.runtime import ConsoleError, err, read_settings
from console.sandbox import SandboxProcess
from console.serve import bring_up_to_date, embedded_settings, stack_of
from infra import metrics
from infra.accounts import Account, Registry
from infra.crm.vendors import connect
from infra.database.engine import build_engine
from infra.database.tables import accounts, endpoints, insights, set_aside
from infra.kafka.codec import Codec, Received
from infra.keyring import Keyring
from infra.local.engine import StackError
from infra.local.sandbox.journal import Journal
from infra.settings import ROLES, Settings
from infra.telemetry import configure
from schemas.topics import RECORDS

SETTLE_SECONDS = 60.0
QUIET_SECONDS = 1.5
"""The pipeline is done when nothing has moved for this long; an echo of ours would have moved something."""


@dataclass(frozen=True)
class World:
    """What was registered for this run."""

    tenant: str
    accounts: tuple[str, ...]


def demo(
    seconds: Annotated[float, typer.Option(help="How long people edit.", min=3, max=3600)] = 45,
    rate: Annotated[float, typer.Option(help="Saves per second, all CRMs together.", min=0.1, max=500)] = 6,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything up afterwards, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="No view; the last line is one JSON object.")] = False,
    picture: Annotated[Path | None, typer.Option(help="Write the last frame as SVG to this file.")] = None,
) -> None:
    """Run the whole journey on the embedded stack and a sandbox CRM; exit 0 only if everything is accounted for."""
    began = time.monotonic()
    settings = read_settings().model_copy(update={"log_level": "WARNING"})
    folder = settings.data_dir / "demo"
    stack, sandbox = stack_of(settings), SandboxProcess(folder)
    try:
        with ThreadPoolExecutor(2) as pool:
            starting = pool.submit(sandbox.start)
            addresses = stack.start()
            starting.result()
        port = _free_port()
        complete = embedded_settings(settings, addresses, settings.data_dir).model_copy(
            update={
                "sandbox_url": sandbox.url,
                "ingress_port": port,
                "public_url": f"http://127.0.0.1:{port}",
                "ops_port": 0,
            }
        )
        bring_up_to_date(complete)
        report = uvloop.run(
            _Demo(complete, sandbox, seconds, rate, keep=keep, quiet=as_json, picture=picture, began=began).run()
        )
    except StackError as error:
        raise ConsoleError(str(error)) from error
    finally:
        sandbox.stop()
        stack.stop()
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    raise typer.Exit(0 if report.accounted_for else 1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def total(counter: Counter, **labels: str) -> int:
    """Sum of a counter over all its label values that agree with `labels`."""
    return int(
        sum(
            sample.value
            for metric in counter.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
            and all(sample.labels.get(name) == value for name, value in labels.items())
        )
    )


def held() -> int:
    """Messages that the roles of this process hold: in work, or waiting for their record's turn."""
    return int(sum(sample.value for metric in metrics.HELD_MESSAGES.collect() for sample in metric.samples))


class _Demo:
    def __init__(
        self,
        settings: Settings,
        sandbox: SandboxProcess,
        seconds: float,
        rate: float,
        *,
        keep: bool,
        quiet: bool,
        picture: Path | None,
        began: float,
    ) -> None:
        self._settings = settings
        self._sandbox = sandbox
        self._seconds = seconds
        self._rate = rate
        self._keep = keep
        self._quiet = quiet
        self._picture = picture
        self._began = began
        self._engine = build_engine(settings)
        assert settings.master_keys is not None
        self._keyring = Keyring(self._engine, settings.master_keys)
        provider = (
            "Groq"
            if settings.provider == "groq" or (settings.provider == "auto" and settings.groq_api_key)
            else "the offline rules"
        )
        self._progress = Progress(provider=provider, page=sandbox.url, seconds=seconds)

    async def run(self) -> Report:
        configure(self._settings, "hookline-demo")
        self._log_to_file()
        world = await self._register()
        try:
            async with running(self._settings, ROLES):
                await self._provision(world)
                err.print(f"[dim]everything is ready after {time.monotonic() - self._began:.1f} s[/]")
                with self._view() as live:
                    await self._work(world, live)
                report = await self._report(world)
                if not self._quiet:
                    page = await self._page_to_look_at(world)
                    Console().print(summary(report, page, kept=self._keep))
                    if self._keep:
                        await self._stay(page)
                return report
        finally:
            await self._forget(world)
            await self._engine.dispose()

    async def _forget(self, world: World) -> None:
        """The sandbox ends with this run: its accounts and endpoints would only look broken. Insights stay."""
        async with self._engine.begin() as connection:
            for table in (set_aside, endpoints, accounts):
                await connection.execute(sa.delete(table).where(table.c.tenant == world.tenant))

    def _log_to_file(self) -> None:
        """Logs of this run go beside its journal: the terminal belongs to the view."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream((self._sandbox.data / "demo.log").open("w"))

    # -- setting up ----------------------------------------------------------------------------------------------------

    async def _register(self) -> World:
        """One HubSpot app with two portals and one Salesforce org, as an admin would register them."""
        run = secrets.randbelow(900_000) + 100_000
        tenant = f"demo-{run}"
        registry = Registry(self._engine, self._keyring)
        await registry.add_tenant(tenant, "Demo")
        app_id, secret = str(run), secrets.token_hex(16)
        door = self._settings.public_url
        hubspot = await registry.add_endpoint(
            tenant, "hubspot", name="HubSpot app", config={"app_id": app_id}, secret=secret
        )
        salesforce = await registry.add_endpoint(tenant, "salesforce", name="Salesforce org")
        await self._sandbox.acall(
            "create_app",
            app_id=app_id,
            client_secret=secret,
            target_url=f"{door}/hooks/{hubspot.id}",
            duplicate_rate=0.02,
            delay_rate=0.05,
        )
        accounts = []
        for place in range(2):
            token = f"sandbox-{secrets.token_hex(12)}"
            portal = str(run * 10 + place)
            await self._sandbox.acall("create_portal", portal_id=portal, app_id=app_id, access_token=token, size=60)
            account = await registry.add_account(
                tenant, "hubspot", f"hubspot:{portal}", name=f"Portal {place + 1}", config={"app_id": app_id},
                credentials={"access_token": token}, endpoints=[hubspot.id],
            )  # fmt: skip
            accounts.append(account.id)
        consumer = {"consumer_key": f"key-{secrets.token_hex(8)}", "consumer_secret": secrets.token_hex(16)}
        org = f"00D{secrets.token_hex(6)}"
        made = await self._sandbox.acall(
            "create_org", org_id=org, access_token=f"sandbox-{secrets.token_hex(12)}",
            target_url=f"{door}/hooks/{salesforce.id}", size=60, **consumer,
        )  # fmt: skip
        account = await registry.add_account(
            tenant, "salesforce", made["account"], name="Org",
            config={
                "instance_url": self._sandbox.url.replace("http:", "https:"),
                "integration_user": made["integration_user"],
            },
            credentials=consumer,
            endpoints=[salesforce.id],
        )  # fmt: skip
        accounts.append(account.id)
        return World(tenant, tuple(accounts))

    async def _provision(self, world: World) -> None:
        """Make our properties and fields, as `hookline account add` does."""
        registry = Registry(self._engine, self._keyring)
        clients = connect(self._settings)
        try:
            accounts: list[Account] = [await registry.account(id_) for id_ in world.accounts]
            await asyncio.gather(*(clients[account.crm].provision(account) for account in accounts))
        finally:
            await asyncio.gather(*(client.close() for client in clients.values()))

    # -- running -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _view(self) -> Any:
        if self._quiet or not sys.stdout.isatty():
            yield None
            return
        with Live(render(self._progress), refresh_per_second=4, transient=True) as live:
            yield live

    async def _work(self, world: World, live: Live | None) -> None:
        start = time.monotonic()
        await self._sandbox.acall("people_start", rate=self._rate, accounts=list(world.accounts))
        while (elapsed := time.monotonic() - start) < self._seconds:
            await self._look(elapsed, live)
            await asyncio.sleep(min(0.5, max(0.0, self._seconds - elapsed)))
        await self._sandbox.acall("people_stop")
        self._progress.phase = "people have stopped; the last insights are on their way"
        deadline = time.monotonic() + SETTLE_SECONDS + self._settings.coalesce_window_seconds
        quiet_since, before = time.monotonic(), (-1, -1, -1, -1)
        while time.monotonic() < deadline:
            state = await self._look(time.monotonic() - start, live)
            moved = (self._progress.changes, self._progress.records, self._progress.insights, self._progress.crm_writes)
            if moved != before or not state["idle"]:
                quiet_since, before = time.monotonic(), moved
            elif (
                time.monotonic() - quiet_since > QUIET_SECONDS
                and self._progress.settled >= self._progress.changed_records
                and held() == 0
            ):
                break
            elif time.monotonic() - quiet_since > QUIET_SECONDS + self._settings.coalesce_window_seconds * 2:
                break  # nothing moves any more: what is not settled by now is dead-lettered or lost, and the report says which
            await asyncio.sleep(0.25)
        self._progress.phase = "done"
        await self._look(time.monotonic() - start, live)
        if self._picture is not None:
            recorder = Console(record=True, width=110, file=io.StringIO())
            recorder.print(render(self._progress))
            recorder.save_svg(str(self._picture), title="make demo")

    async def _look(self, elapsed: float, live: Live | None) -> dict[str, Any]:
        """Take stock and show it."""
        journal, state = await asyncio.gather(
            self._sandbox.look("/sandbox/journal/summary"), self._sandbox.look("/sandbox/state")
        )
        shown = self._progress
        shown.elapsed = elapsed
        shown.saves, shown.changed_records = journal["saves"], journal["records"]
        shown.settled = journal["settled"] + journal["gone"]
        shown.p50_ms, shown.p95_ms = journal["p50_ms"], journal["p95_ms"]
        shown.crm_writes = journal["insight_writes"]
        shown.deliveries = total(metrics.REQUESTS, answer="accepted")
        shown.changes = total(metrics.CHANGES)
        shown.records = total(metrics.SNAPSHOTS, outcome="published")
        shown.insights = total(metrics.INSIGHTS, outcome="published")
        shown.unchanged = total(metrics.INSIGHTS, outcome="unchanged")
        shown.model_calls = total(metrics.MODEL_CALLS)
        shown.cache_hits = total(metrics.MODEL_CACHE, outcome="hit")
        shown.dead_letters = total(metrics.DEAD_LETTERS)
        if live is not None:
            shown.newest.clear()
            shown.newest.extend(await self._newest())
            live.update(render(shown))
        return dict(state)

    async def _newest(self) -> list[str]:
        columns = (
            insights.c.account,
            insights.c.object,
            insights.c.record_id,
            insights.c.score,
            insights.c.grade,
            insights.c.payload,
        )
        async with self._engine.connect() as connection:
            rows = await connection.execute(
                sa.select(*columns)
                .where(insights.c.analysis == "lead_intel", insights.c.score.is_not(None))
                .order_by(insights.c.written_at.desc())
                .limit(8)
            )
            return [
                f"{row.score:>3} {row.grade}  {row.account.partition(':')[0]} {row.object} {row.record_id}: {row.payload['summary']}"
                for row in rows
            ]

    # -- judging -------------------------------------------------------------------------------------------------------

    async def _report(self, world: World) -> Report:
        laid_aside = await dead_letters.of_tenant(self._settings, self._keyring, world.tenant)
        excused = {(d.account, d.object, d.record_id) for d in laid_aside if d.account and d.object and d.record_id}
        snapshots = [
            message.payload
            async for message in read(self._settings, Codec(self._keyring, "hookline/console"), RECORDS)
            if isinstance(message, Received) and message.payload.tenant == world.tenant
        ]
        report = Report(
            changes=self._progress.changes,
            records=self._progress.records,
            insights=self._progress.insights,
            model_calls=self._progress.model_calls,
            cache_hits=self._progress.cache_hits,
            dead_letters=len(laid_aside),
        )
        async with self._engine.connect() as connection:
            rows = await connection.execute(
                sa.select(insights.c.analysis, sa.func.count())
                .where(insights.c.tenant == world.tenant)
                .group_by(insights.c.analysis)
            )
            report.by_analysis = {str(name): int(count) for name, count in rows}
        report.postgres_rows = sum(report.by_analysis.values())
        return await asyncio.to_thread(judge, report, Journal(self._sandbox.data), excused, snapshots)

    async def _page_to_look_at(self, world: World) -> str:
        """The best-scored deal's page: live while the sandbox is up, and saved for afterwards."""
        async with self._engine.connect() as connection:
            row = (
                await connection.execute(
                    sa.select(insights.c.account, insights.c.object, insights.c.record_id)
                    .where(
                        insights.c.tenant == world.tenant,
                        insights.c.analysis == "lead_intel",
                        insights.c.score.is_not(None),
                    )
                    .order_by((insights.c.object == "deal").desc(), insights.c.score.desc())
                    .limit(1)
                )
            ).first()
        path = f"/records/{row.account}/{row.object}/{row.record_id}" if row else "/"
        if self._keep:
            return f"{self._sandbox.url}{path}"
        saved = self._sandbox.data / "record.html"
        saved.write_text(await asyncio.to_thread(self._sandbox.page, path))
        return saved.resolve().as_uri()

    async def _stay(self, page: str) -> None:
        err.print(f"Everything stays up until Ctrl-C; all records: {self._sandbox.url} , this one: {page}")
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
