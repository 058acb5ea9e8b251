"""The pump on real Kafka, with members that come, leave, and are killed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections import defaultdict
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from infra.kafka.broker import partition_of
from infra.kafka.marks import STOPPED
from infra.kafka.pump import Pump, TooMuchPoison, Unavailable
from infra.local.stack import EmbeddedStack
from infra.settings import Settings

pytestmark = [pytest.mark.connected, pytest.mark.timeout(90)]

PARTITIONS = 6


@pytest.fixture
def kafka(kafka_url: str) -> Settings:
    return Settings(kafka_url=kafka_url, _env_file=None)


@pytest.fixture
async def topic(kafka: Settings):
    name = f"pump-{uuid.uuid4().hex[:10]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.kafka_url)
    await admin.start()
    await admin.create_topics([NewTopic(name, PARTITIONS, 1)])
    yield name
    await admin.delete_topics([name])
    await admin.close()


@pytest.fixture
async def produce(kafka: Settings, topic: str):
    producer = AIOKafkaProducer(bootstrap_servers=kafka.kafka_url, enable_idempotence=True)
    await producer.start()

    async def send(keys: int, each: int) -> None:
        waits = []
        for number in range(each):
            for key in range(keys):
                name = b"k%d" % key
                waits.append(
                    await producer.send(topic, b"%d" % number, key=name, partition=partition_of(name, PARTITIONS))
                )
        await asyncio.gather(*waits)

    yield send
    await producer.stop()


async def until(claim, seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not claim():  # noqa: ASYNC110 -- a claim about several parts has no one event
            await asyncio.sleep(0.01)


async def no_poison(raw, error) -> None:
    raise AssertionError(f"laid aside: {raw.offset} {error!r}")


def build(kafka: Settings, topic: str, handler, **more) -> Pump:
    return Pump(kafka, topics=[topic], group=f"g-{topic}", handler=handler, **{"on_poison": no_poison, **more})


async def committed(kafka: Settings, topic: str) -> dict[int, tuple[int, int]]:
    """(committed, end) of each partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.kafka_url, group_id=f"g-{topic}", enable_auto_commit=False)
    await consumer.start()
    try:
        places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        ends = await consumer.end_offsets(places)
        return {place.partition: (await consumer.committed(place) or 0, ends[place]) for place in places}
    finally:
        await consumer.stop()


class Deaf(AIOKafkaConsumer):
    """One whose reader never hears from the usual way."""

    async def getmany(self, *partitions, timeout_ms: int = 0, max_records=None):
        if timeout_ms:
            await asyncio.Event().wait()
        return await super().getmany(*partitions, timeout_ms=timeout_ms, max_records=max_records)


async def test_what_is_fetched_is_handled_without_waiting_for_who_waits_for_it(kafka, topic, produce) -> None:
    """A release of aiokafka whose inside is another makes this fail: then messages wait for two more turns of the loop each."""
    seen: list[int] = []

    async def handle(raws) -> None:
        seen.extend(int(raw.value) for raw in raws)

    pump = build(kafka, topic, handle, consumer=Deaf)
    await pump.start()
    await until(lambda: pump.assigned)
    await produce(3, 40)
    await until(lambda: len(seen) == 120)
    await pump.drain(10)
    assert all(done == end for done, end in (await committed(kafka, topic)).values())


async def test_a_patient_pump_still_handles_everything_and_a_hurried_one_at_once(kafka, topic, produce) -> None:
    seen: list[int] = []

    async def handle(raws) -> None:
        seen.extend(int(raw.value) for raw in raws)

    pump = build(kafka, topic, handle)
    pump.be_patient(True)
    await pump.start()
    await until(lambda: pump.assigned)
    await produce(2, 3)
    await until(lambda: len(seen) == 6)
    pump.be_patient(False)
    await produce(2, 3)
    await until(lambda: len(seen) == 12)
    await pump.drain(10)
    assert all(done == end for done, end in (await committed(kafka, topic)).values())


