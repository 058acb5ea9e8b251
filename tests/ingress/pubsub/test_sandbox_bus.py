"""The sandbox's event bus says what its journal says: each save of an org, with its fields, readable by the dialect."""

from __future__ import annotations

import pytest

from infra.crm.own_fields import OWN_FIELDS
from infra.crm.salesforce_shapes import OWN_NAMES, json_value, metadata
from infra.local.sandbox.change_events import ChangeEvents, UnknownReplayIdError
from infra.local.sandbox.limits import Limits
from infra.local.sandbox.salesforce_metadata import create_field
from infra.local.sandbox.state import Account, Actor, World
from ingress.dialects.salesforce_pubsub import translate
from ingress.pubsub.avro import KNOWN
from ingress.pubsub.frame import Frame
from ingress.sources.source import Event, Ignored
from tests.ingress.pubsub.events import ORG, ROBOT, delivery, endpoint

PERSON = Actor("person", "CRM_UI", "userId:1", "0055g0000000001AAA")
US = Actor("hookline", "INTEGRATION", ROBOT, ROBOT)


@pytest.fixture
def world(tmp_path):
    found = World(tmp_path, 1)
    found.accounts[ORG] = Account("salesforce", ORG.partition(":")[2], "", Limits())
    yield found
    found.journal.close()


def heard(bus):
    """All events on the bus, understood."""
    for schema_id, text in bus.schemas.items():
        KNOWN.put(endpoint().id, schema_id, text)
    frames = [Frame(ORG, each.id, each.schema_id, b"", ROBOT, each.payload) for each in bus.events]
    one = delivery()
    return [found for each in frames for found in translate(one.model_copy(update={"body": each.pack()}), endpoint())]


def test_a_records_life_is_told_as_it_was(world):
    bus = (events := ChangeEvents(world)).org(ORG)
    lead = world.create(
        bus.account, "Lead", {"LastName": "Lovelace", "AnnualRevenue": 5, "NumberOfEmployees": 3}, PERSON
    )
    other = world.create(bus.account, "Lead", {"LastName": "Byron"}, PERSON)
    world.update(bus.account, lead, {"FirstName": "Ada", "City": None, "AnnualRevenue": 7.5}, PERSON)
    world.merge(bus.account, lead, [other], PERSON)
    world.archive(bus.account, lead, PERSON)
    world.restore(bus.account, lead, PERSON)
    found = heard(events.org(ORG))
    assert [(one.id, one.kind) for one in found] == [
        (lead.id, "created"), (other.id, "created"), (lead.id, "updated"), (lead.id, "updated"), (other.id, "deleted"),
        (lead.id, "deleted"), (lead.id, "restored"),
    ]  # fmt: skip
    assert set(found[2].properties) == {"FirstName", "AnnualRevenue"}
    assert {one.edited_by for one in found} == {PERSON.user}


def test_our_own_write_of_every_field_of_ours_is_an_echo_and_a_persons_is_not(world):
    bus = ChangeEvents(world).org(ORG)
    for name, field in OWN_FIELDS.items():
        create_field(bus.account, f"Lead.{OWN_NAMES[name]}", metadata(field), 0)
    lead = world.create(bus.account, "Lead", {"LastName": "Lovelace"}, PERSON)
    text = {"number": "7", "date": "2026-11-23"}
    values = {OWN_NAMES[name]: json_value(field, text.get(field.kind, "x")) for name, field in OWN_FIELDS.items()}
    world.update(bus.account, lead, values, US)
    world.update(bus.account, lead, {**dict.fromkeys(values), "Title": "CTO"}, US)
    world.update(bus.account, lead, values, PERSON)
    created, echo, shared, persons = heard(bus)
    assert isinstance(created, Event)
    assert echo == Ignored("own_property", ORG)
    assert isinstance(shared, Event)
    assert "Title" in shared.properties
    assert set(persons.properties) == set(values)


def test_places_that_were_never_given_or_are_forgotten_are_refused(world):
    bus = ChangeEvents(world).org(ORG)
    world.create(bus.account, "Lead", {"LastName": "Lovelace"}, PERSON)
    first = bus.replay_id(bus.tip())
    world.create(bus.account, "Lead", {"LastName": "Byron"}, PERSON)
    assert bus.place(first) == bus.tip() - 1
    for wrong in (b"", b"nonsense", first + b"x", bus.replay_id(bus.tip() + 1)):
        with pytest.raises(UnknownReplayIdError):
            bus.place(wrong)
    bus.retention_ms = -1
    with pytest.raises(UnknownReplayIdError):
        bus.place(first)
