"""`hookline dead-letters`: what could not go on, why, and another try.

Law: what changes something says first what it will do, asks, and tells afterwards what it did. Ctrl-C ends after the page
under way: each letter is then done or as it was. A second Ctrl-C ends at once.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.syntax import Syntax
from rich.text import Text

from console.dead_letters.filter import Filter, LetterId
from console.dead_letters.index import Count, Entry, Index
from console.dead_letters.redrive import DEFAULT_RATE, Done, Redrive, original_value
from console.dead_letters.showing import (
    KINDS,
    count_json,
    counts_table,
    destination_of,
    entries_table,
    entry_json,
    letter_json,
    opened,
    remedy,
)
from console.reading import reader
from console.runtime import ConsoleError, err, need, out, registry, run
from console.times import moment
from infra.accounts import Account
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec, Received
from infra.kafka.letters import GOES_TO
from infra.keyring import Keyring
from infra.settings import Settings
from schemas.dead_letter import DeadLetter
from schemas.topics import DELIVERIES, Topic

app = typer.Typer(help="What could not go on, why, and another try.", no_args_is_help=True)

SOURCE = "hookline/console"
INTERRUPTED = 130

Tenant = Annotated[str, typer.Option(help="Only this tenant's.")]
AccountOption = Annotated[str, typer.Option(help="Only this account's, e.g. hubspot:145883449.")]
Stage = Annotated[str, typer.Option(help="Where it failed: translator, hydrator, analyst, sink:hubspot, ...")]
CauseOption = Annotated[str, typer.Option(help="e.g. CRM_REFUSED_WRITE.")]
Object = Annotated[str, typer.Option("--object", help="contact, company, deal, ...")]
Record = Annotated[str, typer.Option(help="Only of this record, by the CRM's id.")]
KindOption = Annotated[
    str, typer.Option("--kind", help="poison: the pipeline failed; account: for the account's admin.")
]
Since = Annotated[str, typer.Option(help="From then on: 2026-11-23T14:00Z, or 2h ago.")]
Until = Annotated[str, typer.Option(help="Before then.")]
StateOption = Annotated[str, typer.Option("--state", help="open, redriven, discarded or all.")]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Letters, e.g. 3-1042; without any, by filter.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
All = Annotated[bool, typer.Option("--all", help="Every letter, where no filter is given.")]


@dataclass(frozen=True, slots=True)
class Desk:
    """What a command works with."""

    settings: Settings
    keyring: Keyring
    engine: Any
    index: Index
    codec: Codec
    accounts: dict[str, Account]


@asynccontextmanager
async def desk() -> AsyncIterator[Desk]:
    """For the length of one command; the index has caught up."""
    async with registry() as (found, settings, engine, keyring):
        need(settings, "kafka_url")
        codec = Codec(keyring, SOURCE)
        index = Index(settings, engine, codec)
        await index.catch_up()
        yield Desk(settings, keyring, engine, index, codec, {each.id: each for each in await found.accounts()})


@app.command("list")
def list_(
    tenant: Tenant = "",
    account: AccountOption = "",
    stage: Stage = "",
    cause: CauseOption = "",
    object_: Object = "",
    record: Record = "",
    kind: KindOption = "",
    since: Since = "",
    until: Until = "",
    state: StateOption = "open",
    count: Annotated[int, typer.Option("-n", help="How many of the newest to show.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Counts by cause with what to do, and the newest letters."""
    chosen = _filter(tenant, account, stage, cause, object_, record, kind, since, until, state)

    async def command() -> tuple[list[Count], list[Entry]]:
        async with desk() as at:
            return await at.index.counts(chosen), await at.index.entries(chosen, count)

    counts, entries = run(command)
    if as_json:
        typer.echo(json.dumps({"counts": [count_json(c) for c in counts], "letters": [entry_json(e) for e in entries]}))
        return
    if not counts:
        out.print("No dead letters." if not chosen.narrow else "No dead letters match.")
        return
    out.print(counts_table(counts))
    out.print(entries_table(entries))
    total = sum(one.letters for one in counts)
    if total > len(entries):
        out.print(f"The newest {len(entries)} of {total}; more with -n.")
    out.print("Next: `hookline dead-letters show ID`, then `redrive` or `discard`.")


