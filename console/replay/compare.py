"""`hookline replay diff`: reading both sides, and showing them."""

from __future__ import annotations

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from console.insights import text_of
from console.replay.session import Session
from console.replay.store import Replay
from console.runtime import ConsoleError
from processors.replay.diff import BIN, Difference
from processors.replay.results import Result, Results, opened
from processors.state import PostgresAnalystState
from schemas.insight import Insight

WIDEST_BAR = 40


async def compare(session: Session, replay: Replay) -> list[Difference]:
    """By analysis. Raises ConsoleError for a replay that is no shadow, or has no results."""
    if replay.mode != "shadow":
        raise ConsoleError(f"replay {replay.id} wrote: there is nothing beside the live insights to compare")
    found: dict[str, Difference] = {}
    async for page in Results(session.parts.engine, replay.id).pages():
        await _page(session, page, found)
    if not found:
        raise ConsoleError(f"replay {replay.id} has no results yet: `hookline replay run {replay.id}`")
    return [found[name] for name in sorted(found)]


async def _page(session: Session, page: list[Result], found: dict[str, Difference]) -> None:
    refs = {each.ref for each in page}
    states = await PostgresAnalystState(session.parts.engine).load(refs)
    keys = await session.parts.keyring.for_records(refs)
    for each in page:
        difference = found.setdefault(each.analysis, Difference(each.analysis))
        shadow = opened(keys[each.ref], each.kept.sealed)
        if shadow is None:
            difference.unreadable += 1
            continue
        kept = states.get(each.ref, {}).get(each.analysis)
        live: Insight | None = opened(keys[each.ref], kept.sealed) if kept else None
        if live is None or live.retracted:
            difference.only_shadow += 1
            difference.paid(None, shadow)
        elif live.version[:2] != shadow.version[:2] and live.as_of != shadow.as_of:
            difference.moved_on += 1
            difference.paid(None, shadow)
        else:
            difference.add(live, shadow)


def show(console: Console, replay: Replay, differences: list[Difference]) -> None:
    """For people. It shows customers' data: mind the terminal."""
    for difference in differences:
        console.rule(difference.analysis)
        console.print(
            f"{difference.changed:,} of {difference.compared:,} insights change; {difference.only_shadow:,} are new, "
            f"{difference.moved_on:,} records have changed since and were not compared"
        )
        numbers = difference.as_json()
        costs = [
            f"{side} {'not known' if (cost := numbers[f'cost_per_insight_{side}']) is None else f'${cost:.6f}'}"
            for side in ("live", "shadow")
        ]
        console.print(f"cost per insight: {', '.join(costs)}")
        console.print(_histogram(difference))
        for pair in difference.top():
            sides = [
                Panel(
                    Text(text_of(insight)), title=f"{name} · {insight.model} · prompt {insight.prompt_version or '-'}"
                )
                for name, insight in (("live", pair.live), ("shadow", pair.shadow))
            ]
            console.print(Text(f"{pair.ref}  {pair.shift:+d}", style="bold"))
            console.print(Columns(sides, equal=True, expand=True))
    if not replay.promoted_generation:
        console.print(f"Make it live: `hookline replay promote {replay.id}`.")


def _histogram(difference: Difference) -> Table:
    table = Table("shift", "insights", "", title="score shift", title_justify="left")
    most = max(difference.shifts.values(), default=1)
    edges = sorted(difference.shifts)
    for edge in range(edges[0], edges[-1] + 1, BIN) if edges else ():
        number = difference.shifts[edge]
        table.add_row(f"{edge:+d} to {edge + BIN - 1:+d}", f"{number:,}", "█" * round(WIDEST_BAR * number / most))
    return table
