"""A letter redriven twice, and once more after a crash, on the whole way to Postgres: counted in versions of insights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import get_args

import pytest

from console.status_lag import lags
from processors.app import build_analyst
from processors.redriven import SENDS_AGAIN
from schemas.change import Change
from schemas.dead_letter import Cause
from schemas.record import Reason
from schemas.topics import CHANGES, INSIGHTS, RECORDS
from sinks.app import build_app as build_sinks
from tests.connected.test_dead_letters import House
from tests.connected.test_hydrator import PORTAL, Stage, stage  # noqa: F401 -- a fixture

pytestmark = [pytest.mark.connected, pytest.mark.timeout(180)]


REASONS = get_args(Reason)


class Journey:
    """Hydrator, analyst and the Postgres sink over one portal, and one of its records for each reason."""

    def __init__(self, stage: Stage, house: House) -> None:  # noqa: F811
        self.stage, self.house = stage, house
        self.records: dict[Reason, str] = {
            reason: stage.controls.create_record(PORTAL, "deal", {"dealname": reason, "amount": "48000"})["id"]
            for reason in REASONS
        }

    def change(self, reason: Reason) -> Change:
        return self.house.change(self.records[reason], reason=reason)

    async def versions(self) -> dict[str, int]:
        """Reason → versions of its record's insights, once nothing waits anywhere: each stage is asked after the one before it."""
        async with asyncio.timeout(90):
            while True:
                found = await lags(self.stage.settings)
                if not any(lag.messages for lag in found if lag.role != "translator"):
                    break
                await asyncio.sleep(0.1)
        rows = await self.stage.query("SELECT record_id, count(*) FROM insight_history GROUP BY 1")
        counts = dict(map(tuple, rows))
        return {reason: counts.get(record, 0) for reason, record in self.records.items()}

    async def redrive_as_if_it_crashed(self, letters) -> None:
        """Published and acknowledged, and not marked."""

        async def crash(*_):
            raise ConnectionError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.house.index, "redriven", crash)
            with pytest.raises(ConnectionError):
                await self.house.redrive(*letters)
        assert {(await self.house.index.entry(letter)).state for letter in letters} == {"open"}


@pytest.fixture
async def journey(stage: Stage) -> AsyncIterator[Journey]:  # noqa: F811
    settings = stage.settings.model_copy(update={"provider": "offline", "destinations": ["postgres"]})
    stage.settings = settings
    async with House(settings, stage.tenant) as house:
        house.account = PORTAL
        house.keyring = stage.parts.keyring
        roles = [build_analyst(settings, stage.parts), build_sinks(settings, stage.parts)]
        await asyncio.gather(*(role.start() for role in roles))
        made = Journey(stage, house)
        await made.house.publisher.publish(
            CHANGES, [made.change(reason).model_copy(update={"reason": "webhook"}) for reason in REASONS]
        )
        yield made
        await asyncio.gather(*(role.drain(5) for role in roles))


async def test_a_change_has_effects_once_however_often_its_letter_is_redriven(journey: Journey):
    """INVARIANT: for every reason. If it fails, who redrives after a crash, or twice, gives people an insight's version twice."""
    house = journey.house
    before = await journey.versions()
    assert min(before.values()) > 0
    letters = [
        await house.letter(CHANGES, journey.change(reason), stage="hydrator", cause=Cause.HANDLER_BUG)
        for reason in REASONS
    ]
    await journey.redrive_as_if_it_crashed(letters)
    once = await journey.versions()
    assert {reason for reason in REASONS if once[reason] > before[reason]} == SENDS_AGAIN, (
        "what each was made for happens"
    )
    for repeat in (False, True):
        assert (await house.redrive(*letters, repeat=repeat)).redriven == len(letters)
        assert await journey.versions() == once


async def test_a_note_has_effects_once_on_the_record_that_it_hangs_on(journey: Journey):
    """What is passed on asks for as much as the note's own change did; the later ones come together."""
    house = journey.house
    record = journey.records["set_aside"]
    note = journey.stage.controls.note(PORTAL, record, "They need single sign-on by March.")["id"]
    await house.publisher.publish(CHANGES, [journey.change("set_aside").model_copy(update={"reason": "webhook"})])
    before = (await journey.versions())["set_aside"]
    change = house.change(note, object="note", reason="set_aside")
    letter = await house.letter(CHANGES, change, stage="hydrator", cause=Cause.HANDLER_BUG)
    await journey.redrive_as_if_it_crashed([letter])
    once = (await journey.versions())["set_aside"]
    assert once > before
    await house.redrive(letter)
    await house.redrive(letter, repeat=True)
    assert (await journey.versions())["set_aside"] == once


async def test_what_failed_behind_the_hydrator_has_effects_once(journey: Journey):
    """A snapshot's letter, and an insight's for the destination that refused it."""
    house = journey.house
    before = await journey.versions()
    snapshot = journey.stage.records.found[-1]
    (given, *_) = [found.payload for found in await house.on(INSIGHTS)]
    letters = [
        await house.letter(RECORDS, snapshot, stage="analyst", cause=Cause.MODEL_OUTPUT_INVALID),
        await house.letter(INSIGHTS, given, stage="sink:postgres", cause=Cause.HANDLER_BUG),
    ]
    await journey.redrive_as_if_it_crashed(letters)
    for repeat in (False, True):
        assert (await house.redrive(*letters, repeat=repeat)).redriven == 2
    assert await journey.versions() == before
