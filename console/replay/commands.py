"""`hookline replay`: any of it again, first what it will cost."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from console.replay import compare, planner, running, view
from console.replay.filter import Filter
from console.replay.index import resolve
from console.replay.promote import make_live
from console.replay.session import Session, check_filter, check_topic, session
from console.replay.store import Mode, Replay
from console.runtime import ConsoleError, err, out
from console.runtime import run as run_async
from console.times import moment
from processors.replay.candidate import Candidate, CandidateError
from processors.replay.diff import Difference
from schemas.topics import RECORDS

T = TypeVar("T")

app = typer.Typer(help="Any of it again, and first what it will cost.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Id = Annotated[str, typer.Argument(help="As `hookline replay list` shows it.")]
DEFAULT_RATE = 20.0
MOST_RATE = 5_000.0


def _command(act: Callable[[Session], Awaitable[T]]) -> T:
    async def command() -> T:
        async with session() as opened:
            return await act(opened)

    try:
        return run_async(command)
    except CandidateError as error:
        raise ConsoleError(str(error)) from error


def _offsets(text: str) -> tuple[int | None, int | None]:
    """`100:200`, `100:`, `:200`."""
    if not text:
        return None, None
    first, colon, last = text.partition(":")
    if not colon or not all(part.isdigit() or not part for part in (first, last)):
        raise ConsoleError(f"--offsets {text!r}: write FIRST:END, the end is not in it; either may be left out")
    return (int(first) if first else None), (int(last) if last else None)


@app.command("plan")
def plan(
    topic: Annotated[str, typer.Option(help="From where; crm.records has every record as it stands.")] = RECORDS.name,
    tenant: Annotated[str, typer.Option(help="Only this tenant's.")] = "",
    account: Annotated[str, typer.Option(help="Only this account's.")] = "",
    object_: Annotated[str, typer.Option("--object", help="Only this kind of record, e.g. deal.")] = "",
    record: Annotated[str, typer.Option(help="One record: tenant/account/object/id.")] = "",
    analysis: Annotated[
        list[str] | None, typer.Option(help="From crm.records, crm.insights: only this analysis; may be given again.")
    ] = None,
    since: Annotated[
        str, typer.Option(help="Messages from this time on: 2026-11-22, 2026-11-22T14:05Z, or how long ago: 2h, 3d.")
    ] = "",
    until: Annotated[str, typer.Option(help="Messages before this time, as --since.")] = "",
    partition: Annotated[int | None, typer.Option(help="Only this partition.")] = None,
    offsets: Annotated[str, typer.Option(help="FIRST:END on each partition.")] = "",
    destination: Annotated[str, typer.Option(help="From crm.insights: only to this destination.")] = "",
    shadow: Annotated[bool, typer.Option("--shadow/--write", help="Beside the live insights, or as live.")] = False,
    prompt: Annotated[Path | None, typer.Option(help="Shadow: a prompt file instead of the live one.")] = None,
    model: Annotated[str, typer.Option(help="Shadow: another model.")] = "",
    plugin: Annotated[str, typer.Option(help="Shadow: a module with another version of the analysis.")] = "",
    rate: Annotated[float, typer.Option(min=0.01, max=MOST_RATE, help="Records a second.")] = DEFAULT_RATE,
    as_json: AsJson = False,
) -> None:
    """What a replay would do and cost. Nothing runs; `hookline replay run ID` runs it."""
    check_topic(topic, shadow=shadow)
    if (prompt or model or plugin) and not shadow:
        raise ConsoleError("another prompt, model or plug-in is tried beside the live one first: add --shadow")
    names = tuple(analysis or ())
    if (prompt or plugin) and len(names) != 1:
        raise ConsoleError("a prompt or a plug-in belongs to one analysis: give --analysis once")
    first, last = _offsets(offsets)
    wanted = Filter(
        tenant, account, object_, record, names, moment(since), moment(until), partition, first, last, destination
    )
    check_filter(topic, wanted)
    candidate = Candidate.read(names[0] if len(names) == 1 else "", prompt, model, plugin)

    async def act(opened: Session) -> Replay:
        return await made(opened, topic, "shadow" if shadow else "write", wanted, candidate, rate)

    found = _command(act)
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    else:
        view.plan(out, found)


async def made(opened: Session, topic: str, mode: Mode, wanted: Filter, candidate: Candidate, rate: float) -> Replay:
    """A planned replay. Raises ConsoleError when nothing is meant."""
    _known(opened, wanted)
    ranges = await resolve(await opened.consumer(), topic, wanted)
    if not ranges:
        raise ConsoleError(f"{topic} holds nothing of that range: see `hookline topics list`, or widen the time")
    replay = await opened.replays.create(
        topic=topic, mode=mode, filter=wanted, candidate=candidate, ranges=ranges, rate=rate
    )
    try:
        planned = await planner.plan(opened, replay)
    except BaseException:
        await opened.replays.drop(replay.id)
        raise
    if not planned.index.items:
        await opened.replays.drop(replay.id)
        raise ConsoleError(f"{topic} holds no message of {wanted.words()}: check the names, or widen the time")
    await opened.replays.update(replay.id, planned=planned.numbers)
    return await opened.replays.get(replay.id)


def _known(opened: Session, wanted: Filter) -> None:
    """Raises ConsoleError for names that nobody has."""
    known = opened.promotions.current().analyses(wanted.tenant)
    unknown = [name for name in wanted.analyses if name not in known]
    if unknown:
        raise ConsoleError(f"no analysis {', '.join(unknown)}: there are {', '.join(sorted(known))}")
    if wanted.destination and wanted.destination not in opened.settings.destinations:
        raise ConsoleError(
            f"no destination {wanted.destination!r}: there are {', '.join(sorted(opened.settings.destinations))}"
        )
    _ = wanted.ref


@app.command("run")
def run(
    id: Id,  # noqa: A002 -- the option's name
    rate: Annotated[float | None, typer.Option(min=0.01, max=MOST_RATE, help="Records a second from now on.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a planned replay, or go on with one that was stopped. Ctrl-C pauses it after the page in work."""

    async def act(opened: Session) -> Replay:
        replay = await opened.replays.get(id)
        if rate is not None:
            await opened.replays.update(id, rate=rate)
            replay = await opened.replays.get(id)
        return await running.run(opened, replay, view.Shown(err, quiet=as_json))

    found = _command(act)
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    else:
        view.row(out, found)


