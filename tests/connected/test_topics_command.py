"""`hookline topics tail|export|import` on real servers, and what others' clients read there."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
import subprocess

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from console.reading import partitions_of, reader
from console.status_lag import oldest
from infra.accounts import Registry
from schemas.topics import CHANGES, CHANGES_BULK, DELIVERIES, INSIGHTS, RECORDS
from tests.connected.test_console import environment, hookline  # noqa: F401 -- fixtures
from tests.connected.test_dead_letters import House, _snapshot
from tests.sinks.making import insight

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]


class Desk:
    """One loop an operation, as the command has one a call."""

    def __init__(self, settings, tenant):
        self.settings, self.tenant = settings, tenant
        self.account = ""

    def __call__(self, work):
        async def run():
            async with House(self.settings, self.tenant) as house:
                house.account = self.account or house.account
                self.account = house.account
                return await work(house)

        return asyncio.run(run())

    def publish(self, topic, *payloads):
        return self(lambda house: house.publisher.publish(topic, [make(house) for make in payloads]))

    def on(self, topic):
        return [each.payload for each in self(lambda house: house.on(topic)) if not isinstance(each, tuple)]

    def register(self):
        """The tenant, an endpoint and its account, as an admin would; returns the endpoint's id."""

        async def work(house):
            registry = Registry(house.engine, house.keyring)
            await registry.add_tenant(self.tenant)
            endpoint = await registry.add_endpoint(self.tenant, "hubspot", name="app", secret="a-secret-of-the-app")
            await registry.add_account(
                self.tenant, "hubspot", house.account, credentials={"access_token": "t"}, endpoints=[endpoint.id]
            )
            return endpoint.id

        return self(work)


@pytest.fixture
def desk(settings, tenant):
    return Desk(settings, tenant)


def lines(said):
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(said):
        value, at = decoder.raw_decode(said, at)
        found.append(value)
        at += 1
    return found


def test_tail_finds_the_newest_that_match_and_any_range(hookline, desk, tenant):  # noqa: F811
    places = desk.publish(CHANGES, *(lambda house, n=n: house.change(1, properties=(f"p{n}",)) for n in range(4)))
    others = desk.publish(CHANGES, lambda house: house.change(2))
    (partition,) = {partition for partition, _ in places}

    def tail(*more):
        return [
            (line["payload"]["id"], *line["payload"]["properties"])
            for line in lines(hookline("topics", "tail", "crm.changes", "--tenant", tenant, *more))
        ]

    record = f"{tenant}/{desk.account}/deal/1"
    assert tail("--record", record, "-n", "2") == [("1", "p2"), ("1", "p3")]
    assert len(tail("--account", desk.account, "--object", "deal")) == 5
    assert tail("--object", "contact") == []
    middle = ("--from", str(places[1][1]), "--to", str(places[3][1]), "--partition", str(partition))
    assert [line[1] for line in tail("--record", record, *middle)] == ["p1", "p2"]
    assert len(tail("--since", "10m")) == 5
    assert tail("--until", "10m") == []
    assert len(others) == 1


def test_mistakes_are_named_before_a_broker_is_asked(hookline, tmp_path):  # noqa: F811
    assert "no topic 'crm.x': there are" in hookline.fails("topics", "tail", "crm.x")
    assert "filter by --tenant" in hookline.fails("topics", "tail", "crm.deliveries", "--account", "hubspot:1")
    assert "expected tenant/account/object/id" in hookline.fails("topics", "tail", "crm.changes", "--record", "1")
    there = tmp_path / "there.jsonl"
    there.write_text("x")
    assert "is not written over" in hookline.fails("topics", "export", "crm.changes", "-o", str(there))
    assert there.read_text() == "x"


