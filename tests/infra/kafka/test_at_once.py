"""What a fetch brings goes straight to its reader, but for the moments in which it must not. On real Kafka: tests/connected/test_pump.py."""

from __future__ import annotations

from types import SimpleNamespace

from aiokafka.consumer.fetcher import FetchError, FetchResult
from aiokafka.errors import ConsumerStoppedError, TopicAuthorizationFailedError

from infra.kafka.at_once import take_at_once


class Consumer:
    """As much of aiokafka's as is asked here: one fetch brings one record of partition 0."""

    def __init__(self) -> None:
        self._subscription = SimpleNamespace(reassignment_in_progress=False)
        self._fetcher = SimpleNamespace(_records={}, _proc_fetch_request=self._fetch)
        self.brings: object = FetchResult(
            0, assignment=None, partition_records=SimpleNamespace(next_fetch_offset=0), backoff=0
        )
        self.fails: Exception | None = None

    async def _fetch(self, _assignment, _node, _request) -> bool:
        if self.brings is None:
            return False
        self._fetcher._records[0] = self.brings
        return True

    async def getmany(self, timeout_ms: int):
        assert timeout_ms == 0
        if self.fails is not None:
            raise self.fails
        self._fetcher._records.clear()
        return {0: ["record"]}

    async def fetch(self) -> bool:
        """Whether aiokafka wakes whoever waits in `getmany`."""
        return await self._fetcher._proc_fetch_request(None, 1, None)


async def test_what_a_fetch_brought_is_taken_before_anybody_else_wakes():
    consumer, taken = Consumer(), []
    assert take_at_once(consumer, taken.append)
    assert await consumer.fetch() is False
    assert taken == [{0: ["record"]}]


async def test_a_fetch_that_brought_nothing_asks_nobody():
    consumer, taken = Consumer(), []
    take_at_once(consumer, taken.append)
    consumer.brings = None
    assert await consumer.fetch() is False
    assert taken == []


async def test_during_a_rebalance_nothing_is_taken():
    """INVARIANT: aiokafka hands out nothing of an assignment that is going. If it fails, a record is handled by two members."""
    consumer, taken = Consumer(), []
    take_at_once(consumer, taken.append)
    consumer._subscription.reassignment_in_progress = True
    assert await consumer.fetch() is True
    assert taken == []


async def test_an_error_beside_the_records_is_left_to_the_readers_own_getmany():
    """INVARIANT: an error never ends aiokafka's fetcher. If it fails, a consumer falls silent and stays in its group."""
    consumer, taken = Consumer(), []
    take_at_once(consumer, taken.append)
    consumer._fetcher._records[1] = FetchError(error=TopicAuthorizationFailedError(), backoff=0)
    assert await consumer.fetch() is True
    consumer._fetcher._records.pop(1)
    for consumer.fails in (TopicAuthorizationFailedError(), ConsumerStoppedError()):
        assert await consumer.fetch() is True
    assert taken == []


async def test_where_aiokafka_is_another_one_the_usual_way_stays():
    assert not take_at_once(SimpleNamespace(), [].append)
    assert not take_at_once(SimpleNamespace(_fetcher=SimpleNamespace(), _subscription=None), [].append)
