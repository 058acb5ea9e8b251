"""Operations on what flows: requests, dead letters, status, backfills, insights."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from console.api import models
from console.api.problems import Problem
from console.api.routes import Call, Operation
from console.backfill.planner import plan
from console.backfill.store import RESUMABLE, Backfill, Backfills
from console.dead_letters.filter import Filter, LetterId
from console.dead_letters.index import Entry, Index
from console.dead_letters.redrive import Redrive
from console.dead_letters.showing import count_json, entry_json
from console.insights import from_row
from console.requests import causes_of, listed, retried
from console.runtime import ConsoleError
from console.status_accounts import SECTION as ACCOUNTS
from console.status_aside import waiting
from console.status_lag import SECTION as LAG
from console.times import moment
from infra.crm.vendors import connected
from infra.database.tables import insights, refusals
from infra.kafka.codec import Codec

SOURCE = "hookline/api"

# requests


async def _requests(call: Call) -> list[dict[str, Any]]:
    wanted, registry = call.query, call.at.registry
    only = bool(wanted.endpoint)
    own = [each for each in await registry.endpoints() if each.tenant == call.tenant]
    lines = await listed(
        call.at.settings,
        call.at.parts.engine,
        call.at.keyring,
        [await call.own_endpoint(wanted.endpoint)] if only else own,
        only=only,
        tenant=call.tenant,
        account=wanted.account,
        causes=causes_of(wanted.cause),
        since=moment(wanted.since) or datetime.now(UTC) - timedelta(hours=1),
        until=moment(wanted.until),
    )
    return [line.plain() for line in lines if line.tenant == call.tenant][-wanted.limit :]


async def _retry(call: Call) -> dict[str, Any]:
    identity = call.path["request"]
    asked = sa.select(refusals.c.tenant).where(refusals.c.request_id == identity)
    async with call.at.parts.engine.connect() as connection:
        tenant = await connection.scalar(asked)
    if tenant != call.tenant:
        raise Problem(404, "there is no such refused request", "GET /api/requests lists those that are there.")
    at = call.at
    found = await retried(at.registry, at.settings, at.parts.engine, at.keyring, [identity], dry_run=False)
    return {"request_id": identity, "result": found[0].result, "detail": found[0].detail}


# dead letters


def _index(call: Call) -> Index:
    return Index(call.at.settings, call.at.parts.engine, Codec(call.at.keyring, SOURCE))


def _filter(call: Call, wanted: Any, state: Any) -> Filter:
    return Filter(
        call.tenant, wanted.account, wanted.stage, wanted.cause.upper(), wanted.object, wanted.record, wanted.kind,
        moment(wanted.since), moment(wanted.until), state,
    )  # fmt: skip


async def _letters(call: Call) -> dict[str, Any]:
    index, chosen = _index(call), _filter(call, call.query, call.query.state)
    await index.catch_up()
    counts, entries = await index.counts(chosen), await index.entries(chosen, call.query.limit)
    return {"counts": [count_json(each) for each in counts], "letters": [entry_json(each) for each in entries]}


async def _letter(call: Call) -> dict[str, Any]:
    index = _index(call)
    await index.catch_up()
    return entry_json(await _own_letter(call, index, call.path["letter"]))


async def _own_letter(call: Call, index: Index, text: str) -> Entry:
    try:
        entry = await index.entry(LetterId.parse(text))
    except (OverflowError, sa.exc.DBAPIError):
        entry = None  # a number that no partition or offset can have
    if entry is None or entry.tenant != call.tenant:
        raise Problem(404, "there is no such letter", "GET /api/dead-letters?state=all lists those that are there.")
    return entry


async def _meant(call: Call, index: Index, state: str) -> tuple[list[LetterId], int]:
    """The letters to act on, and how many were meant."""
    wanted = call.body
    if not wanted.ids:
        found = await index.ids(_filter(call, wanted, state))
        return found[: wanted.limit], len(found)
    entries = [await _own_letter(call, index, each) for each in dict.fromkeys(wanted.ids)]
    fitting = [entry.id for entry in entries if state in {entry.state, "all"}]
    return fitting[: wanted.limit], len(entries)


async def _redrive(call: Call) -> dict[str, Any]:
    at, index = call.at, _index(call)
    await index.catch_up()
    letters, matched = await _meant(call, index, "all" if call.body.repeat else "open")
    work = Redrive(at.settings, at.parts.engine, at.keyring, index, at.publisher, call.who)
    done = await work.run(letters, repeat=call.body.repeat, rate=1_000.0)
    return {"done": done.redriven, "left": {str(why): number for why, number in done.left.items()}, "matched": matched}


async def _discard(call: Call) -> dict[str, Any]:
    index = _index(call)
    await index.catch_up()
    letters, matched = await _meant(call, index, "discarded" if call.body.undo else "open")
    done = await index.discard(letters, call.who, undo=call.body.undo) if letters else 0
    return {"done": done, "left": {}, "matched": matched}


# status


async def _status(call: Call) -> dict[str, Any]:
    index = _index(call)
    await index.catch_up()
    sight = call.at.sight
    counts = [count_json(each) for each in await index.counts(Filter(tenant=call.tenant))]
    return {
        "lag": await LAG.look(sight),
        "set_aside": [row for row in await waiting(sight.engine) if row["tenant"] == call.tenant],
        "dead_letters": counts,
        "accounts": [row for row in await ACCOUNTS.look(sight) if row["tenant"] == call.tenant],
    }


# backfills


async def _backfills(call: Call) -> list[dict[str, Any]]:
    return [each.plain() for each in await Backfills(call.at.parts.engine).all(call.tenant, call.query.account)]


async def _plan(call: Call) -> dict[str, Any]:
    wanted = call.body
    account = await call.own_account(wanted.account)
    async with connected(call.at.settings, account.crm) as client:
        made = await plan(
            call.at.settings, Backfills(call.at.parts.engine), client, account,
            objects=wanted.objects, rate=wanted.rate, calls_per_day=wanted.calls_per_day, by=call.who,
        )  # fmt: skip
    return made.plain()


async def _own_backfill(call: Call) -> Backfill:
    try:
        return await Backfills(call.at.parts.engine).get(call.path["backfill"], call.tenant)
    except ConsoleError:
        raise Problem(404, "there is no such backfill", "GET /api/backfills lists those that are there.") from None


async def _show_backfill(call: Call) -> dict[str, Any]:
    return (await _own_backfill(call)).plain()


async def _run_backfill(call: Call) -> dict[str, Any]:
    one = await _own_backfill(call)
    backfills = Backfills(call.at.parts.engine)
    runs = [state for state in RESUMABLE if state != "running"]
    if one.state != "running" and not await backfills.update(one.id, only_from=runs, state="queued"):
        raise Problem(409, f"it is {one.state}", "Plan a new one with POST /api/backfills.")
    return (await backfills.get(one.id)).plain()


async def _cancel_backfill(call: Call) -> dict[str, Any]:
    one = await _own_backfill(call)
    backfills = Backfills(call.at.parts.engine)
    await backfills.cancel(one)
    return (await backfills.get(one.id)).plain()


# insights


async def _insights(call: Call) -> list[dict[str, Any]]:
    wanted = call.query
    asked = sa.select(insights).where(insights.c.tenant == call.tenant)
    pairs = (
        (wanted.account, insights.c.account), (wanted.object, insights.c.object),
        (wanted.record, insights.c.record_id), (wanted.analysis, insights.c.analysis),
    )  # fmt: skip
    for value, column in pairs:
        if value:
            asked = asked.where(column == value)
    asked = asked.order_by(insights.c.analyzed_at.desc(), insights.c.record_id, insights.c.analysis).limit(wanted.limit)
    async with call.at.parts.engine.connect() as connection:
        rows: Sequence[Any] = (await connection.execute(asked)).mappings().all()
    return [from_row(dict(row)).model_dump(mode="json") for row in rows]


_B = "/backfills/{backfill}"
_Plain = dict[str, Any]
OPERATIONS = (
    Operation("GET", "/requests", "list_requests", "Requests at the front door, and what became of them.", "viewer", _requests, list[models.RequestLine], query=models.RequestsQuery, tag="requests"),
    Operation("POST", "/requests/{request}/retry", "retry_request", "Let a refused request in after all, if it passes now.", "engineer", _retry, models.Retry, tag="requests"),
    Operation("GET", "/dead-letters", "list_dead_letters", "Counts by cause with what to do, and the newest letters.", "viewer", _letters, _Plain, query=models.LettersQuery, tag="dead letters"),
    Operation("GET", "/dead-letters/{letter}", "show_dead_letter", "One letter, without its content.", "viewer", _letter, _Plain, tag="dead letters"),
    Operation("POST", "/dead-letters/redrive", "redrive_dead_letters", "Send letters back to where they failed.", "engineer", _redrive, models.Acted, models.Redrive, tag="dead letters"),
    Operation("POST", "/dead-letters/discard", "discard_dead_letters", "Take letters off the list, or put them back.", "engineer", _discard, models.Acted, models.Discard, tag="dead letters"),
    Operation("GET", "/status", "show_status", "Lag, what is set aside, dead letters, accounts.", "viewer", _status, _Plain, tag="status"),
    Operation("GET", "/backfills", "list_backfills", "Backfills, newest first.", "viewer", _backfills, list[_Plain], query=models.AccountQuery, tag="backfills"),
    Operation("POST", "/backfills", "plan_backfill", "Count what there is and say what reading it takes.", "engineer", _plan, _Plain, models.BackfillOf, status=201, tag="backfills"),
    Operation("GET", _B, "show_backfill", "How far one is.", "viewer", _show_backfill, _Plain, tag="backfills"),
    Operation("POST", f"{_B}/run", "run_backfill", "Run it, or go on with it, in the background.", "engineer", _run_backfill, _Plain, tag="backfills"),
    Operation("POST", f"{_B}/cancel", "cancel_backfill", "End it after the page under way.", "engineer", _cancel_backfill, _Plain, tag="backfills"),
    Operation("GET", "/insights", "list_insights", "Insights as Postgres holds them, newest first.", "viewer", _insights, list[_Plain], query=models.InsightsQuery, tag="insights"),
)  # fmt: skip
