"""What a refresh has others do: the analyst's questions about records that were read anew, and the insights that follow.

Law: nothing of it happens in the replay's process. Questions are built from the records as they last stood, once as if nothing
had changed since and once as if everything had: which of it has, only the CRM knows. A record that was never published is
reckoned like the others of its kind of question, and what is guessed is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from console.reading import partitions_of
from console.replay.duration import Bound, Lasting, lasting
from console.replay.filter import Filter
from console.replay.index import build, resolve, windows
from console.replay.session import Session
from console.replay.snapshots import Follower, to_follow
from infra.kafka.broker import partition_of
from llm_gateway.routing import chosen
from processors.analyses.analysis import Analysis
from processors.provisional import Carries
from processors.replay.candidate import Reprompted
from processors.replay.estimate import Asked, Bill, Histories, bill, histories
from processors.replay.seams import Tally
from schemas.record import RecordRef
from schemas.topics import RECORDS

GUESSED_INPUT = 1_500
"""Tokens of a question of which there is neither a record to build it from nor an accounted call."""
_ACTIVITIES = frozenset({"note", "email"})
_FULLEST = "deal"
"""What a note hangs on is reckoned as one: about no kind of record are more questions asked."""

_Way = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Downstream:
    """Least: if the CRM says what it last said. Most: if all of it has changed."""

    least: Bill
    most: Bill
    insights: int
    """That are sent to every destination, unchanged ones again."""
    unseen: int
    """Records of which no snapshot lies on the topic."""
    activities: int
    lasting: Lasting
    """Of the most."""

    def as_json(self) -> dict[str, Any]:
        """For the plan's numbers."""
        notes = []
        if self.unseen:
            notes.append(f"never published yet: {self.unseen:,} of the records, reckoned like the others")
        if self.activities:
            notes.append(f"notes and e-mails: {self.activities:,}, the record that each hangs on reckoned as changed")
        return {
            "least": _plain(self.least),
            "most": _plain(self.most),
            "insights": self.insights,
            "unseen": self.unseen,
            "basis": [*self.most.basis, *notes],
            **self.lasting.as_json(),
        }


def _plain(of: Bill) -> dict[str, Any]:
    return {
        "model_calls": of.model_calls,
        "cache_hits": of.cache_hits,
        "input_tokens": of.input_tokens,
        "output_tokens": of.output_tokens,
        "cost_usd": round(of.cost_usd, 6),
    }


async def follow(session: Session, wanted: Filter, refs: Collection[RecordRef]) -> Downstream:
    """Reckon. Raises KafkaError, RedisError, Unavailable; asks nobody and changes nothing."""
    records = {ref for ref in refs if ref.object not in _ACTIVITIES}
    least = await to_follow(session.outside(Tally()), changed=False)
    most = await to_follow(session.outside(Tally()), changed=True)
    await _look(session, wanted, records, (least, most))
    hung = [ref._replace(object=_FULLEST) for ref in refs if ref.object in _ACTIVITIES]
    seen = _applying(session, most.codec.seen)
    never = records - most.codec.seen - most.codec.deleted
    history = await histories(session.parts.engine)
    unseen = {
        "least": _applying(session, never),
        # What was deleted may have come back, and what a note hangs on has changed by it.
        "most": _applying(session, [*(records - most.codec.seen), *hung]),
    }
    provider, settings = chosen(session.settings), session.settings
    batched = settings.model_batch and provider == "groq"
    bills = {}
    for name, look in (("least", least), ("most", most)):
        asked = _with_unseen(
            look.questions.asked,
            most.questions.asked,
            seen,
            unseen[name],
            history,
            _asking(session, refs),
            settings.model,
        )
        bills[name] = bill(provider, asked, history, {}, batched=batched)
    tenants = most.questions.tenants + Counter(
        ref.tenant for ref in [*(records - most.codec.seen), *hung] if _applying(session, [ref])
    )
    gateway = await session.gateways.open()
    took = await lasting(
        Bound(0.0, ""), bills["most"], tenants, gateway, session.parts.redis, replays=False, batched=batched
    )
    return Downstream(
        bills["least"],
        bills["most"],
        most.tally.counts["insights"] + sum(unseen["most"].values()),
        len(never),
        len(hung),
        took,
    )


async def _look(
    session: Session, wanted: Filter, records: Collection[RecordRef], followers: tuple[Follower, ...]
) -> None:
    """Have them handle the newest snapshot of each record that has one."""
    if not records:
        return
    place = Filter(wanted.tenant, wanted.account, wanted.object if wanted.object not in _ACTIVITIES else "")
    consumer = await session.consumer()
    count = len(await partitions_of(consumer, RECORDS.name))
    places = {partition_of(str(ref).encode(), count) for ref in records} if count else set()
    found = await resolve(consumer, RECORDS.name, place)
    ranges = {number: span for number, span in found.items() if number in places}
    index = await build(consumer, RECORDS.name, ranges, place, only=frozenset(records))
    feed = await session.feed(RECORDS.name, ranges)
    for pages, _ in windows(index.items, grouped=False):
        for page in pages:
            raws = [raw for _, raw in await feed.fetch(page)]
            for each in followers:
                await each.analyst.handle(raws)
                await each.questions.look(session.parts.redis)


def _applying(session: Session, refs: Collection[RecordRef]) -> Counter[str]:
    """How many of these records each analysis looks at."""
    live = session.promotions.current()
    found: Counter[str] = Counter()
    for (tenant, object_), number in Counter((ref.tenant, ref.object) for ref in refs).items():
        found.update({name: number for name, each in live.analyses(tenant).items() if object_ in each.objects})
    return found


def _asking(session: Session, refs: Collection[RecordRef]) -> set[str]:
    """Analyses that ask a model at all, as far as that can be told without a record."""
    live = session.promotions.current()
    each_of: dict[str, Analysis] = {}
    for tenant in {ref.tenant for ref in refs}:
        each_of |= live.analyses(tenant)
    return {name for name, each in each_of.items() if isinstance(each, Carries | Reprompted)}


def _with_unseen(
    asked: Mapping[_Way, Asked],
    rates: Mapping[_Way, Asked],
    seen: Counter[str],
    unseen: Counter[str],
    history: Histories,
    asking: Collection[str],
    model: str,
) -> dict[_Way, Asked]:
    """`asked`, and what so many records more ask of each analysis, if they ask as the seen ones did (`rates`)."""
    found = {way: replace(each) for way, each in asked.items()}

    def add(way: _Way, questions: int, tokens: int, like: Asked) -> None:
        there = found.setdefault(way, replace(like, questions=0, hits=0, tokens=0))
        there.questions += questions
        there.tokens += tokens

    for analysis, number in unseen.items():
        if seen[analysis]:
            share = number / seen[analysis]
            for way, each in rates.items():
                if way[0] == analysis:
                    add(way, ceil(each.questions * share), ceil(each.tokens * share), each)
        elif analysis in asking:
            lately = [(known.calls, name, known) for (of, name), known in history.items() if of == analysis]
            _, name, known = max(lately, default=(0, model, None), key=lambda each: each[0])
            tokens = GUESSED_INPUT if known is None else round(known.input_tokens)
            add((analysis, (name,)), number, number * tokens, Asked((name,)))
    return found