def test_an_export_is_its_owners_alone_and_reads_back(hookline, desk, tenant, tmp_path):  # noqa: F811
    endpoint = desk.register()
    bodies = (b'[{"eventId": 1}]', b"\xff\x00 no text")
    desk.publish(
        DELIVERIES,
        *(lambda house, b=b: house.delivery(body=b).model_copy(update={"endpoint": endpoint}) for b in bodies),
    )
    file = tmp_path / "deliveries.jsonl"
    said = hookline("topics", "export", "crm.deliveries", "--tenant", tenant, "-o", str(file))
    assert "2 messages written" in said
    assert "customers' data in the clear" in said
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = desk.on(DELIVERIES)
    assert "2 published to crm.deliveries" in hookline("topics", "import", str(file), "--yes")
    after = desk.on(DELIVERIES)
    assert sorted(each.body for each in after) == sorted(bodies * 2)
    assert {each.request_id for each in after} == {each.request_id for each in before}


@pytest.mark.parametrize("sealed", [(), ("--sealed",)])
def test_changes_and_records_come_back_as_reasons_to_look_again(hookline, desk, tenant, tmp_path, sealed):  # noqa: F811
    """INVARIANT: a file's values are never published as a record's state: they may be older than what is there."""
    desk.register()
    desk.publish(CHANGES, lambda house: house.change(1), lambda house: house.change(2, reason="set_aside"))
    desk.publish(RECORDS, lambda house: _snapshot(house, "3"))
    for topic in ("crm.changes", "crm.records"):
        file = tmp_path / f"{topic}.jsonl"
        said = hookline("topics", "export", topic, "--tenant", tenant, "-o", str(file), *sealed)
        assert ("Payloads are encrypted" in said) == bool(sealed)
        assert ('"payload"' in file.read_text()) != bool(sealed)
        hookline("topics", "import", str(file), "--tenant", tenant, "--yes")
    assert sorted((each.id, each.reason) for each in desk.on(CHANGES_BULK)) == [
        ("1", "webhook"),
        ("2", "reconcile"),
        ("3", "reconcile"),
    ]
    assert len(desk.on(CHANGES)) == 2
    assert len(desk.on(RECORDS)) == 1


def test_what_may_not_come_in_is_refused_whole_and_by_line(hookline, desk, tenant, tmp_path):  # noqa: F811
    desk.register()
    desk.publish(CHANGES, lambda house: house.change(1))
    file = tmp_path / "changes.jsonl"
    hookline("topics", "export", "crm.changes", "--tenant", tenant, "-o", str(file))
    good = file.read_text()
    line = json.loads(good)
    foreign = {**line, "payload": {**line["payload"], "tenant": "somebody-else"}}
    cases = {
        "line 2: its tenant 'somebody-else' is not registered here": foreign,
        "line 2: its account hubspot:1 is not registered with this tenant": {
            **line, "payload": {**line["payload"], "account": "hubspot:1"},
        },
        "line 2: there is no topic 'crm.nothing'": {**line, "topic": "crm.nothing"},
        "line 2: insights are made, not imported": {**line, "topic": "crm.insights"},
        "line 2: dead letters are redriven where they are": {**line, "topic": "crm.dead-letters"},
        "line 2: its payload is none of crm.changes: kind": {
            **line, "payload": {key: value for key, value in line["payload"].items() if key != "kind"},
        },
    }  # fmt: skip
    for said, bad in cases.items():
        file.write_text(good + json.dumps(bad) + "\n")
        assert said in hookline.fails("topics", "import", str(file), "--yes")
    file.write_text(good + "{oh\n")
    assert "line 2: it is no JSON" in hookline.fails("topics", "import", str(file), "--yes")
    assert "say --yes" in _refused(hookline, file, good)
    assert desk.on(CHANGES_BULK) == [], "nothing of a refused file is published"


def _refused(hookline, file, text):  # noqa: F811
    file.write_text(text)
    return hookline.fails("topics", "import", str(file))


