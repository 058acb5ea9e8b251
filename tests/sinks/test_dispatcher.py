from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from infra.kafka.codec import Codec
from infra.kafka.raw import RawMessage
from infra.keyring import Keyring, MemoryKeys, new_master_key
from schemas.dead_letter import Cause
from schemas.topics import INSIGHTS
from sinks.destinations.destination import Gone, Later, Refused, Stale, Unchanged, Written
from sinks.dispatcher import Dispatcher, record_of
from tests.sinks.making import insight, lead, quality


class FakeDestination:
    name = "fake"

    def __init__(self, *outcomes, history=False, crm=None):
        self.crm = crm
        self.keeps_history = history
        self.outcomes = list(outcomes)
        self.got = []

    def accepts(self, one):
        return one.crm == "hubspot"

    async def write(self, insights):
        self.got.append(list(insights))
        return (self.outcomes or [Written()] * len(insights))[: len(insights)]

    async def close(self):
        return None


class FakePublisher:
    def __init__(self):
        self.letters = []

    async def dead_letter(self, raw, **given):
        self.letters.append((raw, given))


class FakeAside:
    def __init__(self):
        self.rows = []

    async def put(self, rows):
        self.rows += rows


@pytest.fixture
async def codec():
    key = new_master_key()
    keyring = Keyring(MemoryKeys(), key if isinstance(key, SecretStr) else SecretStr(key))
    await keyring.start()
    yield Codec(keyring, "hookline/test")
    await keyring.stop()


async def raws_of(codec, insights):
    sealed = await codec.seal(INSIGHTS, insights)
    return [RawMessage(INSIGHTS.name, 0, place, one.key, one.value, one.headers) for place, one in enumerate(sealed)]


def make(codec, destination):
    world = SimpleNamespace(publisher=FakePublisher(), aside=FakeAside())
    world.dispatcher = Dispatcher(destination, codec, world.publisher, world.aside)
    return world


async def test_the_newest_per_record_and_analysis_is_written(codec):
    destination = FakeDestination()
    given = [insight(lead(1), 1), insight(lead(2), 2), insight(quality(), 1), insight(lead(3), 1, record="2")]
    await make(codec, destination).dispatcher.handle(await raws_of(codec, given))
    assert [[(one.id, one.analysis, one.version.offset) for one in batch] for batch in destination.got] == [
        [("1", "lead_intel", 2), ("1", "data_quality", 1), ("2", "lead_intel", 1)]
    ]


async def test_a_destination_with_history_gets_every_version(codec):
    destination = FakeDestination(history=True)
    await make(codec, destination).dispatcher.handle(await raws_of(codec, [insight(lead(1), 1), insight(lead(2), 2)]))
    assert len(destination.got[0]) == 2


async def test_what_does_not_belong_there_is_passed_over(codec):
    destination = FakeDestination()
    world = make(codec, destination)
    await world.dispatcher.handle(await raws_of(codec, [insight(crm="salesforce")]))
    assert (destination.got, world.publisher.letters, world.aside.rows) == ([], [], [])


async def test_another_crms_insight_is_not_even_opened(codec):
    opened = []

    class Watched:
        async def open(self, topic, raws):
            opened.extend(raws)
            return await codec.open(topic, raws)

    destination = FakeDestination(crm="hubspot")
    given = [insight(account="salesforce:123", crm="salesforce"), insight(account="hubspots:1"), insight()]
    raws = await raws_of(codec, given)
    await make(Watched(), destination).dispatcher.handle(raws)
    assert opened == raws[2:]
    assert [[one.account for one in batch] for batch in destination.got] == [["hubspot:123"]]


async def test_each_outcome_goes_where_it_belongs(codec):
    """INVARIANT: an insight is written, stale, set aside or a dead letter; none vanishes."""
    outcomes = [Written(), Stale(), Unchanged(), Gone(), Refused(Cause.CRM_REFUSED_WRITE, "RULE"), Later("LOCKED", 3.0)]
    given = [insight(record=str(number)) for number in range(6)]
    world = make(codec, FakeDestination(*outcomes))
    raws = await raws_of(codec, given)
    await world.dispatcher.handle(raws)
    ((raw, letter),) = world.publisher.letters
    assert raw.offset == 4
    assert (letter["cause"], letter["detail"], letter["stage"]) == (Cause.CRM_REFUSED_WRITE, "RULE", "sink:fake")
    assert (letter["tenant"], letter["account"], letter["object"], letter["record_id"]) == (
        "acme",
        "hubspot:123",
        "contact",
        "4",
    )
    (row,) = world.aside.rows
    assert (row.ref, row.stage, row.cause, row.retry_after) == (given[5].ref, "sink:fake", "LOCKED", 3.0)


async def test_one_record_is_set_aside_once(codec):
    world = make(codec, FakeDestination(Later("LOCKED"), Later("LOCKED")))
    await world.dispatcher.handle(await raws_of(codec, [insight(lead()), insight(quality())]))
    assert len(world.aside.rows) == 1


async def test_what_cannot_be_opened_is_a_dead_letter_and_the_rest_goes_on(codec):
    destination = FakeDestination()
    world = make(codec, destination)
    good, bad = await raws_of(codec, [insight(record="1"), insight(record="2")])
    broken = RawMessage(bad.topic, 0, 9, bad.key, b"broken" + bad.value[6:], bad.headers)
    await world.dispatcher.handle([broken, good])
    ((raw, letter),) = world.publisher.letters
    assert raw is broken
    assert (letter["tenant"], letter["account"], letter["stage"]) == ("acme", "hubspot:123", "sink:fake")
    assert [one.id for one in destination.got[0]] == ["1"]


async def test_a_destination_that_is_away_is_not_swallowed(codec):
    """INVARIANT: what was not written is not committed. If it fails, an outage loses insights."""
    from infra.unavailable import Unavailable

    class Away(FakeDestination):
        async def write(self, insights):
            raise Unavailable("hubspot")

    with pytest.raises(Unavailable):
        await make(codec, Away()).dispatcher.handle(await raws_of(codec, [insight()]))


async def test_all_insights_of_a_record_go_together(codec):
    raws = await raws_of(codec, [insight(lead()), insight(quality()), insight(record="2")])
    assert record_of(raws[0]) == record_of(raws[1]) != record_of(raws[2])


def test_the_destinations_are_found():
    from infra.plugins import load
    from infra.settings import Settings
    from sinks.destinations.destination import DestinationPlugin

    assert set(load("sinks.destinations", DestinationPlugin)) == set(Settings(_env_file=None).destinations)


async def test_what_is_redriven_to_another_destination_is_passed_over(codec):
    """INVARIANT: redriving an insight that one destination refused writes nothing anywhere else."""
    raws = await raws_of(codec, [insight(lead())])
    addressed = [
        RawMessage("crm.insights.redriven", 0, place, raws[0].key, raws[0].value, [*raws[0].headers, ("hl_destination", name)])
        for place, name in enumerate((b"other", b"fake"))
    ]  # fmt: skip
    destination = FakeDestination()
    await Dispatcher(destination, codec, FakePublisher(), FakeAside()).handle(addressed)
    assert [len(written) for written in destination.got] == [1]
