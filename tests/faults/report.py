"""The tables in `docs/guarantees.md`, written by the run itself.

Law: says what was measured and nothing else; only what stands between the two marks is touched. A row of an earlier run
stays as it was written, under the name of its run, until its fault has run again. What the harness knows and no row shows
is named.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from infra.settings import Settings, variable
from tests.faults.campaign import Pace, Round
from tests.faults.fault import Fault
from tests.faults.stand import EVENTS_A_DELIVERY, SETTINGS
from tests.faults.without import UNPROTECTED

BEGIN = "<!-- written by `make faults`: do not edit -->"
END = "<!-- end of what `make faults` writes -->"
NO_CONTROL = "no control"
_OFF = (
    "The same with a protection switched off, in a wrapper of the harness: the run must fail. Beside it stands what the table "
    "above says of the same fault with the protection."
)
_FAULTS = (
    "fault",
    "what happens",
    "run",
    "seeds",
    "it struck (first seed)",
    "passed",
    "lost · twice · out of order",
    "all settled after (s)",
    "p95 before → after (ms)",
)
_WITHOUT = (
    "without",
    "that is",
    "fault",
    "run",
    "seed",
    "lost · twice · out of order",
    "what the run says",
    "the same fault with it",
)
_RUN = re.compile(r"- \*\*(.+?)\*\*: (.+)")

Row = tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """What a page shows already."""

    runs: Mapping[str, str] = field(default_factory=dict)
    """Name of a run → what is said of it."""
    faults: Mapping[str, Row] = field(default_factory=dict)
    without: Mapping[str, Row] = field(default_factory=dict)


def result(rounds: Sequence[Round]) -> dict[str, int]:
    """The run in one line."""
    counted = [each for each in rounds if not each.without]
    return {
        "faults": len({each.fault for each in counted if each.struck}),
        "seeds": len({each.seed for each in counted}),
        "acknowledged": sum(each.verdict.acknowledged for each in counted),
        "lost": sum(len(each.verdict.lost) for each in counted),
        "twice": sum(len(each.verdict.twice) for each in counted),
        "out_of_order": sum(len(each.verdict.out_of_order) for each in counted),
    }


def read(path: Path) -> Page:
    """What stands between the marks. Raises ValueError where they are missing."""
    runs: dict[str, str] = {}
    tables: dict[str, dict[str, Row]] = {_FAULTS[0]: {}, _WITHOUT[0]: {}}
    table: dict[str, Row] = {}
    for line in _parts(path)[1].splitlines():
        if run := _RUN.fullmatch(line):
            runs[run[1]] = run[2]
        elif line.startswith("| "):
            cells = tuple(line.removeprefix("| ").removesuffix(" |").split(" | "))
            if cells in (_FAULTS, _WITHOUT):
                table = tables[cells[0]]
            else:
                table[cells[0].strip("`")] = cells
    return Page(runs, tables[_FAULTS[0]], tables[_WITHOUT[0]])


def write(
    path: Path, faults: Mapping[str, type[Fault]], rounds: Sequence[Round], pace: Pace, nodes: int, before: Page
) -> None:
    """Put the tables where they belong. `before`: what the page showed when the run began. Raises ValueError where the marks
    are missing.
    """
    head, _, tail = _parts(path)
    path.write_text(f"{head}{BEGIN}\n{render(faults, rounds, pace, nodes, before)}\n{END}{tail}")


def _parts(path: Path) -> tuple[str, str, str]:
    head, begin, rest = path.read_text().partition(BEGIN)
    written, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} lacks the marks {BEGIN} and {END}")
    return head, written, tail


def render(
    faults: Mapping[str, type[Fault]], rounds: Sequence[Round], pace: Pace, nodes: int, before: Page = Page()
) -> str:
    """Runs, what no row shows, and both tables, as Markdown."""
    of_fault: dict[str, list[Round]] = {}
    for each in rounds:
        if not each.without:
            of_fault.setdefault(each.fault, []).append(each)
    shown = {each.without: each for each in rounds if each.without}
    kept = {name: row for name, row in before.faults.items() if name not in of_fault and name in faults}
    known = {each.protection for each in UNPROTECTED}
    kept_without = {name: row for name, row in before.without.items() if name not in shown and name in known}
    stands = {row[2] for row in kept.values()} | {row[3] for row in kept_without.values()}
    earlier = {name: said for name, said in before.runs.items() if name in stands}
    run = _name(earlier)
    rows = {**kept, **{name: _row(name, faults[name], run, found) for name, found in of_fault.items()}}
    missing = [name for name in faults if name not in rows]
    lines = [
        *([f"- **{run}**: {_said(rounds, pace, nodes)}"] if rounds else []),
        *(f"- **{name}**: {said}" for name, said in earlier.items()),
        "",
        f"The harness knows {len(faults)} faults; {len(rows)} of them are in the table."
        + (f" Not in it: {', '.join(f'`{name}`' for name in missing)}." if missing else ""),
        "",
        *_table(_FAULTS, [rows[name] for name in faults if name in rows]),
    ]
    weak = {**kept_without, **{name: _weak(each, run) for name, each in shown.items()}}
    if weak:
        lines += [
            "",
            _OFF,
            "",
            *_table(_WITHOUT, [(*row[:-1], _control(row[2].strip("`"), rows)) for row in weak.values()]),
        ]
    return "\n".join(lines)


def _name(earlier: Mapping[str, str]) -> str:
    today = time.strftime("%Y-%m-%d", time.gmtime())
    names = [today, *(f"{today} ({number})" for number in range(2, len(earlier) + 2))]
    return next(name for name in names if name not in earlier)


def _said(rounds: Sequence[Round], pace: Pace, nodes: int) -> str:
    counted = [each for each in rounds if not each.without]
    found = result(rounds)
    rates = sorted(each.rate for each in counted if each.rate)
    pressed = (
        f"{median(rates):g} deliveries/s of up to {EVENTS_A_DELIVERY} events acknowledged (median of the rounds; "
        f"{rates[0]:g} to {rates[-1]:g}, outages included; each of our own writes comes back as one more)"
        if rates
        else "no round to count"
    )
    settings = {**SETTINGS, variable("kafka_replication"): str(min(3, nodes))}
    return (
        f"{os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, Python {platform.python_version()}: "
        f"{found['faults']} faults, seeds {_seeds(counted)}, {nodes} brokers, "
        f"{Settings.model_fields['kafka_partitions'].default} partitions a topic; {pace.rate:g} saves/s asked for, and {pressed}. "
        f"**{found['acknowledged']} events acknowledged, {found['lost']} lost, {found['twice']} twice, "
        f"{found['out_of_order']} out of order.** Settings that differ from their defaults: "
        + ", ".join(f"`{name}={value}`" for name, value in settings.items())
        + "."
    )


def _seeds(rounds: Sequence[Round]) -> str:
    return ", ".join(str(seed) for seed in sorted({each.seed for each in rounds})) or "none"


def _row(name: str, kind: type[Fault], run: str, rounds: Sequence[Round]) -> Row:
    verdicts = [each.verdict for each in rounds]
    counts = " · ".join(
        str(sum(len(found) for found in each))
        for each in ([v.lost for v in verdicts], [v.twice for v in verdicts], [v.out_of_order for v in verdicts])
    )
    before = [each.p95_before for each in rounds if each.p95_before is not None]
    after = [each.p95_after for each in rounds if each.p95_after is not None]
    slowest = max(each.backlog_s for each in rounds)
    return (
        f"`{name}`",
        kind.said,
        run,
        _seeds(rounds),
        _plain(rounds[0].evidence),
        f"{sum(each.passed for each in rounds)} of {len(rounds)}",
        counts,
        f"{slowest:g}",
        f"{round(median(before)) if before else '–'} → {round(median(after)) if after else '–'}",
    )


def _weak(each: Round, run: str) -> Row:
    verdict = each.verdict
    worst = [*verdict.lost, *verdict.twice, *verdict.out_of_order, *([each.evidence] if not each.struck else [])]
    told = "**passed: shows nothing**" if each.passed else _plain((worst or each.strangers or [each.error])[0])
    return (
        f"`{each.without}`",
        next(known.said for known in UNPROTECTED if known.protection == each.without),
        f"`{each.fault}`",
        run,
        str(each.seed),
        f"{len(verdict.lost)} · {len(verdict.twice)} · {len(verdict.out_of_order)}",
        told,
        NO_CONTROL,
    )


def _control(fault: str, rows: Mapping[str, Row]) -> str:
    if fault not in rows:
        return NO_CONTROL
    _, _, run, _, _, passed, counts, *_ = rows[fault]
    return f"{passed} passed: {counts} ({run})"


def _table(head: Row, rows: Sequence[Row]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")[:160].strip() or "–"
