"""`hookline privacy`: erase a person, hand out what is held on one, and see what was done.

Law: says the counts before it changes anything, and asks; prints no personal data. An erasure that was begun goes on
without this command wherever a hydrator runs, and with it when it is given again.
"""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from console.privacy_export import collected
from console.private_file import made
from console.reading import Selection, read_range
from console.runtime import ConsoleError, err, local_settings, need, out, registry, run
from infra.crm.vendors import connect
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec, Received
from infra.privacy.calling import PEOPLE
from infra.privacy.eraser import Eraser, Plan
from infra.privacy.people import People
from infra.privacy.requests import STEPS, Erasure, Erasures
from infra.privacy.runner import TranslatorBacklog
from infra.role import Parts
from schemas.record import RecordRef, RecordSnapshot
from schemas.topics import RECORDS

app = typer.Typer(help="Erase a person's data, or hand out what is held on one.", no_args_is_help=True)
SOURCE = "hookline/privacy"
LOOK_SECONDS = 0.5
_PAGE = 200

Person = Annotated[str, typer.Argument(metavar="PERSON", help="tenant/account/contact/id or tenant/account/lead/id")]


@app.command("erase")
def erase(
    person: Person,
    *,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it would do, and do nothing.")] = False,
    now: Annotated[
        bool,
        typer.Option(
            "--now",
            help="Make the raw deliveries unreadable at once, not with their retention: all of the account's endpoints, everybody in them.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a person everywhere: it cannot be undone."""
    ref = person_named(person)

    async def planned() -> Plan:
        async with eraser() as at:
            return await at.plan(ref)

    _print(run(planned), now=now)
    if plan:
        return
    if not yes and not typer.confirm("Erase? This cannot be undone."):
        raise typer.Exit(1)

    async def command() -> Erasure:
        async with eraser() as at:
            mark = at.people.person_mark(ref)
            begun = await at.erasures.request(ref, mark, by=getpass.getuser(), at_once=now)
            err.print(
                f"Erasure {begun}: interrupted, it goes on by itself where a hydrator runs, or with this command."
            )
            return await _followed(at, begun)

    done = run(command)
    out.print(f"Done ({done.done_at:%Y-%m-%d %H:%M:%S %Z}): {_counts(done.counts)}.")
    if not done.at_once:
        out.print(
            "Raw deliveries that named this person become unreadable with their hour's key, 74 hours after it at the latest; --now does it at once."
        )


@app.command("export")
def export(
    person: Person, file: Annotated[Path, typer.Option("--out", help="File to make; only you may read it (mode 600).")]
) -> None:
    """Write everything that is held on a person as JSON."""
    ref = person_named(person)

    async def command() -> dict[str, int]:
        async with parts() as opened:
            people = People(opened.engine, opened.keyring)
            found = await collected(opened.settings, opened.engine, opened.keyring, people, ref)
            with made(file) as written:
                json.dump(found.content, written, ensure_ascii=False, indent=2)
                written.write("\n")
            mark = people.person_mark(ref)
            audits = Erasures(opened.engine)
            await audits.audit(ref.tenant, "export", mark, by=getpass.getuser(), counts=found.counts)
            return found.counts

    counts = run(command)
    err.print(f"Written to {file}, which only you may read (mode 600): {_counts(counts) or 'nothing is held'}.")
    err.print("It holds a person's data in the clear: hand it over, then delete it.")


@app.command("list")
def list_(
    tenant: Annotated[str, typer.Option(help="Only this tenant's.")] = "",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per erasure and line.")] = False,
) -> None:
    """Erasures, the newest first: whose tenant, how far, how much. Nobody is named who is erased."""

    async def command() -> list[Erasure]:
        async with registry() as (_, _, engine, _):
            return await Erasures(engine).all(tenant)

    found = run(command)
    if as_json:
        for each in found:
            typer.echo(
                json.dumps(
                    {
                        "id": each.id,
                        "tenant": each.tenant,
                        "account": each.account,
                        "asked_by": each.requested_by,
                        "step": each.step,
                        "waiting": each.waiting,
                        "now": each.at_once,
                        "created_at": each.created_at.isoformat(),
                        "done_at": each.done_at.isoformat() if each.done_at else None,
                        "counts": each.counts,
                    }
                )
            )
        return
    if not found:
        out.print("No erasures.")
        return
    table = Table("erasure", "account", "asked by", "begun", "step", "so far")
    for each in found:
        step = each.step if each.done_at else f"{each.step} ({STEPS.index(each.step)}/{len(STEPS) - 1}) {each.waiting}"
        table.add_row(
            each.id,
            f"{each.tenant}/{each.account}",
            each.requested_by,
            f"{each.created_at:%Y-%m-%d %H:%M}",
            step,
            _counts(each.counts),
        )
    out.print(table)


@app.command("index")
def index(tenant: Annotated[str, typer.Option(help="Only this tenant's.")] = "") -> None:
    """Note for everything on `crm.records` whom it mentions: once, for what was published before this release."""

    async def command() -> int:
        async with parts() as opened:
            return await indexed(opened, People(opened.engine, opened.keyring), tenant)

    out.print(f"{run(command)} snapshots read; whom they mention is noted.")


async def indexed(opened: Parts, people: People, tenant: str = "") -> int:
    """Index what lies on `crm.records`; returns how many snapshots. Safe to call again. Raises KafkaError, Unavailable."""
    count = 0
    page: list[RecordSnapshot] = []
    codec = Codec(opened.keyring, SOURCE)
    async for each in read_range(opened.settings, codec, RECORDS, selection=Selection(tenant=tenant)):
        if isinstance(each, Received) and not each.payload.deleted:
            page.append(each.payload)
        if len(page) >= _PAGE:
            await people.index(page)
            count, page = count + len(page), []
    await people.index(page)
    return count + len(page)


def person_named(text: str) -> RecordRef:
    """Raises ConsoleError for what is no person."""
    try:
        ref = RecordRef.parse(text)
    except ValueError as error:
        raise ConsoleError(str(error)) from error
    if ref.object not in PEOPLE:
        raise ConsoleError(f"{ref.object!r} is no person: give a {' or a '.join(sorted(PEOPLE))}")
    return ref


@asynccontextmanager
async def parts() -> AsyncIterator[Parts]:
    """This machine's servers; raises ConsoleError when settings name none."""
    settings = local_settings()
    need(settings, "kafka_url", "database_url", "master_keys")
    opened = Parts(settings)
    await opened.start()
    try:
        yield opened
    finally:
        await opened.stop()


@asynccontextmanager
async def eraser() -> AsyncIterator[Eraser]:
    """An eraser for the length of one command."""
    async with AsyncExitStack() as closing:
        opened = await closing.enter_async_context(parts())
        publisher = Publisher(opened.settings, Codec(opened.keyring, SOURCE), client_id="hookline-privacy")
        closing.push_async_callback(publisher.stop)
        await publisher.start()
        clients = connect(opened.settings)
        for client in clients.values():
            closing.push_async_callback(client.close)
        yield Eraser(
            opened.engine,
            opened.keyring,
            publisher,
            accounts=opened.directory,
            clients=clients,
            backlog=TranslatorBacklog(opened.settings),
            settle_seconds=opened.settings.privacy_settle_seconds,
        )


async def _followed(at: Eraser, erasure_id: str) -> Erasure:
    said = ""
    while True:
        erasure = await at.run(erasure_id)
        if erasure is None:
            raise ConsoleError(f"erasure {erasure_id} is gone: has somebody emptied the database?")
        if erasure.done_at:
            return erasure
        now = erasure.waiting or f"{erasure.step}, waiting for what is under way to end"
        if now != said:
            err.print(f"  {now}")
            said = now
        await asyncio.sleep(LOOK_SECONDS)


def _print(plan: Plan, *, now: bool) -> None:
    mentioned = ", ".join(f"{count} {object_}" for object_, count in plan.mentioned_in.items()) or "none"
    out.print(f"rows on this person: {_counts(plan.rows) or 'none'}")
    out.print(
        f"records that mention them: {mentioned}; each is read from the CRM and analysed again, its history keeps scores alone"
    )
    out.print(f"data keys to be destroyed: {plan.keys}")
    if now:
        out.print(
            f"raw deliveries at once: {plan.delivery_keys} hours of {plan.endpoints} endpoints become unreadable, whomever they "
            "speak of: they, their refused requests and their dead letters can be neither shown, replayed nor redriven"
        )
    else:
        out.print(
            f"raw deliveries: {plan.delivery_keys} hours of {plan.endpoints} endpoints, unreadable with retention"
        )


def _counts(counts: object) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(dict(counts).items()))  # type: ignore[call-overload]  # mappings of counts
