"""A reader on the sandbox's event bus, over real gRPC, with stores in memory: order of effects, flow control, refusals, silence."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from infra.accounts import Account
from infra.crm.client import AccountUnavailable
from infra.local.sandbox.change_events import ChangeEvents
from infra.local.sandbox.event_bus import EventBus
from infra.local.sandbox.limits import Limits
from infra.local.sandbox.state import Account as Org
from infra.local.sandbox.state import Actor, Token, World
from infra.settings import Settings, SettingsError
from infra.unavailable import BrokerUnavailable
from ingress.identity import RequestIds
from ingress.pubsub.avro import KNOWN
from ingress.pubsub.calls import Bus, BusError, Caller, target
from ingress.pubsub.frame import Frame
from ingress.pubsub.store import Fenced, Owned
from ingress.pubsub.stream import Reader
from tests.ingress.pubsub.events import ORG, ROBOT, endpoint

NUMBER = ORG.partition(":")[2]
ACCOUNT = Account(ORG, "acme", "salesforce", "", {}, {"access_token": "good"})
CALLER = Caller("good", "https://acme.my.salesforce.com", NUMBER)
PERSON = Actor("person", "CRM_UI", "userId:1", "0055g0000000001AAA")
CHANNEL = "/data/ChangeEvents"


class Memory:
    """What Kafka, PostgreSQL and the CRM keep for a reader, and the order in which it was told."""

    def __init__(self) -> None:
        self.log, self.published, self.place, self.asked = [], [], None, []
        self.token, self.fenced, self.states, self.disconnected, self.schemas = "good", False, [], [], {}
        self.most, self.fail = 0, []

    # the store
    async def checkpoint(self, owned, replay_id, *, events, heard_until, seconds, all_but=None):
        if self.fenced:
            raise Fenced
        self.place, self.heard_until = replay_id, heard_until
        self.log.append(("checkpoint", events))
        return heard_until

    async def note(self, owned, state, detail=""):
        self.states.append((state, detail))

    async def start_over(self, owned, account, objects, *, since, until):
        self.asked.append((account, tuple(objects), since))
        self.place = None

    async def ask(self, demands):
        self.asked += list(demands)

    # schemas
    async def load(self, wanted):
        pass

    async def keep(self, endpoint, schema_id, text):
        self.schemas[schema_id] = text
        self.log.append(("schema", schema_id))

    # the CRM and Kafka
    async def access(self, account, refused=""):
        if refused and self.token == refused:
            raise AccountUnavailable(account.id, "TOKEN_REVOKED", "signed out")
        return self.token, "https://acme.my.salesforce.com"

    async def integration_user(self, account):
        return ROBOT

    async def disconnect(self, account, reason):
        self.disconnected.append((account, reason))
        return True

    async def publish(self, deliveries, traceparents):
        if self.fail:
            raise self.fail.pop()
        self.most = max(self.most, len(deliveries))
        self.published += [Frame.unpack(each.body) for each in deliveries]
        self.log.append(("publish", len(deliveries)))


class Place:
    def __init__(self, world, events, bus, service) -> None:
        self.world, self.events, self.bus, self.service = world, events, bus, service
        self.memory, self.stopping = Memory(), asyncio.Event()
        self.org = events.org(ORG)

    def lead(self, number=1):
        return [self.world.create(self.org.account, "Lead", {"LastName": f"L{n}"}, PERSON) for n in range(number)]

    def reader(self, **more):
        memory = self.memory
        given = {
            "account": lambda: ACCOUNT, "bus": self.bus, "tokens": memory, "users": memory, "store": memory, "schemas": memory,
            "publish": memory.publish, "disconnect": memory.disconnect, "ids": RequestIds(0), "stopping": self.stopping,
            "lease_seconds": 30.0, "sleep": lambda _: asyncio.sleep(0.001), **more,
        }  # fmt: skip
        return Reader(endpoint(), Owned(endpoint().id, "me", 1, memory.place, None), **given)

    @asynccontextmanager
    async def reading(self, **more):
        self.stopping.clear()
        reader = self.reader(**more)
        task = asyncio.ensure_future(reader.read())
        try:
            yield task
        finally:
            self.stopping.set()
            async with asyncio.timeout(5):
                await asyncio.gather(task, return_exceptions=True)

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - nothing tells of it; one has to look
                await asyncio.sleep(0.002)


@pytest.fixture
async def place(tmp_path):
    KNOWN.__init__()
    world = World(tmp_path, 1)
    world.accounts[ORG] = Org("salesforce", NUMBER, "", Limits())
    for token in ("good", "better"):
        world.tokens[token] = Token(token, ORG, PERSON)
    events = ChangeEvents(world)
    service = EventBus(events, keepalive_s=0.05)
    url = f"http://{await service.start('127.0.0.1')}"
    bus = Bus(Settings(environment="development", salesforce_events_url=url, _env_file=None))
    yield Place(world, events, bus, service)
    await bus.close()
    await service.stop()
    world.journal.close()


async def test_schema_then_kafka_then_the_place(place):
    """INVARIANT: each effect stands behind the one before. If it fails, a crash loses an event, or one nobody can decode is published."""
    place.lead(3)
    async with place.reading():
        await place.until(lambda: len(place.memory.published) == 3)
        await place.until(lambda: ("checkpoint", 3) in place.memory.log)
    assert [what for what, _ in place.memory.log[:3]] == ["schema", "publish", "checkpoint"]
    assert {frame.integration_user for frame in place.memory.published} == {ROBOT}


async def test_never_more_than_a_hundred_are_outstanding_and_none_is_left_out(place):
    """The sandbox ends a stream that asks for more than a hundred."""
    place.lead(350)
    async with place.reading():
        await place.until(lambda: len(place.memory.published) == 350)
    assert len({frame.event_id for frame in place.memory.published}) == 350
    assert place.memory.most <= 100
    assert place.org.subscribed == 1


async def test_what_kafka_did_not_acknowledge_comes_again(place):
    place.memory.fail = [BrokerUnavailable("away", retry_after=0.001)] * 3
    place.lead(2)
    async with place.reading():
        await place.until(lambda: ("checkpoint", 2) in place.memory.log)
    assert place.org.subscribed == 4
    assert ("waiting", "kafka is away") in place.memory.states


async def test_an_empty_answer_moves_the_place(place):
    async with place.reading():
        await place.until(lambda: ("checkpoint", 0) in place.memory.log)
    assert place.org.place(place.memory.place) == place.org.tip()


async def test_silence_ends_a_connection_and_it_begins_anew(place):
    place.service.keepalive_s = 60.0
    async with place.reading(silent_seconds=0.05):
        await place.until(lambda: place.org.subscribed >= 3)
    assert any("SILENT" in detail for _, detail in place.memory.states)


async def test_a_refused_token_is_replaced_at_once_and_a_revoked_one_disconnects(place):
    place.world.tokens["good"].revoked = True
    place.lead()
    async with place.reading():
        await place.until(lambda: place.memory.disconnected)
        assert place.memory.disconnected[0] == (ORG, "signed out")
        place.memory.token = "better"
        await place.until(lambda: len(place.memory.published) == 1)
    assert place.memory.states[-1][0] == "streaming"


async def test_an_expired_place_is_given_up_and_everything_asked_for(place):
    place.memory.place = b"not-a-place"
    place.lead()
    async with place.reading():
        await place.until(lambda: len(place.memory.published) == 1)
    ((account, objects, _),) = place.memory.asked
    assert account == ORG
    assert set(objects) == {"company", "contact", "lead", "deal", "note", "email"}


async def test_who_is_fenced_stops(place):
    place.memory.fenced = True
    place.lead()
    async with place.reading() as task:
        with pytest.raises(Fenced):
            async with asyncio.timeout(5):
                await asyncio.shield(task)


async def test_the_orgs_spent_events_are_waited_for(place):
    place.org.refusal = "subscription.limit.exceeded"
    async with place.reading():
        await place.until(lambda: any("of 24 hours are spent" in detail for _, detail in place.memory.states))
        place.org.refusal = ""
        place.lead()
        await place.until(lambda: len(place.memory.published) == 1)


@pytest.mark.parametrize(
    ("caller", "channel", "why", "code"),
    [
        (Caller("bad", "https://a", NUMBER), CHANNEL, "TOKEN", "service.auth.error"),
        (Caller("good", "https://a", "00D000000000000AAA"), CHANNEL, "TOKEN", "service.auth.error"),
        (Caller("good", "", NUMBER), CHANNEL, "TOKEN", "service.auth.error"),
        (CALLER, "/data/Nobody__chn", "REFUSED", "topic.not.found"),
    ],
)
async def test_refusals_are_told_by_the_vendors_code(place, caller, channel, why, code):
    with pytest.raises(BusError) as told:
        await place.bus.may_subscribe(caller, channel)
    assert (told.value.why, told.value.code) == (why, f"sfdc.platform.eventbus.grpc.{code}")
    assert "good" not in repr(caller)
    assert "bad" not in repr(caller)


async def test_a_bus_that_is_not_there_is_away(place):
    await place.service.stop()
    with pytest.raises(BusError) as told:
        await place.bus.may_subscribe(CALLER, CHANNEL)
    assert (told.value.why, told.value.code) == ("AWAY", "UNAVAILABLE")


def test_an_address_without_tls_is_for_development_alone():
    plain = {"salesforce_events_url": "http://bus.test:1"}
    assert target(Settings(environment="development", _env_file=None, **plain)) == ("bus.test:1", False)
    assert target(Settings(_env_file=None)) == ("api.pubsub.salesforce.com:7443", True)
    with pytest.raises(SettingsError, match="--events"):
        target(Settings(environment="development", sandbox_url="http://127.0.0.1:1", _env_file=None))
    with pytest.raises(SettingsError, match="without TLS"):
        target(Settings(_env_file=None, **plain))
    for wrong in ("api.pubsub.salesforce.com:7443", "https://", "grpc://x", "https://x/path"):
        with pytest.raises(SettingsError, match="no address"):
            target(Settings(_env_file=None, salesforce_events_url=wrong))
