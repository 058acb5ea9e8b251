"""What a replay will do and cost, before anything runs.

Law: reads the whole range, applies the same filter and the same rules as the run, and asks nobody. Numbers are kept with
the replay, for the run to be held against.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from console.replay.crm_cost import budget_of, calls_for, most_calls_for
from console.replay.downstream import follow
from console.replay.duration import Lasting, by_rate, lasting
from console.replay.index import Index, build, windows
from console.replay.refresh import erased
from console.replay.session import REFRESHES, Session
from console.replay.snapshots import to_estimate
from console.replay.store import Replay
from infra.accounts import Account
from llm_gateway import pricing
from llm_gateway.routing import chosen
from processors.analyses.analysis import Analysis
from processors.replay.candidate import Reprompted
from processors.replay.estimate import Bill, bill, histories
from processors.replay.seams import Tally
from schemas.topics import RECORDS

NOTHING = Bill(0, 0, 0, 0, 0.0, ())
KINDS = {
    True: "refreshes: every record is read from the CRM again, as it stands now",
    False: "replays the past as it was: stored snapshots, no CRM call; complete for the last 7 days, and the newest of each record before",
}
REDELIVERS = "delivers stored insights again; no model and no CRM is read"


@dataclass(frozen=True, slots=True)
class Planned:
    """The numbers, and what they were counted from."""

    index: Index
    numbers: dict[str, Any]


async def plan(session: Session, replay: Replay) -> Planned:
    """Read and reckon. Raises KafkaError, Unavailable, CandidateError; changes nothing."""
    tally = Tally()
    consumer = await session.consumer()
    index = await build(consumer, replay.topic, replay.ranges, replay.filter, session.decoder(replay.topic, tally))
    numbers: dict[str, Any] = {
        "what": kind_of(replay.topic),
        "messages": index.messages,
        "records": index.records,
        "insights": 0,
        "crm_calls": {},
        "price_list": pricing.PRICE_LIST,
        "prices_of": pricing.newest_change(),
    }
    took = Lasting(by_rate(len(index.items), replay.rate))
    if replay.topic in REFRESHES:
        found = await _refresh(session, replay, index, tally)
        reckoned = NOTHING
    elif replay.topic == RECORDS.name:
        reckoned, took = await _snapshots(session, replay, index, tally)
        found = {"insights": tally.counts["insights"]}
    else:
        found, reckoned = {"insights": len(index.items)}, NOTHING
    numbers |= {
        **took.as_json(),
        "model_calls": reckoned.model_calls,
        "cache_hits": reckoned.cache_hits,
        "input_tokens": reckoned.input_tokens,
        "output_tokens": reckoned.output_tokens,
        "cost_usd": round(reckoned.cost_usd, 6),
        "basis": list(reckoned.basis),
        "skipped": {
            name: number for name in ("erased", "unreadable", "deleted", "refused") if (number := tally.counts[name])
        },
        **found,
    }
    if replay.topic == RECORDS.name:
        numbers["skipped"].pop("refused", None)
    return Planned(index, numbers)


def kind_of(topic: str) -> str:
    """Which of the two a replay from this topic is."""
    return KINDS[topic in REFRESHES] if topic in REFRESHES or topic == RECORDS.name else REDELIVERS


async def _snapshots(session: Session, replay: Replay, index: Index, tally: Tally) -> tuple[Bill, Lasting]:
    feed = await session.feed(replay.topic, replay.ranges)
    work, questions, analyses = await to_estimate(replay, session.outside(tally), feed)
    for pages, _ in windows(index.items, grouped=False):
        for page in pages:
            await work.handle(await work.fetch(page))
            await questions.look(session.parts.redis)
    history = await histories(session.parts.engine)
    batched = session.settings.model_batch and chosen(session.settings) == "groq"
    reckoned = bill(chosen(session.settings), questions.asked, history, _replaced(analyses), batched=batched)
    gateway = await session.gateways.open(replay.candidate.model)
    own = by_rate(len(index.items), replay.rate)
    return reckoned, await lasting(
        own, reckoned, questions.tenants, gateway, session.parts.redis, replays=True, batched=batched
    )


def _replaced(analyses: Mapping[str, Analysis]) -> dict[str, str]:
    return {
        name: each.replaced_system
        for name, each in analyses.items()
        if isinstance(each, Reprompted) and each.replaced_system
    }


async def _refresh(session: Session, replay: Replay, index: Index, tally: Tally) -> dict[str, Any]:
    items = index.items
    gone = await erased(session.parts.engine, session.people, items)
    left = [item for item in items if item.ref not in gone]
    tally("erased", len({item.ref for item in items} & gone))
    calls: Counter[str] = Counter()
    most: Counter[str] = Counter()
    called: dict[str, Account] = {}
    waiting = 0
    for pages, _ in windows(left, grouped=True):
        for page in pages:
            account = session.parts.directory.account(page[0].ref.account)
            if account is None or account.state == "disconnected":
                waiting += len(page)
                continue
            called[account.id] = account
            calls[account.id] += calls_for(account.crm, page[0].ref.object, len(page))
            most[account.id] += most_calls_for(account.crm, page[0].ref.object, len(page))
    refs = {item.ref for item in left}
    return {
        "records": len(refs),
        "crm_calls": {
            id_: {
                "calls": calls[id_],
                "at_most": most[id_],
                **asdict(await budget_of(session.settings, session.parts.redis, account)),
            }
            for id_, account in called.items()
        },
        "disconnected": waiting,
        "downstream": (await follow(session, replay.filter, refs)).as_json(),
    }
