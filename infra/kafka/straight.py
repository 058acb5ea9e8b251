"""A batch that nothing stands in the way of goes straight to its broker, without waking aiokafka's sender for it.

A batch that is handed to aiokafka wakes its sender, which looks what there is for whom, starts a task for it, and waits for that
task and for the next batch: as much CPU a batch as a dozen requests at the front door take. Here the one who has the batch does
what the sender's task would have done.

Law: sequence numbers, the request, its answer, every error and every repetition are aiokafka's business as ever: what is called
here is what its sender calls, and what has to be tried again lies afterwards where the sender finds it, who is woken for it. No
batch overtakes another of its partition, and no second request goes to a broker beside one that is under way. Where anything stands
in the way (a leader or producer id not known yet, a batch before it, a producer that is closing, another aiokafka than the one
that is known here), the batch is handed over as usual.
Source: `aiokafka.producer.sender.Sender._sender_routine`, `_send_produce_req`, `MessageAccumulator.add_batch`, `drain_by_nodes` (0.14).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.producer.sender import SendProduceReqHandler
from aiokafka.structs import TopicPartition

from infra.kafka.produce_format import OneBatch


class _Handler(SendProduceReqHandler):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's, for one batch, whose request is written quickly."""

    def create_request(self) -> OneBatch:
        """See aiokafka."""
        sender = self._sender
        ((place, batch),) = self._batches.items()
        return OneBatch(
            sender._acks, sender._request_timeout_ms, place.topic, place.partition, batch.get_data_buffer()  # noqa: SLF001
        )  # fmt: skip


async def send_batch(producer: Any, batch: Any, topic: str, partition: int) -> None:
    """Send a closed batch of `producer.create_batch()`; return when it is acknowledged as the producer's `acks` ask for.

    Raises what the future of aiokafka's `send_batch` raises. Cancelled, it leaves open whether the batch arrives, and the
    producer must not be used any more.
    """
    place = TopicPartition(topic, partition)
    node = _free_way(producer, place)
    if node is None:
        await (await producer.send_batch(batch, topic, partition=partition))
        return
    sender, waiting = producer._sender, producer._message_accumulator  # noqa: SLF001 -- see the law above
    ours = MessageBatch(place, batch, waiting._batch_ttl, waiting._linger_time)  # noqa: SLF001
    waiting._batches[place].append(ours)  # noqa: SLF001
    waiting._pop_batch(place)  # noqa: SLF001 -- gives it its sequence number, and makes `stop` wait for it
    sender._in_flight.add(node)  # noqa: SLF001
    sender._muted_partitions.add(place)  # noqa: SLF001
    try:
        await _Handler(sender, {place: ours}).do(node)
    except BaseException:
        if ours in waiting._pending_batches and not ours.future.done():  # noqa: SLF001 -- else it waits to be tried again
            ours.failure(KafkaError("cancelled on its way"))
            ours.future.exception()
        raise
    finally:
        sender._in_flight.discard(node)  # noqa: SLF001
        sender._muted_partitions.discard(place)  # noqa: SLF001
        if waiting._batches and not waiting._waiter_future.done():  # noqa: SLF001
            # To be tried again, or kept waiting by ours.
            waiting._waiter_future.set_result(None)  # noqa: SLF001
    await (ours.future if ours.future.done() else asyncio.shield(ours.future))


def _free_way(producer: Any, place: TopicPartition) -> int | None:
    """The broker to send to, where aiokafka's sender would send at once; else None."""
    with contextlib.suppress(AttributeError):
        sender, waiting = producer._sender, producer._message_accumulator  # noqa: SLF001 -- as above
        task, ids = sender.sender_task, sender._txn_manager  # noqa: SLF001
        if task is None or task.done() or waiting._closed or waiting._exception is not None:  # noqa: SLF001
            return None
        if ids is None or ids.transactional_id is not None or not ids.has_pid():
            return None
        leader_of = producer.client.cluster.leader_for_partition
        node: int | None = leader_of(place)
        if node is None or node == -1 or node in sender._in_flight or place in sender._muted_partitions:  # noqa: SLF001
            return None
        if not any(leader_of(other) == node for other in waiting._batches):  # noqa: SLF001
            return node
    return None
