"""A person's edit in Salesforce that nobody posts anywhere: by the event bus alone it becomes an insight on the record."""

from __future__ import annotations

import pytest

from ingress.pubsub.frame import SOURCE
from schemas.topics import DELIVERIES
from tests.journeys.house import open_house, until
from tests.journeys.place import open_place

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]


@pytest.fixture
def house(addresses, tmp_path):
    with open_house(addresses, tmp_path, events=True) as opened:
        yield opened


async def test_a_persons_edit_arrives_by_the_event_bus_alone_and_becomes_an_insight(house):
    async with open_place(house, hubspot=False, salesforce=True) as place:
        place.controls.set_manners(f"org:{place.org}", paused=True)  # outbound messages stay where they are
        await place.registry.add_endpoint(
            place.tenant, SOURCE, config={"channel": "/data/ChangeEvents"}, accounts=[place.org]
        )
        await until("the stream is open", lambda: place.controls.events(place.org)["subscriptions"] == 1)
        lead = place.controls.create_record(
            place.org,
            "lead",
            {"FirstName": "Ada", "LastName": "Lovelace", "Company": "Engines", "Email": "ada@engines.example"},
        )["id"]
        await until(
            "the first insight is on the record", lambda: "summary" in place.insight("salesforce", "lead", lead)
        )
        place.controls.save(place.org, "lead", lead, {"Title": "Chief Technology Officer"})

        def settled() -> bool:
            result = place.reconciled()
            return bool(result.outcomes) and not result.unsettled

        await until("the edit is on the record, too", settled)
        deliveries = [message.payload for message in await place.messages(DELIVERIES)]
        assert {each.source for each in deliveries} == {SOURCE}
        assert not await place.dead_letters()
        written = len([each for each in house.journal().insight_writes() if each.account == place.org])
        echoes = place.controls.events(place.org)["events"]
        assert echoes >= written + 2, "our own writes came by the bus, too"
        own = f'hookline_own_events_total{{source="{SOURCE}"}}'
        await until("our own echoes are dropped unread", lambda: own in house.metrics())
        flows = 'hookline_salesforce_event_streams{state="streaming"} 1.0'
        await until("the metrics say that it flows", lambda: flows in house.metrics())
        assert "lovelace" not in house.log().lower()
