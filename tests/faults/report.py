"""The table in `docs/guarantees.md`, written by the run itself.

Law: says what was measured and nothing else; only what stands between the two marks is touched.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from infra.settings import Settings, variable
from tests.faults.campaign import Pace, Round
from tests.faults.fault import Fault
from tests.faults.stand import EVENTS_A_DELIVERY, SETTINGS
from tests.faults.without import UNPROTECTED

BEGIN = "<!-- written by `make faults`: do not edit -->"
END = "<!-- end of what `make faults` writes -->"


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


def write(path: Path, faults: Mapping[str, type[Fault]], rounds: Sequence[Round], pace: Pace, nodes: int) -> None:
    """Put the tables where they belong. Raises ValueError where the marks are missing."""
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} lacks the marks {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n{render(faults, rounds, pace, nodes)}\n{END}{after}")


def render(faults: Mapping[str, type[Fault]], rounds: Sequence[Round], pace: Pace, nodes: int) -> str:
    """Both tables, as Markdown."""
    counted = [each for each in rounds if not each.without]
    found = result(rounds)
    seeds = sorted({each.seed for each in counted})
    rates = sorted(each.rate for each in counted if each.rate)
    head = (
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, {os.cpu_count()} CPUs, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}: {found['faults']} faults, seeds {', '.join(map(str, seeds))}, {nodes} brokers, "
        f"{Settings.model_fields['kafka_partitions'].default} partitions a topic; {pace.rate:g} saves/s asked for, and "
        f"{median(rates):g} deliveries/s of up to {EVENTS_A_DELIVERY} events acknowledged (median of the rounds; "
        f"{rates[0]:g} to {rates[-1]:g}, outages included; each of our own writes comes back as one more)."
    )
    lines = [
        head,
        "",
        f"**{found['acknowledged']} events acknowledged, {found['lost']} lost, {found['twice']} twice, {found['out_of_order']} out of order.**",
        "",
        "Settings that differ from their defaults: "
        + ", ".join(f"`{name}={value}`" for name, value in SETTINGS.items())
        + f"; `{variable('kafka_replication')}={min(3, nodes)}`.",
        "",
        "| fault | what happens | it struck (first seed) | passed | lost · twice · out of order | all settled after (s) | p95 before → after (ms) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, kind in faults.items():
        of_it = [each for each in counted if each.fault == name]
        if of_it:
            lines.append(_row(name, kind, of_it))
    lines += _without(rounds)
    return "\n".join(lines)


def _row(name: str, kind: type[Fault], rounds: Sequence[Round]) -> str:
    verdicts = [each.verdict for each in rounds]
    counts = " · ".join(
        str(sum(len(found) for found in each))
        for each in ([v.lost for v in verdicts], [v.twice for v in verdicts], [v.out_of_order for v in verdicts])
    )
    before = [each.p95_before for each in rounds if each.p95_before is not None]
    after = [each.p95_after for each in rounds if each.p95_after is not None]
    slowest = max(each.backlog_s for each in rounds)
    return (
        f"| `{name}` | {kind.said} | {_plain(rounds[0].evidence)} | {sum(each.passed for each in rounds)} of {len(rounds)} | {counts} "
        f"| {slowest:g} | {round(median(before)) if before else '–'} → {round(median(after)) if after else '–'} |"
    )


def _without(rounds: Sequence[Round]) -> list[str]:
    shown = [each for each in rounds if each.without]
    if not shown:
        return []
    lines = [
        "",
        "The same with a protection switched off, in a wrapper of the harness: the run must fail.",
        "",
        "| without | that is | fault | lost · twice · out of order | what the run says |",
        "|---|---|---|---|---|",
    ]
    said = {each.protection: each.said for each in UNPROTECTED}
    for each in shown:
        verdict = each.verdict
        worst = [*verdict.lost, *verdict.twice, *verdict.out_of_order, *([each.evidence] if not each.struck else [])]
        told = "**passed: shows nothing**" if each.passed else _plain((worst or each.strangers or [each.error])[0])
        lines.append(
            f"| `{each.without}` | {said[each.without]} | `{each.fault}` "
            f"| {len(verdict.lost)} · {len(verdict.twice)} · {len(verdict.out_of_order)} | {told} |"
        )
    return lines


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")[:160]
