"""How replays look on a terminal: a plan, a list, a run's progress."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from console.replay.duration import told
from console.replay.runner import Progress
from console.replay.store import Replay

SHOW_SECONDS = 0.25
LOOKED_BACK_SECONDS = 60.0
"""What was done in so long tells how long what is left takes."""
COMPARED = ("records", "insights", "model_calls", "cache_hits", "input_tokens", "output_tokens", "cost_usd", "seconds")
FOLLOWING = frozenset({"insights", "model_calls", "cache_hits", "input_tokens", "output_tokens", "cost_usd"})
"""What of a refresh others do."""
ELSEWHERE = "not measured here"


class TimeLeft:
    """How long what is left takes, by what was done lately: a wished rate is no promise where a model is asked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def __call__(self, progress: Progress) -> str:
        """In words; empty until something was done. Call it often."""
        now = self._clock()
        self._seen.append((now, progress.done))
        while len(self._seen) > 1 and self._seen[1][0] <= now - LOOKED_BACK_SECONDS:
            self._seen.popleft()
        began, before = self._seen[0]
        done, left = progress.done - before, progress.total - progress.done
        if not left:
            return ""
        if done:
            return f"{told(left * (now - began) / done)} left"
        return "" if now - began < LOOKED_BACK_SECONDS else "nothing done for a minute"


class Shown:
    """Where a run shows its progress; on no terminal and with `quiet` nowhere."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet

    @asynccontextmanager
    async def progress(self, replay: Replay, progress: Progress) -> AsyncIterator[None]:
        """A bar for as long as the block lasts."""
        if self._quiet:
            yield
            return
        bar = Bar(
            TextColumn(f"{replay.id} {replay.mode}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(), TextColumn("{task.fields[left]}"), TextColumn("[yellow]{task.fields[waiting]}"),
            console=self._console, transient=not self._console.is_terminal,
        )  # fmt: skip
        with bar:
            left = TimeLeft()
            task = bar.add_task("", total=progress.total, rate="", left="", waiting="")

            async def follow() -> None:
                while True:
                    show()
                    await asyncio.sleep(SHOW_SECONDS)

            def show() -> None:
                bar.update(
                    task,
                    total=progress.total,
                    completed=progress.done,
                    rate=f"{progress.rate:g}/s",
                    left=left(progress),
                    waiting=progress.waiting and f"waits: {progress.waiting}",
                )

            following = asyncio.create_task(follow())
            try:
                yield
            finally:
                following.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await following
                show()


def plan(console: Console, replay: Replay) -> None:
    """What was planned, and what to do next."""
    numbers = replay.planned
    table = Table(show_header=False, title=f"replay {replay.id}: {replay.topic}, {replay.mode}", title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in _plan_rows(replay, numbers):
        table.add_row(name, value)
    console.print(table)
    console.print(f"Run it: `hookline replay run {replay.id}`. Leave it: `hookline replay cancel {replay.id}`.")


def _plan_rows(replay: Replay, numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("meant", replay.filter.words()),
        ("kind", str(numbers["what"])),
        ("messages", f"{numbers['messages']:,}"),
        ("records", f"{numbers['records']:,} after coalescing"),
        *(_downstream_rows(numbers) if "downstream" in numbers else _model_rows(numbers)),
    ]
    rows += [
        ("CRM calls", line) for account, each in numbers["crm_calls"].items() for line in _crm_calls(account, each)
    ] or [("CRM calls", "none")]
    if numbers.get("disconnected"):
        rows.append(("", f"{numbers['disconnected']:,} records wait for their account to be connected again"))
    if numbers["skipped"]:
        rows.append(("passed over", ", ".join(f"{name} {number:,}" for name, number in numbers["skipped"].items())))
    rows.append(("duration", _duration(numbers, replay.rate)))
    rows += [("", line) for line in numbers["warnings"]]
    if after := numbers.get("downstream"):
        rows.append(
            ("", f"downstream {told(after['seconds'])} at most" + (f": {after['binds']}" if after["binds"] else ""))
        )
        rows += [("", line) for line in after["warnings"]]
    return rows


def _model_rows(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("insights", f"{numbers['insights']:,}"),
        ("model calls", f"{numbers['model_calls']:,}, and {numbers['cache_hits']:,} answered by the cache"),
        ("tokens", f"{numbers['input_tokens']:,} in, {numbers['output_tokens']:,} out"),
        ("cost", f"${numbers['cost_usd']:,.4f} ({_prices(numbers)})"),
        *(("", line) for line in numbers["basis"]),
    ]


def _downstream_rows(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A refresh asks no model itself: what follows is between nothing having changed in the CRM, and everything."""
    after = numbers["downstream"]
    least, most = after["least"], after["most"]

    def span(name: str) -> str:
        return f"{least[name]:,} to {most[name]:,}"

    return [
        ("in this process", "0 model calls, 0 tokens, $0: it triggers, and the hydrator and the analyst do the rest"),
        ("downstream", "at least if nothing has changed in the CRM since it was read, at most if everything has"),
        ("insights", f"{after['insights']:,} are sent to every destination, unchanged ones again"),
        ("model calls", f"{span('model_calls')}, and {least['cache_hits']:,} answered by the cache"),
        ("tokens", f"{span('input_tokens')} in, {span('output_tokens')} out"),
        ("cost", f"${least['cost_usd']:,.4f} to ${most['cost_usd']:,.4f} ({_prices(numbers)})"),
        *(("", line) for line in after["basis"]),
    ]