@app.command("list")
def list_(tenant: Annotated[str, typer.Option(help="Only this tenant's.")] = "", as_json: AsJson = False) -> None:
    """Every replay there was, newest first: who, what, how far."""

    async def act(opened: Session) -> list[Replay]:
        return [await opened.replays.standing(each) for each in await opened.replays.all(tenant)]

    found = _command(act)
    if as_json:
        typer.echo(json.dumps([each.as_json() for each in found]))
    else:
        view.listed(out, found)


@app.command("show")
def show(id: Id, as_json: AsJson = False) -> None:  # noqa: A002 -- the option's name
    """One replay: planned against used."""

    async def act(opened: Session) -> Replay:
        return await opened.replays.standing(await opened.replays.get(id))

    found = _command(act)
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    else:
        view.row(out, found)


@app.command("rate")
def rate_(
    id: Id,  # noqa: A002 -- the option's name
    rate: Annotated[float, typer.Argument(min=0.01, max=MOST_RATE, help="Records a second.")],
    as_json: AsJson = False,
) -> None:
    """Change its pace; a running one follows within a second."""

    async def act(opened: Session) -> Replay:
        replay = await opened.replays.get(id)
        if replay.state in running.OVER:
            raise ConsoleError(f"replay {id} is {replay.state}: its rate matters no more")
        await opened.replays.update(id, rate=rate)
        return await opened.replays.get(id)

    found = _command(act)
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    else:
        out.print(f"replay {id}: {rate:g} records/s from now on")


@app.command("cancel")
def cancel(id: Id, as_json: AsJson = False) -> None:  # noqa: A002 -- the option's name
    """End it. What it published stays (it is newer than what was there); a shadow's results go."""

    async def act(opened: Session) -> Replay:
        return await running.cancel(opened, await opened.replays.get(id))

    found = _command(act)
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    elif found.state == "cancelled":
        out.print(f"replay {id} is cancelled.")
    else:
        out.print(f"replay {id} ends after the page in work: `hookline replay show {id}`")


@app.command("diff")
def diff(id: Id, as_json: AsJson = False) -> None:  # noqa: A002 -- the option's name
    """A shadow against what is live: how much changes, and the largest changes side by side. It shows customers' data."""

    async def act(opened: Session) -> tuple[Replay, list[Difference]]:
        replay = await opened.replays.get(id)
        return replay, await compare.compare(opened, replay)

    replay, found = _command(act)
    if as_json:
        typer.echo(json.dumps([each.as_json() for each in found], ensure_ascii=False))
    else:
        compare.show(out, replay, found)


@app.command("promote")
def promote(
    id: Id,  # noqa: A002 -- the option's name
    rate: Annotated[float | None, typer.Option(min=0.01, max=MOST_RATE, help="Records a second.")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Even if it looked at some records alone.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a shadow live: its prompt and model speak from now on, and its results reach every destination."""

    async def act(opened: Session) -> Replay:
        return await make_live(
            opened, await opened.replays.get(id), view.Shown(err, quiet=as_json), rate=rate, whole=whole
        )

    found = _command(act)
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    else:
        view.row(out, found)
