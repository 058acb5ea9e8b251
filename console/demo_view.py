"""The demo as a person sees it: the journey's stages filling up, the newest insights, how long it took.

Law: it shows what it is given; it counts nothing itself.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from rich.align import Align
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from console.demo_report import Report


@dataclass
class Progress:
    """What the view shows at one moment."""

    provider: str
    page: str
    seconds: float
    elapsed: float = 0.0
    phase: str = "people are editing"
    saves: int = 0
    deliveries: int = 0
    changes: int = 0
    records: int = 0
    insights: int = 0
    model_calls: int = 0
    cache_hits: int = 0
    unchanged: int = 0
    crm_writes: int = 0
    dead_letters: int = 0
    p50_ms: int | None = None
    p95_ms: int | None = None
    settled: int = 0
    changed_records: int = 0
    newest: deque[str] = field(default_factory=lambda: deque(maxlen=8))


def render(progress: Progress) -> RenderableType:
    """One frame."""
    stages = Table.grid(expand=True)
    for _ in range(6):
        stages.add_column(justify="center", ratio=1)
    stages.add_row(
        *(
            Align.center(
                Group(
                    Text(f"{number:,}", style="bold cyan", justify="center"), Text(label, style="dim", justify="center")
                )
            )
            for label, number in (
                ("saves in the CRMs", progress.saves),
                ("deliveries", progress.deliveries),
                ("changes", progress.changes),
                ("snapshots", progress.records),
                ("insights", progress.insights),
                ("CRM writes", progress.crm_writes),
            )
        )
    )
    asked = progress.model_calls + progress.cache_hits
    saved = progress.cache_hits + progress.unchanged
    facts = Table.grid(padding=(0, 2))
    facts.add_row(
        Text("model", style="dim"),
        Text(
            f"{progress.model_calls:,} calls to {progress.provider}; {saved:,} saved ({progress.cache_hits:,} cached of {asked:,} questions, {progress.unchanged:,} inputs unchanged)"
        ),
    )
    latency = (
        "measuring…"
        if progress.p50_ms is None
        else f"half within {progress.p50_ms:,} ms, 95 % within {progress.p95_ms:,} ms"
    )
    facts.add_row(Text("save → insight on the record", style="dim"), Text(latency))
    facts.add_row(
        Text("up to date", style="dim"), Text(f"{progress.settled:,} of {progress.changed_records:,} changed records")
    )
    if progress.dead_letters:
        facts.add_row(Text("dead letters", style="dim"), Text(f"{progress.dead_letters:,}, each with its cause"))
    newest = Text("\n".join(progress.newest) or "the first insight is on its way…", overflow="ellipsis", no_wrap=True)
    bar = Table.grid(expand=True, padding=(0, 1))
    bar.add_column(no_wrap=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True, justify="right")
    bar.add_row(
        Text(progress.phase),
        ProgressBar(total=progress.seconds, completed=min(progress.elapsed, progress.seconds)),
        Text(f"{progress.elapsed:.0f} s"),
    )
    return Group(
        Panel(stages, title="hook → line → sinker", title_align="left"),
        facts,
        Panel(newest, title="newest insights", title_align="left", height=10),
        Text.assemble(("look at the records: ", "dim"), (progress.page, "underline")),
        bar,
    )


def summary(report: Report, page: str, *, kept: bool) -> RenderableType:
    """What it came down to, in sentences."""
    standing = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(report.by_analysis.items()))
    lines = [
        f"{report.saves:,} saves of people arrived as {report.deliveries:,} deliveries and became {report.changes:,} changes,",
        f"{report.records:,} snapshots and {report.insights:,} insights.",
        f"{report.model_calls:,} questions were put to the model, {report.cache_hits:,} more were answered from the cache.",
        f"{report.crm_writes:,} times a record was written in a CRM; {report.postgres_rows:,} insights stand in Postgres ({standing}).",
    ]
    if report.p50_ms is not None:
        lines.append(
            f"From the save to the insight on the record: half within {report.p50_ms:,} ms, 95 % within {report.p95_ms:,} ms."
        )
    verdict = Text()
    if report.accounted_for:
        verdict.append("Everything that was sent is accounted for", style="bold green")
        verdict.append(
            f": nothing lost, nothing twice, no round caused by our own writes; {report.dead_letters:,} dead letters"
            + (", each with its named cause." if report.dead_letters else ".")
        )
    else:
        verdict.append("Not everything is accounted for", style="bold red")
        verdict.append(
            f": {report.lost} lost, {report.duplicate_effects} written twice, {report.backwards} backwards, "
            f"{report.echo_rounds} rounds caused by our own writes. `hookline topics tail crm.dead-letters` and "
            ".hookline/demo/demo.log tell more."
        )
    where = Text.assemble(
        ("Look at it: ", "dim"), (page, "underline"), "" if kept else "   (KEEP=1 make demo leaves everything up)"
    )
    return Panel(Group(Text("\n".join(lines)), Text(), verdict, where), title="what happened", title_align="left")
