"""One round a fault: traffic, the fault, its end, traffic, and then the judge; one stand a seed.

Law: rounds are drawn from the seed alone (their order, moments and victims), so that a failed one can be repeated with
`SEED` and `ONLY`. A round without evidence that its fault struck has failed. The judge looks when everything is quiet, or
when the time for that is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tests.faults.fault import Fault, NoEvidenceError
from tests.faults.judge import Judge, Verdict
from tests.faults.stand import Stand
from tests.faults.without import Unprotected

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Pace:
    """How long a round's parts last, seconds, and saves a second."""

    rate: float = 60.0
    before: float = 8.0
    after: float = 6.0
    long: bool = True
    patience: float = 600.0
    """From the fault's end until all must be settled; where nothing moves any more nobody waits so long (STILL_SECONDS)."""
    hurry: bool = False
    """Let the time have come for what is set aside, once the fault is over: a short run does not wait half a minute."""


STILL_SECONDS = 120.0
"""Above what may pass until a silent server is taken for away: PostgreSQL and Kafka one after the other are 55 s."""
ALWAYS = frozenset({"RECORD_GONE"})
"""Dead letters that are no fault's: somebody deleted a record while a change of it was under way."""


@dataclass
class Round:
    """What one fault did."""

    fault: str
    seed: int
    evidence: str = ""
    struck: bool = False
    verdict: Verdict = field(default_factory=Verdict)
    rate: float = 0.0
    """Deliveries acknowledged a second, over the traffic's time."""
    backlog_s: float = 0.0
    """From the end of the traffic and of the fault, whichever came last, until all was settled."""
    settled: bool = False
    p95_before: int | None = None
    p95_after: int | None = None
    restarts: int = 0
    """Roles that ended by themselves and were started again."""
    strangers: list[str] = field(default_factory=list)
    """Dead letters that nothing explains: stage and cause."""
    without: str = ""
    """The protection that was switched off."""
    error: str = ""

    @property
    def passed(self) -> bool:
        return self.struck and self.verdict.clean and not self.strangers and not self.error


async def run_round(
    stand: Stand, judge: Judge, fault: Fault, seed: int, pace: Pace, tell: Tell, without: str = ""
) -> Round:
    """See the module. Raises nothing that the fault brings about. `without`: only to be told."""
    found = Round(fault.name, seed, without=without)
    stand.chance = random.Random(f"{seed}/{fault.name}")
    await stand.scale(**{kind.replace("-", "_"): number for kind, number in fault.replicas.items()})
    try:
        await fault.prepare(stand)
        await _under_load(stand, judge, fault, pace, found)
    finally:
        await fault.leave(stand)
    tell(_line(found))
    return found


async def _under_load(stand: Stand, judge: Judge, fault: Fault, pace: Pace, found: Round) -> None:
    await judge.begin()
    restarts = sum(member.restarts for member in stand.roles.members.values())
    began = time.monotonic()
    start = _now()
    await stand.crm.acall("load_start", accounts=stand.worked_on(), rate=pace.rate)
    await asyncio.sleep(pace.before * stand.chance.uniform(1.0, 1.2))
    injected = _now()
    try:
        await fault.inject(stand)
        await fault.hold(stand, fault.long if pace.long else fault.short)
    except Exception:  # noqa: BLE001 -- whatever it is, the stand is to be mended and the round told as failed
        found.error = traceback.format_exc(limit=4)
    finally:
        with contextlib.suppress(NotImplementedError):
            await fault.recover(stand)
    recovered = _now()
    await asyncio.sleep(pace.after)
    await stand.crm.acall("load_stop")
    stopped = time.monotonic()
    found.verdict, found.settled = await _settle(stand, judge, pace)
    found.backlog_s = round(time.monotonic() - stopped, 1)
    try:
        found.evidence = await fault.evidence(stand)
        found.struck = True
    except NoEvidenceError as error:
        found.evidence = f"DID NOT STRIKE: {error}"
    found.strangers = [name for name in found.verdict.letters if name.split()[-1] not in fault.letters | ALWAYS]
    found.rate = round(judge.journal.accepted / (stopped - began), 1)
    found.p95_before = judge.p95(start, injected - 4_000)
    found.p95_after = judge.p95(recovered, _now())
    found.restarts = sum(member.restarts for member in stand.roles.members.values()) - restarts


