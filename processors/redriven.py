"""What is redriven twice asks twice: of changes that have insights sent again, the first message alone is taken at its word.

Law: what was redriven before is handled all the same; it asks for what is missing, and no longer for what is there. Which message
was the first is noted before anything is caused by it, by its place on the topic: one that comes again after a crash is the
first still. Only redriven changes of these reasons cost the question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.statement import Statements
from infra.kafka.codec import Received
from infra.kafka.letters import attempt_of, is_redriven
from schemas.change import Change
from schemas.record import Reason

SENDS_AGAIN: frozenset[Reason] = frozenset({"set_aside", "replay", "fenced"})
"""Reasons for which the analyst says again what it has said already."""
KEPT_DAYS = 60
"""A letter can be redriven for 30 days, and what that publishes be read late."""


class Sending(NamedTuple):
    """What redriving one letter publishes, however often: the same sealed bytes, as the same attempt."""

    digest: bytes
    attempt: int


class Place(NamedTuple):
    """Where a message lies on the topic that changes are redriven to."""

    partition: int
    offset: int


class Redriven(Protocol):
    """Which message of each sending was the first."""

    async def first(self, found: Mapping[Sending, Place]) -> Mapping[Sending, Place]:
        """The first message of each; those given are, of what was never seen. May wait for the database and raises what it
        raises; asked again it answers the same.
        """
        ...


async def asking_once(received: list[Received[Change]], redriven: Redriven) -> list[Received[Change]]:
    """These changes, in their order; what was redriven before asks for what is missing alone (`redrive`)."""
    sendings = {
        place: _sending(each)
        for place, each in enumerate(received)
        if each.payload.reason in SENDS_AGAIN and is_redriven(each.raw)
    }
    if not sendings:
        return received
    found: dict[Sending, Place] = {}
    for place, sending in sendings.items():
        found.setdefault(sending, _place(received[place]))
    first = await redriven.first(found)
    return [
        replace(each, payload=each.payload.model_copy(update={"reason": "redrive"}))
        if place in sendings and first[sendings[place]] != _place(each)
        else each
        for place, each in enumerate(received)
    ]


def _sending(received: Received[Change]) -> Sending:
    # Two messages have the same bytes only if one is the other sent again: each sealing draws its own nonce.
    return Sending(hashlib.sha256(received.raw.value or b"").digest(), attempt_of(received.raw))


def _place(received: Received[Change]) -> Place:
    return Place(received.partition, received.offset)


# A row that is there is written as it was: only so does the statement return it.
_FIRST = """
    INSERT INTO redriven_changes AS r (digest, attempt, partition, message_offset)
    SELECT * FROM unnest(%(digests)b::bytea[], %(attempts)b::int[], %(partitions)b::int[], %(offsets)b::bigint[])
      AS g (digest, attempt, partition, message_offset)
    ORDER BY digest, attempt
    ON CONFLICT (digest, attempt) DO UPDATE SET partition = r.partition
    RETURNING digest, attempt, partition, message_offset
"""
_FORGET = f"DELETE FROM redriven_changes WHERE created_at < now() - make_interval(days => {KEPT_DAYS})"  # noqa: S608 -- a constant


class PostgresRedriven:
    """`redriven_changes`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._statements = Statements(engine)

    async def first(self, found: Mapping[Sending, Place]) -> Mapping[Sending, Place]:
        """See Redriven. Forgets what is too old to be redriven."""
        given: dict[str, Sequence[object]] = {
            "digests": [sending.digest for sending in found],
            "attempts": [sending.attempt for sending in found],
            "partitions": [place.partition for place in found.values()],
            "offsets": [place.offset for place in found.values()],
        }
        rows = await self._statements.run(_FIRST, given)
        await self._statements.run(_FORGET, {})
        return {Sending(bytes(row[0]), row[1]): Place(row[2], row[3]) for row in rows}
