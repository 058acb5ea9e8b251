"""What a fetch has brought goes to its reader in the same turn of the event loop.

On its way out of aiokafka it wakes one task after another: the fetch, the one that begins fetches, the one that waits in
`getmany`. On a busy loop each of them waits behind what all others do meanwhile, and a message goes through five consumers.

Law: what is there is taken by `getmany`, which waits for nothing when it is given no time, so positions, pauses and lost
partitions are aiokafka's business as ever. During a rebalance, and where something went wrong, nothing is taken: the reader's
own `getmany` hears of it. Where aiokafka is not the one that is known here, everything goes the usual way.
Source: `aiokafka.consumer.fetcher.Fetcher._proc_fetch_request`, `fetched_records` (0.14).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from aiokafka.consumer.fetcher import FetchResult

Fetched = Mapping[Any, Sequence[Any]]
"""Partition → records, as `getmany` returns them."""


def take_at_once(consumer: Any, take: Callable[[Fetched], None]) -> bool:
    """Call `take` with whatever a fetch of this started consumer brings, from now on; it must neither await nor raise. Its reader
    goes on calling `getmany`. False where that is not possible: then `getmany` alone brings what there is.
    """
    fetcher: Any = getattr(consumer, "_fetcher", None)
    subscription: Any = getattr(consumer, "_subscription", None)
    original: Any = getattr(fetcher, "_proc_fetch_request", None)
    if fetcher is None or original is None or not hasattr(subscription, "reassignment_in_progress"):
        return False

    async def fetch(*given: Any) -> bool:
        if not await original(*given):
            return False
        if subscription.reassignment_in_progress or any(
            type(found) is not FetchResult
            for found in fetcher._records.values()  # noqa: SLF001 -- errors lie beside records
        ):
            return True
        try:
            found = _without_waiting(consumer.getmany(timeout_ms=0))
        except Exception:  # noqa: BLE001 -- of the group, or of a consumer that is stopping: whoever asks next is told the same
            return True
        if found:
            take(found)
        # Whoever waits in `getmany` need not wake for nothing.
        return bool(fetcher._records)  # noqa: SLF001 -- as above

    fetcher._proc_fetch_request = fetch  # noqa: SLF001 -- the one place between a fetch and its reader
    return True


def _without_waiting(call: Coroutine[Any, Any, Fetched]) -> Fetched:
    try:
        call.send(None)
    except StopIteration as done:
        found: Fetched = done.value
        return found
    call.close()
    raise RuntimeError("aiokafka's getmany waits although it is given no time")
