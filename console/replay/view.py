"""How replays look on a terminal: a plan, a list, a run's progress."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from console.replay.runner import Progress
from console.replay.store import Replay

SHOW_SECONDS = 0.25
COMPARED = ("records", "insights", "model_calls", "cache_hits", "input_tokens", "output_tokens", "cost_usd", "seconds")


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
            task = bar.add_task("", total=progress.total, rate="", left="", waiting="")

            async def follow() -> None:
                while True:
                    show()
                    await asyncio.sleep(SHOW_SECONDS)

            def show() -> None:
                left = timedelta(seconds=round((progress.total - progress.done) / max(progress.rate, 1e-9)))
                bar.update(
                    task,
                    total=progress.total,
                    completed=progress.done,
                    rate=f"{progress.rate:g}/s",
                    left=f"{left} left",
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
        ("insights", f"{numbers['insights']:,}"),
        ("model calls", f"{numbers['model_calls']:,}, and {numbers['cache_hits']:,} answered by the cache"),
        ("tokens", f"{numbers['input_tokens']:,} in, {numbers['output_tokens']:,} out"),
        (
            "cost",
            f"${numbers['cost_usd']:,.4f} ({numbers['price_list']}, prices as of {numbers['prices_of']})",
        ),
    ]
    rows += [("", line) for line in numbers["basis"]]
    if "model_calls_at_most" in numbers:
        rows.append(
            (
                "model calls after it",
                (
                    f"{numbers['model_calls_of_new_records']:,} for records without an insight; unchanged ones cost none; "
                    f"{numbers['model_calls_at_most']:,} if every record has changed"
                ),
            )
        )
    rows += [
        ("CRM calls", line) for account, each in numbers["crm_calls"].items() for line in _crm_calls(account, each)
    ] or [("CRM calls", "none")]
    if numbers.get("disconnected"):
        rows.append(("", f"{numbers['disconnected']:,} records wait for their account to be connected again"))
    if numbers["skipped"]:
        rows.append(("passed over", ", ".join(f"{name} {number:,}" for name, number in numbers["skipped"].items())))
    rows.append(("duration", f"{timedelta(seconds=round(numbers['seconds']))} at {replay.rate:g} records/s"))
    return rows


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
    for name in COMPARED:
        if name in replay.planned or name in replay.used:
            table.add_row(name, _number(replay.planned.get(name)), _number(replay.used.get(name)))
    for name in sorted(set(replay.used) - set(COMPARED)):
        table.add_row(name, _number(replay.planned.get("skipped", {}).get(name)), _number(replay.used[name]))
    console.print(table)
    console.print(next_step(replay))


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
            f"${float(each.used.get('cost_usd', 0)):,.4f}",
        )
    console.print(table if found else "No replays yet: `hookline replay plan --help`.")


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.4f}" if isinstance(value, float) and not value.is_integer() else f"{int(value):,}"
