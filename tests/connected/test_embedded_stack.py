"""The embedded stack with its real servers: what a user who starts, kills and restarts it can rely on."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from infra.local import account, ports
from infra.local.engine import StackError
from infra.local.process import birth
from infra.local.stack import Addresses, EmbeddedStack, running

pytestmark = pytest.mark.connected


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that the servers' user may pass through; pytest's own belong to the user who tests."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="hookline-test-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def data() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder / "data"


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Path, EmbeddedStack, Addresses]]:
    with open_folder() as folder:
        stack = EmbeddedStack(folder / "data")
        try:
            yield folder / "data", stack, stack.start()
        finally:
            stack.stop()


def eventually(claim: Callable[[], bool], seconds: float = 30.0) -> bool:
    limit = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > limit:
            return False
        threading.Event().wait(0.02)
    return True


async def make_topic(urls: Addresses, name: str, partitions: int, **config: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=urls.kafka_url)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=config)])
    finally:
        await admin.close()


async def produce(urls: Addresses, topic: str, records: list[tuple[bytes, bytes | None]], **more: object) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=urls.kafka_url, acks="all", enable_idempotence=True, **more)
    await producer.start()
    try:
        for future in [await producer.send(topic, value, key=key) for key, value in records]:
            await future
    finally:
        await producer.stop()


async def read_all(urls: Addresses, topic: str, partitions: int, **more: object) -> list[tuple[bytes, bytes | None]]:
    consumer = AIOKafkaConsumer(bootstrap_servers=urls.kafka_url, auto_offset_reset="earliest", **more)
    await consumer.start()
    found = []
    try:
        parts = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(parts)
        ends = await consumer.end_offsets(parts)
        for part in parts:
            while await consumer.position(part) < ends[part]:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found += [(record.key, record.value) for record in records]
    finally:
        await consumer.stop()
    return found


def write_a_bit(urls: Addresses) -> None:
    asyncio.run(make_topic(urls, "kept", 3))
    asyncio.run(produce(urls, "kept", [(b"k%d" % number, b"v%d" % number) for number in range(30)]))
    with psycopg.connect(urls.database_url) as connection:
        connection.execute("CREATE TABLE kept (word text)")
        connection.execute("INSERT INTO kept VALUES ('here')")
    with redis.Redis.from_url(urls.redis_url) as client:
        client.set("kept", "here")


def read_it_again(urls: Addresses) -> None:
    assert len(asyncio.run(read_all(urls, "kept", 3))) == 30
    with psycopg.connect(urls.database_url) as connection:
        assert connection.execute("SELECT word FROM kept").fetchall() == [("here",)]
    with redis.Redis.from_url(urls.redis_url) as client:
        assert client.get("kept") == b"here"


@contextlib.contextmanager
def owner_process(data: Path) -> Iterator[tuple[subprocess.Popen[str], Addresses]]:
    owner = subprocess.Popen(
        [sys.executable, "-m", "infra.local.stack", "run", "--data", str(data)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    try:
        assert owner.stdout is not None
        urls = dict(owner.stdout.readline().strip().split("=", 1) for _ in range(3))
        yield owner, Addresses(urls["KAFKA_URL"], urls["DATABASE_URL"], urls["REDIS_URL"])
    finally:
        if owner.poll() is None:
            owner.terminate()
        owner.wait(60)
        if owner.stdout:
            owner.stdout.close()


def servers_of(data: Path) -> dict[str, tuple[int, str]]:
    """Name to (pid, birth) of what runs, as the watcher notes it, and the watcher itself."""
    noted = json.loads((data / "run" / "servers.json").read_text())
    watcher = noted["watcher"]
    return {
        **{name: (pid, born) for name, (pid, born) in noted["servers"].items()},
        "watcher": (watcher, birth(watcher)),
    }


def all_gone(servers: dict[str, tuple[int, str]]) -> bool:
    return all(birth(pid) != born for pid, born in servers.values())


def test_data_ports_and_passwords_survive_a_restart_and_a_stop_leaves_nothing_behind(data: Path) -> None:
    stack = EmbeddedStack(data)
    first = stack.start()
    assert stack.start() is first
    write_a_bit(first)
    servers = servers_of(data)
    assert {"kafka", "postgres", "valkey"} < set(servers)
    stack.stop()
    assert all_gone(servers)
    assert running(data) is None
    with EmbeddedStack(data) as second:
        assert second == first
        read_it_again(second)


def test_no_server_runs_as_root_and_secrets_are_for_their_owner_alone(
    shared: tuple[Path, EmbeddedStack, Addresses],
) -> None:
    """INVARIANT: a flaw in a server is not a flaw in the whole machine, and another user cannot read the passwords."""
    data, stack, _ = shared
    if sys.platform == "linux":
        assert all(Path(f"/proc/{pid}").stat().st_uid != 0 for pid in stack.pids().values())
        shown = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in stack.pids().values())
        assert (data / "password").read_bytes().strip() not in shown
    for private in (data / "password", data / "run" / "addresses.json", data / "valkey" / "valkey.conf"):
        assert private.stat().st_mode & 0o777 == 0o600


def test_passwords_are_asked_for(shared: tuple[Path, EmbeddedStack, Addresses]) -> None:
    _, _, urls = shared
    password = urls.redis_url.split(":")[2].split("@")[0]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(urls.database_url.replace(password, "guess"))
    with (
        redis.Redis.from_url(urls.redis_url.replace(password, "guess")) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_a_second_start_attaches_and_its_stop_stops_nothing(shared: tuple[Path, EmbeddedStack, Addresses]) -> None:
    data, stack, urls = shared
    assert running(data) == urls
    other = EmbeddedStack(data)
    assert other.start() == urls
    assert other.attached
    assert not stack.attached
    other.stop()
    with owner_process(data) as (process, there):  # another process attaches just so
        assert there == urls
        assert process.wait(10) == 0
    with redis.Redis.from_url(urls.redis_url) as client:
        assert client.ping()
    assert set(stack.pids()) == {"kafka", "postgres", "valkey"}


def test_of_two_that_start_at_once_one_owns_and_the_other_attaches(data: Path) -> None:
    stacks = [EmbeddedStack(data, kafka_url="127.0.0.1:1") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda stack: stack.start(), stacks)
    try:
        assert first == second
        assert sorted(stack.attached for stack in stacks) == [False, True]
        with psycopg.connect(second.database_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        for stack in stacks:
            stack.stop()


def test_a_port_that_is_taken_in_the_last_moment_is_no_failure(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as occupied:
        taken = {}
        for name in ("kafka", "postgres", "valkey"):
            other = occupied.enter_context(socket.socket())
            other.bind(("127.0.0.1", 0))
            other.listen()
            taken[name] = other.getsockname()[1]
        data.mkdir(mode=0o711)
        (data / "ports.json").write_text(json.dumps(taken))
        monkeypatch.setattr(ports, "is_free", lambda _port: True)  # as if each had been free when it was asked
        with EmbeddedStack(data) as urls:
            found = [
                url.rpartition(":")[2].partition("/")[0] for url in (urls.kafka_url, urls.database_url, urls.redis_url)
            ]
            assert not {int(port) for port in found} & set(taken.values())


def test_a_given_url_replaces_that_part_alone(shared: tuple[Path, EmbeddedStack, Addresses], data: Path) -> None:
    _, _, urls = shared
    stack = EmbeddedStack(data, kafka_url=urls.kafka_url, database_url=urls.database_url)
    with stack as mixed:
        assert (mixed.kafka_url, mixed.database_url) == (urls.kafka_url, urls.database_url)
        assert mixed.redis_url != urls.redis_url
        assert set(stack.pids()) == {"valkey"}


def test_two_stacks_side_by_side_do_not_disturb_each_other(
    shared: tuple[Path, EmbeddedStack, Addresses], data: Path
) -> None:
    _, _, urls = shared
    asyncio.run(make_topic(urls, "mine", 2))
    with EmbeddedStack(data) as others:
        assert not {others.kafka_url, others.database_url, others.redis_url} & {
            urls.kafka_url,
            urls.database_url,
            urls.redis_url,
        }
        with redis.Redis.from_url(others.redis_url) as client:
            client.set("whose", "theirs")
    asyncio.run(produce(urls, "mine", [(b"a", b"1")]))
    assert asyncio.run(read_all(urls, "mine", 2)) == [(b"a", b"1")]
    with redis.Redis.from_url(urls.redis_url) as client:
        assert client.get("whose") is None


async def test_a_compacted_topic_keeps_the_newest_of_each_key(shared: tuple[Path, EmbeddedStack, Addresses]) -> None:
    _, _, urls = shared
    await make_topic(
        urls,
        "compacted",
        2,
        **{
            "cleanup.policy": "compact",
            "segment.ms": "100",
            "min.cleanable.dirty.ratio": "0.01",
            "max.compaction.lag.ms": "200",
        },
    )
    for turn in range(5):
        await produce(urls, "compacted", [(b"k%d" % key, b"%d" % turn) for key in range(20)], compression_type="zstd")
        await asyncio.sleep(0.15)  # not a wait for a result: the broker rolls a segment by the age of what is in it
    newest = {b"k%d" % key: b"4" for key in range(20)}
    limit = time.monotonic() + 30
    while True:
        found = await read_all(urls, "compacted", 2)
        assert dict(found) == newest
        if len(found) <= 40:
            break
        assert time.monotonic() < limit, f"{len(found)} records are left"
        await asyncio.sleep(0.05)


async def test_a_group_shares_the_partitions_and_a_successor_goes_on_where_it_left(
    shared: tuple[Path, EmbeddedStack, Addresses],
) -> None:
    _, _, urls = shared
    await make_topic(urls, "shared-out", 4)
    await produce(urls, "shared-out", [(b"%d" % number, b"first") for number in range(40)])

    async def member(name: str) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            "shared-out",
            bootstrap_servers=urls.kafka_url,
            group_id="workers",
            client_id=name,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            heartbeat_interval_ms=200,
        )
        await consumer.start()
        return consumer

    async def take(consumers: list[AIOKafkaConsumer], count: int) -> list[bytes]:
        taken: list[bytes] = []
        while len(taken) < count:
            for consumer in consumers:
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    taken += [record.value for record in records]
        return taken

    members: list[AIOKafkaConsumer] = []
    try:
        one = await member("one")
        members.append(one)
        assert await take([one], 40) == [b"first"] * 40
        await one.commit()
        two = await member("two")
        members.append(two)
        async with asyncio.timeout(20):
            while not (len(one.assignment()) == len(two.assignment()) == 2):
                await asyncio.gather(one.getmany(timeout_ms=50), two.getmany(timeout_ms=50))
        await one.stop()
        async with asyncio.timeout(20):
            while len(two.assignment()) < 4:
                await two.getmany(timeout_ms=50)
        await produce(urls, "shared-out", [(b"%d" % number, b"second") for number in range(20)])
        async with asyncio.timeout(20):
            assert await take([two], 20) == [b"second"] * 20
    finally:
        for each in members:
            await each.stop()


async def test_an_aborted_transaction_is_not_seen(shared: tuple[Path, EmbeddedStack, Addresses]) -> None:
    _, _, urls = shared
    await make_topic(urls, "transactional", 2)
    producer = AIOKafkaProducer(bootstrap_servers=urls.kafka_url, transactional_id="one")
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send_and_wait("transactional", b"kept", key=b"a")
        await producer.begin_transaction()
        await producer.send_and_wait("transactional", b"dropped", key=b"a")
        await producer.abort_transaction()
    finally:
        await producer.stop()
    assert await read_all(urls, "transactional", 2, isolation_level="read_committed") == [(b"a", b"kept")]


def test_a_killed_server_comes_back_at_its_address_with_its_data(data: Path) -> None:
    stack = EmbeddedStack(data)
    with stack as urls:
        write_a_bit(urls)
        for name in ("kafka", "postgres", "valkey"):
            if name == "valkey":
                with redis.Redis.from_url(urls.redis_url) as client:
                    assert client.execute_command("WAITAOF", 1, 0, 5000) == [1, 0]
            stack.kill(name)
            assert stack.ended() == {name: -signal.SIGKILL}
            if name == "postgres":  # as if the number had been given to another process since
                lock = data / "postgres" / "data" / "postmaster.pid"
                lock.write_text(lock.read_text().replace(lock.read_text().split()[0], str(stack.pids()["kafka"]), 1))
            stack.revive(name)
            assert stack.ended() == {}
        read_it_again(urls)


def test_no_server_outlives_an_owner_that_was_killed_and_the_next_start_finds_the_data(data: Path) -> None:
    """INVARIANT: SIGKILL of the owner leaves no process behind and loses nothing that was acknowledged.

    If it fails, a crash leaves a broker running that keeps the next one from starting.
    """
    with owner_process(data) as (owner, urls):
        assert running(data) == urls
        write_a_bit(urls)
        servers = servers_of(data)
        owner.kill()
        owner.wait()
        assert eventually(lambda: all_gone(servers))
    assert running(data) is None
    with EmbeddedStack(data) as again:
        assert again == urls
        read_it_again(again)


def test_when_even_the_watcher_was_killed_the_next_start_cleans_up(data: Path) -> None:
    stack = EmbeddedStack(data, kafka_url="127.0.0.1:1")
    urls = stack.start()
    servers = servers_of(data)
    os.kill(servers["watcher"][0], signal.SIGKILL)
    assert not sys.platform.startswith("linux") or eventually(lambda: all_gone(servers))
    assert eventually(lambda: running(data) is None)
    with EmbeddedStack(data, kafka_url="127.0.0.1:1") as again:
        assert again == urls
        assert all_gone(servers)
        with psycopg.connect(again.database_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    stack.stop()


def test_ctrl_c_while_it_starts_leaves_nothing_behind(data: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-m", "infra.local.stack", "run", "--data", str(data)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert eventually((data / "run" / "servers.json").exists)
    servers = servers_of(data)
    os.killpg(owner.pid, signal.SIGINT)
    assert owner.wait(60) == 130
    assert all_gone(servers)
    assert running(data) is None
    with EmbeddedStack(data) as urls:  # whatever was half made is made anew
        write_a_bit(urls)


def test_ctrl_c_reaches_the_owner_alone_and_all_end_gracefully(data: Path) -> None:
    with owner_process(data) as (owner, _):
        servers = servers_of(data)
        os.killpg(owner.pid, signal.SIGINT)  # what a terminal does
        assert owner.wait(60) == 130
        assert all_gone(servers)
    assert next((data / "kafka").rglob(".kafka_cleanshutdown"), None) is not None
    assert "database system is shut down" in (data / "logs" / "postgres.log").read_text()


def test_a_server_that_cannot_start_is_explained_and_takes_the_others_down(data: Path) -> None:
    with EmbeddedStack(data):
        pass
    (data / "postgres" / "data" / "global" / "pg_control").unlink()
    stack = EmbeddedStack(data)
    with pytest.raises(
        StackError, match=r"(?s)postgres ended while it started.*postgres\.log ends with.*pg_control.*What to do"
    ):
        stack.start()
    assert stack.pids() == {}
    assert running(data) is None
    assert not (data / "run" / "servers.json").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers are another user's")
def test_below_a_closed_folder_the_data_goes_where_the_servers_can_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with open_folder() as elsewhere:
        monkeypatch.setattr(account, "ROOT_DATA", elsewhere / "var")
        told: list[str] = []
        with (
            EmbeddedStack(
                closed / "data", redis_url="redis://127.0.0.1:1/0", kafka_url="127.0.0.1:1", on_progress=told.append
            ) as urls,
            psycopg.connect(urls.database_url) as connection,
        ):
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert any(str(elsewhere) in line for line in told)
        assert closed.stat().st_mode & 0o777 == 0o700
