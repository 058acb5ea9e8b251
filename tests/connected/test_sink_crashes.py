"""The Postgres sink on a real PostgreSQL: any order, any repetition, two owners at once, connections cut in the middle.

Every write to the table is kept by a trigger, so that what the table itself forgets is judged, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings, strategies
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.engine import build_engine
from infra.unavailable import Unavailable
from schemas.insight import Insight, Version
from sinks.destinations.destination import Needs
from sinks.destinations.postgres import PostgresDestination
from tests.faults.audit import INSTALL
from tests.sinks.making import insight as made
from tests.sinks.making import lead, quality

pytestmark = pytest.mark.connected

ANALYSES = {"lead_intel": lead, "data_quality": quality}


@dataclass
class Bench:
    """A loop, an engine and a connection of the judge's own, for all examples."""

    loop: asyncio.AbstractEventLoop
    engine: AsyncEngine
    judge: psycopg.Connection
    numbers: Iterator[int]

    def sink(self) -> PostgresDestination:
        async def touch(_account: str, **_given: object) -> None:
            pass

        return PostgresDestination(
            Needs(settings=None, engine=self.engine, accounts=None, fingerprint=None, touch=touch, disconnect=None)
        )


@pytest.fixture
def bench(settings) -> Iterator[Bench]:
    loop = asyncio.new_event_loop()
    engine = build_engine(settings)
    url = settings.database_url.get_secret_value()
    with psycopg.connect(url, autocommit=True, application_name="judge") as judge:
        judge.execute(INSTALL)
        yield Bench(loop, engine, judge, itertools.count())
    loop.run_until_complete(engine.dispose())
    loop.close()


spoken = strategies.tuples(
    strategies.sampled_from(("1", "2")),
    strategies.sampled_from(tuple(ANALYSES)),
    strategies.integers(0, 5),
    strategies.integers(1, 2),
)
"""Record, analysis, offset and generation: a version says one thing."""
batches = strategies.lists(spoken, min_size=1, max_size=4)
steps = strategies.lists(
    strategies.tuples(strategies.sampled_from(("write", "twice at once", "cut")), batches, batches),
    min_size=1,
    max_size=7,
)


def said(run: str, which: Sequence[tuple[str, str, int, int]]) -> list[Insight]:
    return [
        made(
            ANALYSES[analysis](10 * offset + generation),
            offset,
            record=f"{run}-{record}",
            version=Version(1, offset, generation),
        )
        for record, analysis, offset, generation in which
    ]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_whatever_happens_each_version_is_there_once_and_the_newest_stands(bench: Bench, steps):
    """INVARIANT: late, repeated and doubled messages are harmless. If it breaks, reports count twice or show the past."""
    run = f"{uuid.uuid4().hex[:12]}-{next(bench.numbers)}"
    every = set()
    for kind, first, second in steps:
        every |= {*first, *second}
        bench.loop.run_until_complete(_step(bench, kind, said(run, first), said(run, second)))
    # What was not acknowledged comes again, and what was, too.
    bench.loop.run_until_complete(_patiently(bench, said(run, sorted(every))))

    newest = {
        (record, analysis): max((o, g) for r, a, o, g in every if (r, a) == (record, analysis))
        for record, analysis, *_ in every
    }
    table = bench.judge.execute(
        "SELECT record_id, analysis, snapshot_offset, generation, payload FROM insights WHERE record_id LIKE %s",
        (f"{run}-%",),
    ).fetchall()
    assert {(row[0].rpartition("-")[2], row[1]): (row[2], row[3]) for row in table} == newest
    for record, analysis, offset, generation, payload in table:
        (expected,) = said(run, [(record.rpartition("-")[2], analysis, offset, generation)])
        assert payload == expected.payload.model_dump(mode="json"), "one version, and the words of another"
    history = bench.judge.execute(
        "SELECT record_id, analysis, snapshot_offset, generation FROM insight_history WHERE record_id LIKE %s",
        (f"{run}-%",),
    ).fetchall()
    assert Counter((record.rpartition("-")[2], *rest) for record, *rest in history) == Counter(every)
    written = bench.judge.execute(
        "SELECT source, record_id, analysis, snapshot_offset, generation FROM fault_audit WHERE record_id LIKE %s ORDER BY seq",
        (f"{run}-%",),
    ).fetchall()
    assert max(Counter(written).values()) == 1, "a version was written twice"
    of_one = itertools.groupby(
        sorted((row for row in written if row[0] == "insights"), key=lambda row: row[1:3]), key=lambda row: row[1:3]
    )
    for place, rows in of_one:
        versions = [row[3:] for row in rows]
        assert versions == sorted(versions), f"a version of {place} went down"


async def _patiently(bench: Bench, batch: list[Insight]) -> None:
    while True:
        with contextlib.suppress(Unavailable):
            await bench.sink().write(batch)
            return


async def _step(bench: Bench, kind: str, first: list[Insight], second: list[Insight]) -> None:
    if kind == "write":
        for batch in (first, second):
            # A connection that was cut a moment ago may show it only now.
            with contextlib.suppress(Unavailable):
                await bench.sink().write(batch)
        return
    writing = [asyncio.create_task(bench.sink().write(each)) for each in (first, second)]
    if kind == "cut":
        await asyncio.sleep(0)
        bench.judge.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'hookline'"
        )
    for task in writing:
        with contextlib.suppress(Unavailable):
            await task
