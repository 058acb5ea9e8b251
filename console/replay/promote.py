"""`hookline replay promote`: a shadow becomes what is live.

Law: first the generation is raised, and every analyst has seen it; then the shadow's results are published under it, record
by record as it stands now: a result where the record still reads the same, a new answer where it has changed since. So no
record is left with the old prompt's word, and nothing newer is overwritten: versions decide.
"""

from __future__ import annotations

import asyncio

from console.replay.filter import Filter
from console.replay.index import resolve
from console.replay.planner import plan
from console.replay.running import run
from console.replay.session import Session
from console.replay.store import Replay
from console.replay.view import Shown
from console.runtime import ConsoleError
from processors.replay.candidate import Candidate
from processors.replay.promotions import REFRESH_SECONDS, Promotion, promote
from schemas.topics import RECORDS

SEEN_SECONDS = 2 * REFRESH_SECONDS + 1.0
"""By then every analyst that lives has looked."""


async def make_live(
    session: Session, shadow: Replay, shown: Shown, *, rate: float | None = None, whole: bool = False
) -> Replay:
    """Promote; returns the replay that published. Safe to call again after any failure: it goes on. Raises ConsoleError.

    `whole`: also where the shadow looked at some records alone, and the others are to be asked about for the first time.
    """
    analyses = await _promotable(session, shadow, whole=whole)
    wanted = [_promotion(session, shadow, name) for name in analyses]
    generation = await promote(session.parts.engine, shadow.id, shadow.tenant, wanted, session.settings.generation)
    await session.replays.update(shadow.id, promoted_generation=generation)
    await session.promotions.refresh()
    await asyncio.sleep(SEEN_SECONDS)
    return await run(session, await _writing(session, shadow, analyses, rate), shown)


async def _promotable(session: Session, shadow: Replay, *, whole: bool) -> tuple[str, ...]:
    """The analyses that it would change."""
    if shadow.mode != "shadow":
        raise ConsoleError(f"replay {shadow.id} wrote: only a shadow can be promoted")
    if shadow.state != "done":
        raise ConsoleError(f"replay {shadow.id} is {shadow.state}: `hookline replay run {shadow.id}` first")
    if shadow.candidate.plugin:
        raise ConsoleError(
            f"{shadow.candidate.plugin} is code: install it as the analysis on every analyst, set HOOKLINE_GENERATION to "
            f"{next_generation(session)}, and then a replay that writes says it of every record"
        )
    if not (shadow.candidate.prompt or shadow.candidate.model):
        raise ConsoleError(f"replay {shadow.id} tried what is installed: there is no prompt and no model to promote")
    partial = shadow.filter != Filter(tenant=shadow.filter.tenant, analyses=shadow.filter.analyses)
    if partial and not whole:
        raise ConsoleError(
            f"replay {shadow.id} looked at {shadow.filter.words()}, but a promotion speaks for all records of its tenant: "
            "run a shadow over all of them first, or add --whole, and the others are asked about for the first time"
        )
    if shadow.candidate.analysis:
        return (shadow.candidate.analysis,)
    return tuple(shadow.filter.analyses or session.settings.analyses)


def next_generation(session: Session) -> int:
    """Above what is configured and everything that was promoted."""
    return max([session.settings.generation, *session.promotions.current().generations()]) + 1


def _promotion(session: Session, shadow: Replay, analysis: str) -> Promotion:
    """What the candidate changes, over what is live now: a model alone keeps the live prompt."""
    speaking = session.promotions.current().speaking(shadow.tenant, analysis)
    candidate = shadow.candidate
    tried = candidate.prompt if candidate.analysis in {"", analysis} else ""
    version = session.promotions.current().analyses(shadow.tenant)[analysis].version
    if tried:
        version = Candidate(analysis, tried).analyses(session.promotions.current().base.installed)[analysis].version
    return Promotion(
        shadow.tenant,
        analysis,
        0,
        tried or (speaking.prompt if speaking else ""),
        candidate.model or (speaking.model if speaking else ""),
        version,
    )


async def _writing(session: Session, shadow: Replay, analyses: tuple[str, ...], rate: float | None) -> Replay:
    """The replay that publishes: the one of an earlier attempt, or a new one over every record as it stands."""
    pace = shadow.rate if rate is None else rate
    for each in await session.replays.all():
        if each.promotes == shadow.id and each.state in {"planned", "paused", "running"}:
            await session.replays.update(each.id, rate=pace)
            return await session.replays.get(each.id)
        if each.promotes == shadow.id and each.state == "done":
            raise ConsoleError(f"replay {shadow.id} is live already: replay {each.id} has published it")
    wanted = Filter(tenant=shadow.tenant, analyses=analyses)
    ranges = await resolve(await session.consumer(), RECORDS.name, wanted)
    made = await session.replays.create(
        topic=RECORDS.name, mode="write", filter=wanted, candidate=Candidate(), ranges=ranges, rate=pace
    )
    await session.replays.update(made.id, planned={"promotes": shadow.id})
    planned = await plan(session, await session.replays.get(made.id))
    await session.replays.update(made.id, planned={**planned.numbers, "promotes": shadow.id})
    return await session.replays.get(made.id)
