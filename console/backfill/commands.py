"""`hookline backfill`: every record that a CRM holds already, first what it will take."""

from __future__ import annotations

import asyncio
import getpass
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from console.backfill.planner import plan as planned
from console.backfill.runner import Runner
from console.backfill.store import RESUMABLE, Backfill, Backfills
from console.runtime import ConsoleError, err, need, out, registry
from console.runtime import run as run_async
from infra.accounts import Registry
from infra.crm.client import AccountUnavailable, CrmClient, CrmUnavailable
from infra.crm.vendors import connected
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec
from infra.keyring import Keyring
from infra.settings import Settings
from schemas.topics import CHANGES_BULK

app = typer.Typer(help="Every record that a CRM holds already, on the bulk lane.", no_args_is_help=True)

SOURCE = "hookline/console"
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="As `hookline backfill list` shows it.")]
Rate = Annotated[float | None, typer.Option(min=0.1, max=5_000, help="Records a second; the setting's without.")]
Calls = Annotated[
    int | None, typer.Option("--calls-per-day", min=1, help="Calls of the account's API a day, reading included.")
]
Kinds = Annotated[list[str] | None, typer.Option("--object", help="Only this kind of record; may be given again.")]


@dataclass(frozen=True, slots=True)
class Desk:
    """What a command works with."""

    registry: Registry
    settings: Settings
    engine: AsyncEngine
    keyring: Keyring
    backfills: Backfills


@asynccontextmanager
async def desk() -> AsyncIterator[Desk]:
    """For the length of one command."""
    async with registry() as (found, settings, engine, keyring):
        yield Desk(found, settings, engine, keyring, Backfills(engine))


@asynccontextmanager
async def crm(settings: Settings, name: str) -> AsyncIterator[CrmClient]:
    """A client, closed afterwards; what the CRM refuses becomes a message."""
    try:
        async with connected(settings, name) as client:
            yield client
    except (AccountUnavailable, CrmUnavailable) as error:
        raise ConsoleError(f"{error}. See `hookline account check`.") from error


@app.command("plan")
def plan(
    account: Annotated[str, typer.Argument(help="e.g. hubspot:145883449")],
    kinds: Kinds = None,
    rate: Rate = None,
    calls_per_day: Calls = None,
    as_json: AsJson = False,
) -> None:
    """Count what there is and say what reading it takes. Nothing runs; `hookline backfill run ID` runs it."""

    async def command() -> Backfill:
        async with desk() as at:
            known = await at.registry.account(account)
            async with crm(at.settings, known.crm) as client:
                return await planned(
                    at.settings, at.backfills, client, known,
                    objects=kinds or (), rate=rate, calls_per_day=calls_per_day, by=getpass.getuser(),
                )  # fmt: skip

    _print(run_async(command), as_json=as_json)


@app.command("run")
def run(
    id_: Id,
    rate: Rate = None,
    background: Annotated[bool, typer.Option("--background", help="Let `hookline serve api` run it.")] = False,
) -> None:
    """Run a plan, or go on where it was stopped. Ctrl-C ends after the page under way; run it again to go on."""

    async def command() -> Backfill:
        async with desk() as at:
            one = await at.backfills.get(id_)
            if one.state not in RESUMABLE:
                raise ConsoleError(
                    f"backfill {id_} is {one.state}: plan a new one with `hookline backfill plan {one.account}`"
                )
            if rate is not None:
                await at.backfills.update(id_, rate=rate)
            if background:
                await at.backfills.update(id_, only_from=RESUMABLE, state="queued")
                return await at.backfills.get(id_)
            need(at.settings, "kafka_url")
            return await _run_here(at, one)

    found = run_async(command)
    _print(found, as_json=False)
    if found.state == "paused":
        raise typer.Exit(130)


async def _run_here(at: Desk, one: Backfill) -> Backfill:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        err.print("Stopping after the page under way.")
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupted)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    publisher = Publisher(at.settings, Codec(at.keyring, SOURCE), client_id="hookline-console")
    try:
        async with at.backfills.running(one.id) as held, crm(at.settings, one.account.partition(":")[0]) as client:
            if not held:
                raise ConsoleError(f"backfill {one.id} is running already: `hookline backfill show {one.id}`")
            await publisher.start()
            with Progress(*columns, console=err) as bar:
                task = bar.add_task("announced", total=one.records or None)

                def progress(now: Backfill) -> None:
                    text = f"waits: {now.waiting}" if now.waiting else "announced"
                    bar.update(task, completed=now.records_done, description=text)

                return await Runner(
                    await at.backfills.get(one.id), at.backfills, client, at.registry,
                    lambda changes: publisher.publish(CHANGES_BULK, changes), stop=stop, progress=progress,
                ).run()  # fmt: skip
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        await publisher.stop()


@app.command("list")
def list_(
    account: Annotated[str, typer.Option(help="Only this account's.")] = "",
    tenant: Annotated[str, typer.Option(help="Only this tenant's.")] = "",
    as_json: AsJson = False,
) -> None:
    """All backfills, newest first."""

    async def command() -> list[Backfill]:
        async with desk() as at:
            return await at.backfills.all(tenant, account)

    found = run_async(command)
    if as_json:
        for one in found:
            typer.echo(json.dumps(one.plain()))
        return
    table = Table("backfill", "account", "state", "announced", "of", "rate", "waits for")
    for one in found:
        table.add_row(
            one.id, one.account, one.state, str(one.records_done), str(one.records), f"{one.rate:g}/s", one.waiting
        )
    out.print(table if found else "No backfills yet: `hookline backfill plan ACCOUNT`.")


@app.command("show")
def show(id_: Id, as_json: AsJson = False) -> None:
    """One backfill: by kind of record, how far it is."""

    async def command() -> Backfill:
        async with desk() as at:
            return await at.backfills.get(id_)

    _print(run_async(command), as_json=as_json)


@app.command("cancel")
def cancel(id_: Id) -> None:
    """End it after the page under way. What was announced is read all the same."""

    async def command() -> str:
        async with desk() as at:
            return await at.backfills.cancel(await at.backfills.get(id_))

    out.print(f"backfill {id_} is {run_async(command)}.")


def _print(one: Backfill, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(one.plain()))
        return
    table = Table(
        "kind",
        "records",
        "announced",
        "calls at most",
        title=f"backfill {one.id} of {one.account}: {one.state}",
        title_justify="left",
    )
    for kind in one.objects:
        counted = one.planned.get(kind, {})
        table.add_row(
            kind, str(counted.get("records", "?")), str(one.done.get(kind, 0)), str(counted.get("calls", "?"))
        )
    out.print(table)
    out.print(
        f"{one.records} records at {one.rate:g} a second, {one.calls} calls of at most {one.calls_per_day} a day: "
        f"{one.days:.1f} days" if one.days >= 1 else
        f"{one.records} records at {one.rate:g} a second, {one.calls} calls of at most {one.calls_per_day} a day: "
        f"about {max(1, round(one.records / one.rate / 60))} min"
    )  # fmt: skip
    if one.waiting:
        out.print(f"waits: {one.waiting}", markup=False)
    if one.error:
        out.print(f"error: {one.error}", markup=False)
    if one.state in RESUMABLE and one.state not in {"running", "queued"}:
        out.print(f"Next: `hookline backfill run {one.id}`; how far the reading is: `hookline status`.")