async def test_nothing_is_lost_or_out_of_order_while_members_come_and_go(kafka, topic, produce) -> None:
    """INVARIANT: rebalances lose nothing, hand a key to two handlers of a member never, and commit no unfinished offset."""
    seen: dict[bytes, list[tuple[int, str]]] = defaultdict(list)
    working: set[tuple[str, bytes]] = set()

    def handler(name: str):
        async def handle(raws) -> None:
            keys = {(name, raw.key) for raw in raws}
            assert not keys & working, "one key in two batches at once"
            working.update(keys)
            await asyncio.sleep(0)
            for raw in raws:
                seen[raw.key].append((int(raw.value), name))
            working.difference_update(keys)

        return handle

    members = {name: build(kafka, topic, handler(name), max_batch=20, max_messages=200) for name in ("a", "b", "c")}
    await members["a"].start()
    feeding = asyncio.ensure_future(produce(30, 100))
    await until(lambda: members["a"].assigned)
    await members["b"].start()
    await until(lambda: members["b"].assigned and members["a"].assigned)
    await members["c"].start()
    await until(lambda: members["c"].assigned)
    assert {len(member.assigned or ()) for member in members.values()} <= {0, 2, 3, 6}
    await members["a"].drain(10)
    await feeding
    await until(lambda: members["b"].assigned and members["c"].assigned)
    await members["b"].drain(10)
    await produce(30, 3)

    def complete() -> bool:
        return all({number for number, _ in seen[b"k%d" % key]} == set(range(100)) for key in range(30)) and all(
            [number for number, _ in seen[b"k%d" % key]][-1] == 2 for key in range(30)
        )

    await until(complete)
    await members["c"].drain(10)
    for key, handled in seen.items():
        first: list[int] = []
        for number, _ in handled[: -3 if handled[-1][0] == 2 else None]:
            if number not in first:
                first.append(number)
        assert first == sorted(first), f"{key!r} was handled out of order"
    assert all(low == end for low, end in (await committed(kafka, topic)).values())


MEMBER = """
import asyncio, os, sys
from infra.kafka.pump import Pump
from infra.settings import Settings
async def main():
    async def handle(raws):
        print("handling", len(raws), flush=True)
        await asyncio.sleep(3600)
    async def poison(raw, error): pass
    pump = Pump(Settings(_env_file=None), topics=[sys.argv[1]], group="g-" + sys.argv[1], handler=handle, on_poison=poison, session_timeout=6)
    await pump.start()
    await pump.wait()
asyncio.run(main())
"""