async def _run_without(stand: Stand, judge: Judge, each: Unprotected, seed: int, pace: Pace, tell: Tell) -> Round:
    """Up to `tries` rounds: a window of milliseconds is not hit each time."""
    short = replace(pace, long=False, hurry=True, patience=150.0)
    told = Round(each.fault.name, seed, without=each.protection)
    try:
        await stand.roles.without(each.roles)
        for number in range(each.tries):
            told = await run_round(stand, judge, each.fault(), seed + number * 1_000, short, tell, each.protection)
            if not told.passed:
                break
    except Exception:  # noqa: BLE001 -- a role that does not even run without it shows nothing
        told.error = traceback.format_exc(limit=6)
        tell(_line(told))
    finally:
        with contextlib.suppress(RuntimeError):
            await stand.roles.without({})
    return told


async def _settle(stand: Stand, judge: Judge, pace: Pace) -> tuple[Verdict, bool]:
    """Wait until all is settled, or too long, or for STILL_SECONDS in which nothing has moved."""
    deadline = time.monotonic() + pace.patience
    verdict: Verdict | None = None
    moved, before = time.monotonic(), ""
    while time.monotonic() < deadline:
        if pace.hurry:
            await asyncio.to_thread(
                stand.sql, "UPDATE set_aside SET due_at = now() WHERE due_at > now() AND emitted_at IS NULL"
            )
        waits_for = await judge.quiet()
        if (now := f"{waits_for} {verdict and len(verdict.lost)}") != before:
            moved, before = time.monotonic(), now
        elif time.monotonic() - moved > STILL_SECONDS:
            break
        if waits_for is None:
            verdict = await judge.verdict()
            if not verdict.lost:
                return verdict, True
        await asyncio.sleep(0.5 if verdict is None else 2.0)
    return await judge.verdict(), False


async def run_all(
    stand: Stand,
    faults: Sequence[type[Fault]],
    seed: int,
    pace: Pace,
    tell: Tell,
    unprotected: Sequence[Unprotected] = (),
    *,
    done: Callable[[Round], object],
) -> None:
    """Every fault once, in an order drawn from the seed; then those that must fail without their protection. Each is told to
    `done` when it is over.
    """
    judge = Judge(stand)
    await judge.open()
    await stand.scale()
    watching = asyncio.create_task(stand.roles.watch())
    order = list(faults)
    random.Random(seed).shuffle(order)
    try:
        for kind in order:
            try:
                found = await run_round(stand, judge, kind(), seed, pace, tell)
            except Exception:  # noqa: BLE001 -- the next rounds are worth having
                found = Round(kind.name, seed, error=traceback.format_exc(limit=6))
                tell(_line(found))
                stand.wires.clear()
                with contextlib.suppress(Exception):
                    await stand.crm.acall("load_stop")
            done(found)
        for each in unprotected:
            done(await _run_without(stand, judge, each, seed, pace, tell))
    finally:
        watching.cancel()
        await judge.close()


def _line(found: Round) -> str:
    verdict = found.verdict
    letters = ", ".join(f"{cause} {number}" for cause, number in verdict.letters.items())
    lines = [
        f"{'ok  ' if found.passed else 'FAIL'} {found.fault}{f' without {found.without}' if found.without else ''} (seed {found.seed}): {found.evidence}; {verdict.acknowledged} events, "
        f"{found.rate:g}/s, {verdict.records} records, lost {len(verdict.lost)}, twice {len(verdict.twice)}, "
        f"out of order {len(verdict.out_of_order)}, settled {found.backlog_s:g} s after, p95 {found.p95_before} -> {found.p95_after} ms"
        + (f", dead letters: {letters}" if letters else "")
        + (f", {verdict.aside} still aside" if verdict.aside else "")
        + (f", {found.restarts} ended by themselves" if found.restarts else "")
    ]
    if found.strangers:
        lines.append(f"  unexplained dead letters: {', '.join(found.strangers)}")
    if found.error:
        lines.append(found.error)
    if not verdict.clean:
        lines.append(verdict.told())
    return "\n".join(lines)


def _now() -> int:
    return time.time_ns() // 1_000_000