@app.command("show")
def show(
    letter: Annotated[str, typer.Argument(metavar="ID", help="e.g. 3-1042")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """One letter with its original, decrypted where its key still lives. It shows a customer's data: mind the terminal."""
    wanted = LetterId.parse(letter)

    async def command() -> tuple[Entry, Received[DeadLetter] | None, dict[str, Any] | None, str]:
        async with desk() as at:
            entry = await at.index.entry(wanted)
            if entry is None:
                raise ConsoleError(f"there is no letter {wanted}: `hookline dead-letters list --state all`")
            async with reader(at.settings) as consumer:
                received = (await at.index.letters(consumer, [wanted])).get(wanted)
                if received is None:
                    return entry, None, None, entry.detail
                value = received.payload.original_value or await original_value(consumer, received.payload)
            return entry, received, *await opened(at.codec, received.payload, value)

    entry, received, payload, why_not = run(command)
    if as_json:
        shown = letter_json(entry, received, payload, why_not) if received else entry_json(entry)
        typer.echo(json.dumps(shown, ensure_ascii=False))
        return
    _print(entry, received)
    if payload is None:
        out.print(Text(f"original       cannot be read: {why_not}"))
    else:
        out.print(Syntax(json.dumps(payload, ensure_ascii=False, indent=2), "json", word_wrap=True))


def _print(entry: Entry, received: Received[DeadLetter] | None) -> None:
    lines = [
        ("letter", f"{entry.id}, {entry.state}" + (f", by {entry.handled_by}" if entry.handled_by else "")),
        ("cause", f"{entry.cause} ({entry.kind}: {KINDS[entry.kind]})"),
        ("detail", entry.detail or "-"),
        ("what to do", remedy(entry.cause)),
        ("stage", f"{entry.stage}, attempt {entry.attempt}"),
        ("at", f"{entry.at:%Y-%m-%d %H:%M:%S}Z"),
        ("tenant", entry.tenant),
        ("account", entry.account or "-"),
        ("record", f"{entry.object}/{entry.record_id}" if entry.record_id else "-"),
    ]
    if received is not None:
        letter = received.payload
        lines += [
            ("came from", f"{letter.original_topic}, partition {letter.original_partition}, offset {letter.original_offset}"),
            ("redrive to", destination_of(letter) or "nowhere"),
            ("trace", received.envelope.traceparent or "-"),
        ]  # fmt: skip
    for name, value in lines:
        out.print(Text(f"{name:<14} {value}"))


@app.command("redrive")
def redrive(
    ids: Ids = None,
    tenant: Tenant = "",
    account: AccountOption = "",
    stage: Stage = "",
    cause: CauseOption = "",
    object_: Object = "",
    record: Record = "",
    kind: KindOption = "",
    since: Since = "",
    until: Until = "",
    everything: All = False,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done, and stop.")] = False,
    yes: Yes = False,
    rate: Annotated[float, typer.Option(min=0.1, help="Letters a second at most.")] = DEFAULT_RATE,
    repeat: Annotated[
        bool, typer.Option("--repeat", help="Also those that were redriven before; harmless, see the documentation.")
    ] = False,
) -> None:
    """Send letters back to where they failed: the given ones, or all that a filter matches. Mend the cause first."""
    chosen = _filter(
        tenant, account, stage, cause, object_, record, kind, since, until, "all" if repeat else "open"
    )  # fmt: skip
    _demand(ids, chosen, everything=everything)

    async def command() -> tuple[int, Done | None]:
        async with desk() as at:
            letters, counts, entries = await _chosen(at, ids, chosen)
            for line in _planned(counts, entries, at.accounts, len(letters), rate):
                out.print(line)
            if plan or not letters or not _agreed(yes, f"Redrive {len(letters)} letters?"):
                return len(letters), None
            return len(letters), await _send(at, letters, rate=rate, repeat=repeat)

    wanted, done = run(command)
    if done is None:
        return
    _tell(done, wanted)
    if done.looked_at < wanted:
        raise typer.Exit(INTERRUPTED)


async def _send(at: Desk, letters: Sequence[LetterId], *, rate: float, repeat: bool) -> Done:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        err.print("Stopping after the letters under way; Ctrl-C again ends at once.")
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupted)
    publisher = Publisher(at.settings, at.codec, client_id="hookline-console")
    work = Redrive(at.settings, at.engine, at.keyring, at.index, publisher, getpass.getuser())
    try:
        await publisher.start()
        with _progress() as bar:
            task = bar.add_task("redriving", total=len(letters))
            return await work.run(
                letters,
                repeat=repeat,
                rate=rate,
                stop=stop,
                progress=lambda done: bar.update(task, completed=done.looked_at),
            )
    except BaseException:
        err.print(
            f"Stopped: {work.done.redriven} of {len(letters)} were redriven; run it again to go on with the others."
        )
        raise
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        await publisher.stop()


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=err
    )


def _tell(done: Done, wanted: int) -> None:
    where = ", ".join(f"{number} to {topic}" for topic, number in sorted(done.by_topic.items()))
    out.print(f"{done.redriven} redriven" + (f": {where}" if where else "") + ".")
    for why, number in done.left.items():
        out.print(f"{number} left open: {why}.", markup=False)
    if done.left:
        out.print("What cannot be redriven is yours to discard: `hookline dead-letters discard`.")
    if done.elsewhere:
        out.print(f"{done.elsewhere} were redriven or discarded by somebody else meanwhile.")
    if done.looked_at < wanted:
        out.print(f"Stopped: {wanted - done.looked_at} were not looked at and are as they were. Run it again to go on.")
    if done.redriven:
        out.print("What fails again comes back as a new letter with the next attempt: `hookline dead-letters list`.")