async def test_what_a_killed_member_had_in_work_is_handled_by_another(kafka, topic, produce) -> None:
    """INVARIANT: kill -9 in the middle of a batch costs nothing but its time."""
    await produce(20, 5)
    child = await asyncio.to_thread(
        subprocess.Popen,
        [sys.executable, "-c", MEMBER, topic],
        env={"KAFKA_URL": kafka.kafka_url, "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        while not (await asyncio.to_thread(child.stdout.readline)).startswith("handling"):
            assert child.poll() is None
    finally:
        child.send_signal(signal.SIGKILL)
        await asyncio.to_thread(child.communicate)
    assert all(low == 0 for low, _ in (await committed(kafka, topic)).values())
    seen: set[tuple[int, int]] = set()

    async def handle(raws) -> None:
        seen.update((raw.partition, raw.offset) for raw in raws)

    pump = build(kafka, topic, handle)
    await pump.start()
    await until(lambda: len(seen) == 100)
    await pump.drain(10)
    assert all(low == end for low, end in (await committed(kafka, topic)).values())


async def test_a_hanging_handler_keeps_its_partitions_beyond_the_session_timeout(kafka, topic, produce) -> None:
    """INVARIANT: polling and heartbeats wait for no handler, so that slow work is never handed to a second member."""
    held, gate = asyncio.Event(), asyncio.Event()

    async def handle(_raws) -> None:
        held.set()
        await gate.wait()

    pump = build(kafka, topic, handle, session_timeout=6.0)
    await pump.start()
    await produce(1, 1)
    await held.wait()
    owned = pump.assigned
    beats = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - beats < 8.0:
        assert await pump.ask() is None
        assert pump.assigned == owned
        await asyncio.sleep(0.5)
    gate.set()
    await until(lambda: pump.held == 0)
    await pump.drain(5)
    assert sum(low for low, _ in (await committed(kafka, topic)).values()) == 1


async def test_paused_for_a_part_it_stays_a_member_and_goes_on_where_it_was(kafka, topic, produce) -> None:
    away, seen = True, []

    async def handle(raws) -> None:
        if away:
            raise Unavailable("model")
        seen.extend((raw.partition, raw.offset) for raw in raws)

    pump = build(kafka, topic, handle)
    await pump.start()
    await produce(20, 2)
    await until(lambda: pump.paused == ("model",))
    await produce(20, 2)
    assert (await pump.ask()) == f"g-{topic} pauses because of model"
    away = False
    await until(lambda: len(seen) == 80)
    await pump.drain(5)
    assert len(set(seen)) == 80
    assert all(low == end for low, end in (await committed(kafka, topic)).values())


async def test_a_bound_on_memory_holds_and_everything_arrives(kafka, topic, produce) -> None:
    seen, most = set(), 0

    async def handle(raws) -> None:
        nonlocal most
        most = max(most, pump.held)
        await asyncio.sleep(0)
        seen.update((raw.partition, raw.offset) for raw in raws)

    await produce(100, 30)
    pump = build(kafka, topic, handle, max_messages=100, max_batch=50)
    await pump.start()
    await until(lambda: len(seen) == 3000)
    await pump.drain(5)
    assert most > 0
    assert all(low == end for low, end in (await committed(kafka, topic)).values())


async def test_a_first_change_is_handled_within_milliseconds_of_its_acknowledgement(kafka, topic, produce) -> None:
    """No stage waits for a batch to fill or for a poll to time out when there is work."""
    arrived = asyncio.Queue()

    async def handle(raws) -> None:
        arrived.put_nowait(asyncio.get_running_loop().time())

    pump = build(kafka, topic, handle)
    await pump.start()
    await until(lambda: pump.assigned)
    await produce(1, 1)
    await arrived.get()
    delays = []
    for _ in range(30):
        started = asyncio.get_running_loop().time()
        await produce(1, 1)
        delays.append(await arrived.get() - started)
    await pump.drain(5)
    assert sorted(delays)[len(delays) // 2] < 0.1


@pytest.mark.timeout(150)
async def test_kafka_killed_and_started_again_costs_no_message_and_no_restart_of_ours() -> None:
    """INVARIANT: the pump outlives its broker: it tries again for as long as it takes, and commits where it was."""
    folder = tempfile.mkdtemp(dir="/tmp", prefix="hookline-test-")
    Path(folder).chmod(0o711)  # noqa: ASYNC240 -- a test
    stack = EmbeddedStack(Path(folder) / "data", database_url="postgresql://unused", redis_url="redis://unused")
    try:
        kafka = Settings(kafka_url=(await asyncio.to_thread(stack.start)).kafka_url, _env_file=None)
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.kafka_url)
        await admin.start()
        await admin.create_topics([NewTopic("survives", PARTITIONS, 1)])
        await admin.close()
        seen: list[bytes] = []

        async def handle(raws) -> None:
            seen.extend(raw.value for raw in raws)

        pump = build(kafka, "survives", handle, session_timeout=6.0)
        await pump.start()
        await send(kafka, "survives", b"before")
        await until(lambda: seen == [b"before"])
        await asyncio.to_thread(stack.kill, "kafka")
        assert "does not answer" in (await pump.ask(1.0) or "")
        await asyncio.to_thread(stack.revive, "kafka")
        await send(kafka, "survives", b"after")
        await until(lambda: b"after" in seen)
        async with asyncio.timeout(30):
            while await pump.ask() is not None:  # noqa: ASYNC110 -- readiness is asked, it does not tell
                await asyncio.sleep(0.1)
        await pump.drain(10)
        await pump.wait()
        places = await committed(kafka, "survives")
        assert sum(low for low, _ in places.values()) == sum(end for _, end in places.values())
    finally:
        await asyncio.to_thread(stack.stop)
        shutil.rmtree(folder)


async def test_a_stop_for_poison_is_known_after_a_restart_until_a_message_is_good(kafka, topic, produce) -> None:
    """INVARIANT: a supervisor does not drain a topic into dead letters. aiokafka must tell a commit's metadata for that."""
    await produce(1, 100)
    place = TopicPartition(topic, partition_of(b"k0", PARTITIONS))
    laid: list[int] = []

    async def bad(_raws) -> None:
        raise ZeroDivisionError

    async def good(_raws) -> None:
        return None

    async def on_poison(raw, _error) -> None:
        laid.append(raw.offset)

    async def mark() -> str:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.kafka_url)
        await admin.start()
        try:
            return (await admin.list_consumer_group_offsets(f"g-{topic}"))[place].metadata
        finally:
            await admin.close()

    numbers = []
    for _ in range(3):
        laid.clear()
        pump = build(kafka, topic, bad, on_poison=on_poison)
        await pump.start()
        with pytest.raises(TooMuchPoison):
            async with asyncio.timeout(30):
                await pump.wait()
        await pump.drain(10)
        numbers.append(len(laid))
        assert await mark() == STOPPED
    assert numbers == [19, 1, 1]
    pump = build(kafka, topic, good)
    await pump.start()
    await until(lambda: pump.lag().get((topic, place.partition)) == 0)
    await pump.drain(10)
    await pump.wait()
    assert await mark() == ""


async def send(kafka: Settings, topic: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.kafka_url)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value, key=value)
    finally:
        await producer.stop()
