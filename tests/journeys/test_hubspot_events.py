"""HubSpot's webhooks of every type, through all roles: what is left of insights on records that merge, part, go and come back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from infra.database.tables import hydrator_state, insight_history, insights, privacy_erasures
from schemas.topics import INSIGHTS, RECORDS
from tests.journeys.house import until
from tests.journeys.place import Place

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

ADA = {"firstname": "Ada", "lastname": "Lovelace", "email": "ada@engines.example", "jobtitle": "Head of Sales"}
TWIN = {"firstname": "Ada", "lastname": "Lovelace", "email": "ada.l@engines.example", "phone": "+44 20 7946 0000"}
DEAL = {"dealname": "Analytical engine", "amount": "42000", "dealstage": "qualifiedtobuy"}
FIRM = {"name": "Engines Ltd", "domain": "engines.example", "industry": "MACHINERY"}


async def rows(place: Place, table: sa.Table, record: str, *, analysis: str = "lead_intel") -> list[Mapping[str, Any]]:
    """Of one record, oldest first where there are several."""
    asked = sa.select(table).where(table.c.tenant == place.tenant, table.c.record_id == record)
    if "analysis" in table.c:
        asked = asked.where(table.c.analysis == analysis)
    if "snapshot_offset" in table.c:
        asked = asked.order_by(table.c.epoch, table.c.snapshot_offset, table.c.generation)
    async with place.engine.connect() as connection:
        return list((await connection.execute(asked)).mappings())


async def standing(place: Place, record: str) -> str:
    """`none`, `retracted` or `there`: the insight in Postgres."""
    found = await rows(place, insights, record)
    return ("retracted" if found[0]["retracted"] else "there") if found else "none"


async def read_at(place: Place, record: str) -> datetime | None:
    found = await rows(place, hydrator_state, record)
    return found[0]["read_at"] if found else None


async def snapshots(place: Place, record: str) -> list[Any]:
    return [each.payload for each in await place.messages(RECORDS) if each.payload.id == record]


async def analyses(place: Place, record: str, analysis: str = "lead_intel") -> int:
    found = await place.messages(INSIGHTS)
    return sum(each.payload.id == record and each.payload.analysis == analysis for each in found)


def make(place: Place, kind: str, values: dict[str, str], about: list[list[str]] | None = None) -> str:
    return str(place.controls.create_record(place.portal, kind, values, about)["id"])


async def written(place: Place, *records: tuple[str, str]) -> None:
    """Until each has its insight, in HubSpot and in Postgres."""

    async def there() -> bool:
        on = all(place.insight("hubspot", kind, one).get("version") for kind, one in records)
        return on and all([await standing(place, one) == "there" for kind, one in records if kind != "company"])

    await until("the insights are on the records", there, 30)
    await until("all is settled", place.settled, 30)


async def test_a_merge_retracts_what_was_said_of_the_loser_and_analyses_the_one_that_stays(hubspot: Place):
    kept, loser = make(hubspot, "contact", ADA), make(hubspot, "contact", TWIN)
    await written(hubspot, ("contact", kept), ("contact", loser))
    before = await analyses(hubspot, kept)
    writes = [each for each in hubspot.house.journal().insight_writes() if each.id == loser]
    hubspot.controls.merge(hubspot.portal, "contact", kept, [loser])

    async def done() -> bool:
        return await standing(hubspot, loser) == "retracted" and await analyses(hubspot, kept) > before

    await until("the loser's insight is retracted and the survivor is analysed again", done, 30)
    await until("all is settled", hubspot.settled, 30)
    # The survivor took what it lacked, and its insight knows.
    newest = (await snapshots(hubspot, kept))[-1]
    assert newest.fields["phone"] == TWIN["phone"]
    assert "phone" in newest.changed
    assert await standing(hubspot, kept) == "there"
    gone = (await snapshots(hubspot, loser))[-1]
    assert (gone.deleted, gone.merged_into) == (True, kept)
    # Nothing is written to a record that is no more, and the history still tells what had been said of it.
    assert [each for each in hubspot.house.journal().insight_writes() if each.id == loser] == writes
    told = [row["retracted"] for row in await rows(hubspot, insight_history, loser)]
    assert (told[0], told[-1]) == (False, True)
    assert await hubspot.dead_letters() == []


async def test_an_association_is_news_for_both_ends_when_it_comes_and_when_it_goes(hubspot: Place):
    deal, contact = make(hubspot, "deal", DEAL), make(hubspot, "contact", ADA)
    firm = make(hubspot, "company", FIRM)
    await written(hubspot, ("deal", deal), ("contact", contact))

    async def linked(record: str, *wanted: str) -> bool:
        newest = (await snapshots(hubspot, record))[-1]
        return {each.id for each in newest.related} == set(wanted)

    for removed in (False, True):
        before = [await read_at(hubspot, one) for one in (contact, deal, firm)]
        hubspot.controls.associate(hubspot.portal, ["contact", contact], ["deal", deal], removed=removed)
        hubspot.controls.associate(hubspot.portal, ["contact", contact], ["company", firm], removed=removed)

        async def known(*, gone: bool = removed) -> bool:
            # A deal shows its contacts, a contact its company: both ends of both links are looked at.
            return await linked(deal, *([] if gone else [contact])) and await linked(contact, *([] if gone else [firm]))

        await until(f"both ends know the link (removed: {removed})", known, 30)
        after = [await read_at(hubspot, one) for one in (contact, deal, firm)]
        assert after[0] != before[0]
        assert after[1] != before[1]
    assert (await snapshots(hubspot, deal))[-1].changed == ("related",)
    assert await hubspot.dead_letters() == []


async def test_a_deletion_retracts_and_a_restoration_analyses_again(hubspot: Place):
    deal = make(hubspot, "deal", DEAL)
    await written(hubspot, ("deal", deal))
    first = (await rows(hubspot, insights, deal))[0]
    hubspot.controls.delete(hubspot.portal, "deal", deal)

    async def retracted() -> bool:
        return await standing(hubspot, deal) == "retracted"

    await until("the insight is retracted", retracted, 30)
    assert (await rows(hubspot, insights, deal))[0]["payload"] is None
    hubspot.controls.restore(hubspot.portal, "deal", deal)

    async def back() -> bool:
        await hubspot.hurry()
        return await standing(hubspot, deal) == "there"

    await until("it is analysed again", back, 40)
    again = (await rows(hubspot, insights, deal))[0]
    assert again["score"] == first["score"]
    assert again["snapshot_offset"] > first["snapshot_offset"]
    assert [row["retracted"] for row in await rows(hubspot, insight_history, deal)][:2] == [False, True]
    assert await hubspot.dead_letters() == []


async def test_a_privacy_deletion_erases_the_person_whatever_comes_first(hubspot: Place):
    person = make(hubspot, "contact", ADA)
    deal = make(hubspot, "deal", DEAL, [["contact", person]])
    await written(hubspot, ("contact", person), ("deal", deal))
    hubspot.controls.delete(hubspot.portal, "contact", person, erase=True)

    async def asked() -> bool:
        asked = sa.select(privacy_erasures.c.requested_by).where(privacy_erasures.c.tenant == hubspot.tenant)
        async with hubspot.engine.connect() as connection:
            return list((await connection.execute(asked)).scalars()) == ["crm"]

    await until("the erasure is under way, once", asked, 30)

    async def gone() -> bool:
        return await standing(hubspot, person) in {"none", "retracted"}

    await until("nothing is said of the person any more", gone, 40)


async def test_a_reps_feedback_is_shown_to_one_more_analysis_and_starts_no_round(hubspot: Place):
    """INVARIANT: feedback is heard, once. If it breaks, either reps speak to a wall, or every thumb pays a model for ever."""
    contact = make(hubspot, "contact", {**ADA, "lifecyclestage": "opportunity", "hs_lead_status": "CONNECTED"})
    await written(hubspot, ("contact", contact))
    before = await analyses(hubspot, contact)
    score = hubspot.insight("hubspot", "contact", contact)["score"]
    said = {"hookline_feedback": "down", "hookline_feedback_note": "Head of Sales is out of date, she left sales."}
    hubspot.controls.save(hubspot.portal, "contact", contact, said)

    async def heard() -> bool:
        return hubspot.insight("hubspot", "contact", contact)["score"] != score

    await until("the next insight has heard it", heard, 30)
    await until("the CRM has nothing more to tell", lambda: hubspot.controls.state()["idle"], 30)
    newest = (await snapshots(hubspot, contact))[-1]
    assert newest.feedback == {"feedback": "down", "feedback_note": said["hookline_feedback_note"]}
    assert newest.changed == ("feedback",)
    assert not any(name.startswith("hookline_") for name in (*newest.fields, *newest.known_fields))
    # A write that came of it must not come back as news: another record's whole round goes by meanwhile.
    await written(hubspot, ("contact", make(hubspot, "contact", TWIN)))
    assert await analyses(hubspot, contact) == before + 1
    held = hubspot.controls.record(hubspot.portal, "contact", contact)["properties"]
    assert {name: held[name] for name in said} == said, "what a rep wrote stays the rep's"
    assert hubspot.reconciled().duplicate_effects == []