@app.command("discard")
def discard(
    ids: Ids = None,
    tenant: Tenant = "",
    account: AccountOption = "",
    stage: Stage = "",
    cause: CauseOption = "",
    object_: Object = "",
    record: Record = "",
    kind: KindOption = "",
    since: Since = "",
    until: Until = "",
    everything: All = False,
    yes: Yes = False,
    undo: Annotated[bool, typer.Option("--undo", help="Open them again.")] = False,
) -> None:
    """Take letters off the list of what is open: nothing is deleted, and `--undo` opens them again."""
    chosen = _filter(
        tenant, account, stage, cause, object_, record, kind, since, until, "discarded" if undo else "open"
    )
    _demand(ids, chosen, everything=everything)

    async def command() -> int | None:
        async with desk() as at:
            letters, counts, _ = await _chosen(at, ids, chosen)
            if counts:
                out.print(counts_table(counts))
            verb = "Open" if undo else "Discard"
            if not letters or not _agreed(yes, f"{verb} {len(letters)} letters?"):
                return None if letters else 0
            return await at.index.discard(letters, getpass.getuser(), undo=undo)

    done = run(command)
    if done is not None:
        out.print(f"{done} letters {'are open again' if undo else 'discarded'}.")


# What both ask first


def _filter(
    tenant: str, account: str, stage: str, cause: str, object_: str, record: str, kind: str, since: str, until: str, state: str,
) -> Filter:  # fmt: skip
    return Filter(
        tenant, account, stage, cause.upper(), object_, record, kind, moment(since), moment(until), state  # type: ignore[arg-type]  # checked by Filter
    )  # fmt: skip


def _demand(ids: Sequence[str] | None, chosen: Filter, *, everything: bool) -> None:
    if ids and chosen.narrow:
        raise ConsoleError("give letters or a filter, not both")
    if not ids and not chosen.narrow and not everything:
        raise ConsoleError("which letters? Give their ids, a filter such as --tenant or --cause, or --all")


async def _chosen(
    at: Desk, ids: Sequence[str] | None, chosen: Filter
) -> tuple[list[LetterId], list[Count], list[Entry]]:
    """The letters that are meant, counted; entries only where they were given one by one."""
    if not ids:
        return await at.index.ids(chosen), await at.index.counts(chosen), []
    entries = []
    for letter in dict.fromkeys(LetterId.parse(each) for each in ids):
        entry = await at.index.entry(letter)
        if entry is None:
            raise ConsoleError(f"there is no letter {letter}: `hookline dead-letters list --state all`")
        if chosen.state not in {entry.state, "all"}:
            raise ConsoleError(f"letter {letter} is {entry.state}, not {chosen.state}" + _HOW.get(entry.state, ""))
        if entry.state == "discarded" and chosen.state == "all":
            raise ConsoleError(f"letter {letter} is discarded{_HOW['discarded']}")
        entries.append(entry)
    counts = [Count(e.cause, e.stage, e.original_topic, 1, e.at, e.at) for e in entries]
    return [entry.id for entry in entries], counts, entries


_HOW = {
    "redriven": ": --repeat redrives it once more",
    "discarded": ": open it again with `hookline dead-letters discard --undo`",
}


def _planned(
    counts: Sequence[Count], entries: Sequence[Entry], accounts: dict[str, Account], total: int, rate: float
) -> list[Any]:
    """What will happen, and what will not help."""
    if not total:
        return ["Nothing to redrive: no open letter matches."]
    lines: list[Any] = [counts_table(counts)]
    to: dict[str, int] = {}
    for count in counts:
        topic: Topic[Any] | None = GOES_TO.get(count.original_topic)
        name = topic.name if topic else "nowhere (they stay open)"
        to[name] = to.get(name, 0) + count.letters
    lines.append(f"{total} letters: " + ", ".join(f"{number} to {name}" for name, number in sorted(to.items())) + ".")
    lines.append(f"At {rate:g} a second this takes about {timedelta(seconds=round(total / rate))}.")
    expired = datetime.now(UTC) - timedelta(milliseconds=DELIVERIES.retention_ms or 0)
    if any(count.original_topic == DELIVERIES.name and count.oldest < expired for count in counts):
        lines.append("Deliveries of more than 72 h ago cannot be read by anyone any more: they stay open.")
    for entry in entries:
        account = accounts.get(entry.account)
        if entry.account and account is None:
            lines.append(f"{entry.id}: account {entry.account} is not registered; it will fail again.")
        elif account is not None and account.state != "active":
            lines.append(f"{entry.id}: account {entry.account} is {account.state}: {account.state_reason}")
    return lines


def _agreed(yes: bool, question: str) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConsoleError("nobody is here to ask: say --yes to go on, or --plan to see what would be done")
    return typer.confirm(question)
