"""What was promoted: which prompt and model speak for a tenant's analysis, and in which generation.

Law: generations only rise. The highest one speaks, the configured one (`HOOKLINE_GENERATION`) included, so that a release
takes over again by a higher number. A tenant's own promotion and one for everybody are compared in the same way. A view
that was handed out never changes; a promotion is seen within REFRESH_SECONDS.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.tables import promotions
from infra.telemetry import log
from infra.unavailable import as_unavailable
from processors.analyses.analysis import Analysis
from processors.analyst import AsInstalled, Asks
from processors.replay.candidate import CandidateError, reprompted

REFRESH_SECONDS = 2.0
EVERYBODY = ""

_log = log("promotions")


@dataclass(frozen=True, slots=True)
class Promotion:
    """One row."""

    tenant: str
    """EVERYBODY, or one tenant's."""
    analysis: str
    generation: int
    prompt: str = field(default="", repr=False)
    model: str = ""
    prompt_version: str = ""
    replay: str = ""


@dataclass(frozen=True, slots=True)
class Promoted:
    """A Rulebook (see `processors.analyst`): what is installed, and what was promoted over it."""

    base: AsInstalled
    by_place: Mapping[tuple[str, str], Promotion] = field(default_factory=dict)
    """(tenant, analysis) → its highest promotion."""
    reworded: Mapping[tuple[str, str], Analysis] = field(default_factory=dict)
    gateways: Mapping[str, Asks] = field(default_factory=dict)
    """Model → its own door."""

    def speaking(self, tenant: str, analysis: str) -> Promotion | None:
        """The promotion that speaks; None: what is installed does."""
        found = [each for place in (tenant, EVERYBODY) if (each := self.by_place.get((place, analysis))) is not None]
        highest = max(found, key=lambda each: each.generation, default=None)
        return highest if highest is not None and highest.generation > self.base.configured else None

    def generations(self) -> list[int]:
        """Of all promotions."""
        return [each.generation for each in self.by_place.values()]

    def analyses(self, tenant: str) -> Mapping[str, Analysis]:
        """See Rulebook."""
        if not self.by_place:
            return self.base.installed
        found = {}
        for name, installed in self.base.installed.items():
            speaking = self.speaking(tenant, name)
            found[name] = self.reworded.get((speaking.tenant, name), installed) if speaking else installed
        return found

    def generation(self, tenant: str, analysis: str) -> int:
        """See Rulebook."""
        speaking = self.speaking(tenant, analysis)
        return speaking.generation if speaking else self.base.configured

    def gateway(self, tenant: str, analysis: str) -> Asks | None:
        """See Rulebook."""
        speaking = self.speaking(tenant, analysis)
        return self.gateways.get(speaking.model) if speaking and speaking.model else None


class Doors(Protocol):
    """`processors.replay.gateways.Gateways`."""

    async def open(self, model: str) -> Asks:
        """The door to this model, opened at first use. Raises SettingsError."""
        ...


class Promotions:
    """Keeps the live analyst's rulebook up to date."""

    def __init__(
        self,
        engine: AsyncEngine,
        base: AsInstalled,
        doors: Doors,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._engine = engine
        self._doors = doors
        self._sleep = sleep
        self._known: tuple[Promotion, ...] = ()
        self._rules = Promoted(base)

    def current(self) -> Promoted:
        """The rulebook as of the last look."""
        return self._rules

    async def refresh(self) -> None:
        """Look once. Raises what the database raises."""
        rows = await highest(self._engine)
        if rows == self._known:
            return
        reworded: dict[tuple[str, str], Analysis] = {}
        gateways: dict[str, Asks] = {}
        base = self._rules.base
        for row in rows:
            installed = base.installed.get(row.analysis)
            if installed is None:
                continue
            if row.prompt:
                try:
                    reworded[row.tenant, row.analysis] = reprompted(installed, row.prompt)
                except CandidateError as error:
                    # It was checked when it was promoted; a release since has overtaken it, and speaks under its number.
                    _log.error("promotion_ignored", analysis=row.analysis, generation=row.generation, why=str(error))
            if row.model:
                gateways[row.model] = await self._doors.open(row.model)
        self._known = rows
        self._rules = Promoted(base, {(row.tenant, row.analysis): row for row in rows}, reworded, gateways)
        _log.info("promotions_seen", promotions=[f"{row.analysis}:{row.generation}" for row in rows])

    async def run(self) -> None:
        """Look every REFRESH_SECONDS until cancelled; while Postgres is away the last view stays."""
        while True:
            await self._sleep(REFRESH_SECONDS)
            try:
                await self.refresh()
            except Exception as error:
                if as_unavailable(error) is None:
                    raise


async def highest(engine: AsyncEngine) -> tuple[Promotion, ...]:
    """The highest promotion of every tenant and analysis."""
    columns = (
        promotions.c.tenant,
        promotions.c.analysis,
        promotions.c.generation,
        promotions.c.prompt,
        promotions.c.model,
        promotions.c.prompt_version,
        promotions.c.replay,
    )
    asked = (
        sa.select(*columns)
        .ext(distinct_on(promotions.c.tenant, promotions.c.analysis))
        .order_by(promotions.c.tenant, promotions.c.analysis, promotions.c.generation.desc())
    )
    async with engine.connect() as connection:
        return tuple(Promotion(*row) for row in (await connection.execute(asked)).all())


async def promote(engine: AsyncEngine, replay: str, tenant: str, wanted: Sequence[Promotion], configured: int) -> int:
    """Write promotions under one new generation, above `configured` and every one there; returns it. Safe to call again for
    the same replay: it then returns what was given.
    """
    for _ in range(5):
        try:
            async with engine.begin() as connection:
                there = await connection.scalar(
                    sa.select(sa.func.max(promotions.c.generation)).where(promotions.c.replay == replay)
                )
                if there is not None:
                    return int(there)
                top = await connection.scalar(sa.select(sa.func.max(promotions.c.generation)))
                generation = max(configured, int(top or 0)) + 1
                await connection.execute(
                    promotions.insert(),
                    [
                        {
                            "tenant": tenant,
                            "analysis": each.analysis,
                            "generation": generation,
                            "replay": replay,
                            "prompt": each.prompt,
                            "prompt_version": each.prompt_version,
                            "model": each.model,
                        }
                        for each in wanted
                    ],
                )
                return generation
        except IntegrityError:
            continue
    raise RuntimeError("promotions were written by somebody else at the same moment, five times in a row: try again")