def test_what_is_sealed_with_keys_that_are_gone_is_refused(hookline, desk, tenant, tmp_path):  # noqa: F811
    desk.register()
    desk.publish(CHANGES, lambda house: house.change(1))
    file = tmp_path / "sealed.jsonl"
    hookline("topics", "export", "crm.changes", "--tenant", tenant, "--sealed", "-o", str(file))
    desk(lambda house: house.keyring.destroy_records([house.change(1).ref]))
    assert "line 1: it cannot be opened here" in hookline.fails("topics", "import", str(file), "--yes")


def test_the_document_is_printed(hookline):  # noqa: F811
    assert json.loads(hookline("topics", "asyncapi"))["asyncapi"] == "3.0.0"


def _by_librdkafka(url, topic):
    """What kcat is made of, driven by its own Python binding: key, headers, and the value as it lies there."""
    consumer = Consumer({"bootstrap.servers": url, "group.id": "a-stranger", "enable.auto.commit": False})
    try:
        ends = {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=30)[1]
            for number in consumer.list_topics(topic, timeout=30).topics[topic].partitions
        }
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in ends])
        left = {number for number, end in ends.items() if end}
        while left:
            message = consumer.poll(30)
            assert message is not None, f"no answer about {left}"
            assert message.error() is None, message.error()
            headers = ",".join(f"{name}={value.decode()}" for name, value in message.headers())
            yield f"{message.key().decode()} {headers}\n".encode() + (message.value() or b"")
            if message.offset() + 1 >= ends[message.partition()]:
                left.discard(message.partition())
    finally:
        consumer.close()


def _by_kcat(url, topic):
    """Its lines, as docs/dead-letters.md has it print them."""
    return subprocess.run(
        ["kcat", "-C", "-b", url, "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%k %h\n"],
        capture_output=True, timeout=60, check=True,
    ).stdout.splitlines()  # fmt: skip


@pytest.mark.parametrize(
    "read_all",
    [
        pytest.param(_by_librdkafka, id="librdkafka"),
        pytest.param(
            _by_kcat,
            id="kcat",
            marks=pytest.mark.skipif(not shutil.which("kcat"), reason="kcat is not installed: apt-get install kcat"),
        ),
    ],
)
def test_any_client_reads_keys_and_headers_without_us(desk, tenant, read_all):
    """INVARIANT: who operates Kafka sees whose message it is and its trace with any client; and no content."""
    desk.publish(CHANGES, lambda house: house.change(7, properties=("annualrevenue",)))
    desk.publish(INSIGHTS, lambda house: insight().model_copy(update={"tenant": tenant, "account": house.account}))
    for topic, type_ in ((CHANGES, "hookline.change.v1"), (INSIGHTS, "hookline.insight.v1")):
        said = list(read_all(desk.settings.kafka_url, topic.name))
        (message,) = [each for each in said if each.startswith(f"{tenant}/".encode())]
        key, headers = message.split(b"\n", 1)[0].decode().split(" ", 1)
        assert key.startswith(f"{tenant}/{desk.account}/")
        for wanted in (f"ce_type={type_}", f"hl_tenant={tenant}", f"hl_account={desk.account}", "ce_specversion=1.0"):
            assert wanted in headers
        assert b"annualrevenue" not in b"".join(said)


def test_lag_is_told_of_every_topic_that_a_group_reads_in_messages_and_seconds(settings, desk):
    """Of all partitions the oldest message counts, whichever answers first."""

    async def work(house):
        places = await house.publisher.publish(CHANGES, [house.change(n) for n in range(12)])
        async with reader(settings, max_partition_fetch_bytes=1) as consumer:
            partitions = {each.partition: each for each in await partitions_of(consumer, CHANGES.name)}
            starts = {partitions[partition]: offset for partition, offset in reversed(places)}
            return starts, await oldest(consumer, starts)

    starts, found = desk(work)
    assert found.keys() == starts.keys()
    assert len(starts) > 1