def _prices(numbers: Mapping[str, Any]) -> str:
    return f"{numbers['price_list']}, prices as of {numbers['prices_of']}"


def _duration(numbers: Mapping[str, Any], rate: float) -> str:
    pace = f"{rate:g} records/s"
    if numbers["binds"] == pace:
        return f"{told(numbers['seconds'])} at {pace}"
    return f"{told(numbers['seconds'])}, slower than {pace}: {numbers['binds']}"


def _crm_calls(account: str, each: Mapping[str, Any]) -> list[str]:
    lines = [f"{account}: about {each['calls']:,}, {each['at_most']:,} at most"]
    if each["left"] is None:
        return [f"{lines[0]}; what it may call a day is not known"]
    lines[0] += (
        f"; {each['left']:,} left today for bulk work, which stops at {each['bulk_share']:.0%} of the {each['a_day']:,} a day "
        f"that {each['said_by']}"
    )
    if each["calls"] > each["left"]:
        lines.append("more than is left: beyond it records are set aside, and read when the day allows it again")
    return lines


def row(console: Console, replay: Replay) -> None:
    """One replay: where it stands, planned against used."""
    console.print(f"replay [bold]{replay.id}[/]: {replay.topic}, {replay.mode}, {replay.filter.words()}")
    console.print(f"{replay.state}, {replay.records_done:,} handled at {replay.rate:g} records/s")
    if replay.error:
        console.print(replay.error, style="red", markup=False)
    if replay.promoted_generation:
        console.print(f"promoted: generation {replay.promoted_generation}")
    table = Table("", "planned", "used")
    after = replay.planned.get("downstream")
    for name in COMPARED:
        if after and name in FOLLOWING:
            table.add_row(f"{name} downstream", _following(after, name), ELSEWHERE)
        elif name in replay.planned or name in replay.used:
            table.add_row(name, _number(replay.planned.get(name)), _number(replay.used.get(name)))
    for name in sorted(set(replay.used) - set(COMPARED)):
        table.add_row(name, _number(replay.planned.get("skipped", {}).get(name)), _number(replay.used[name]))
    console.print(table)
    if after:
        of = f" --tenant {replay.tenant}" if replay.tenant else ""
        console.print(f"The analyst's questions are accounted with everybody's: `hookline gateway usage{of}`.")
    console.print(next_step(replay))


def _following(after: Mapping[str, Any], name: str) -> str:
    if name == "insights":
        return _number(after[name])
    return f"{_number(after['least'][name])} to {_number(after['most'][name])}"


def next_step(replay: Replay) -> str:
    """What to do now."""
    match replay.state:
        case "planned" | "paused":
            return f"Go on: `hookline replay run {replay.id}`."
        case "running" | "cancelling":
            return f"It runs: `hookline replay rate {replay.id} N` changes its pace, `hookline replay cancel {replay.id}` ends it."
        case "done" if replay.mode == "shadow" and not replay.promoted_generation:
            return f"Compare: `hookline replay diff {replay.id}`. Make it live: `hookline replay promote {replay.id}`."
        case _:
            return "It is over."


def listed(console: Console, found: Sequence[Replay]) -> None:
    """All of them, newest first."""
    table = Table("id", "created", "topic", "mode", "meant", "state", "records", "cost")
    for each in found:
        table.add_row(
            each.id,
            f"{each.created_at:%Y-%m-%d %H:%M}",
            each.topic,
            each.mode,
            each.filter.words(),
            each.state,
            f"{each.records_done:,} of {each.planned.get('records', 0):,}",
            "downstream" if "downstream" in each.planned else f"${float(each.used.get('cost_usd', 0)):,.4f}",
        )
    console.print(table if found else "No replays yet: `hookline replay plan --help`.")


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.4f}" if isinstance(value, float) and not value.is_integer() else f"{int(value):,}"
