"""Calls that are made at the same time, and what each of them returned or raised."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def all_of(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T | BaseException]:
    """As `gather(..., return_exceptions=True)`. One that is alone needs no task, which would wait for its turn on the loop twice."""
    if len(calls) == 1:
        try:
            return [await calls[0]]
        except Exception as error:  # noqa: BLE001 -- as `gather` returns it
            return [error]
    return await asyncio.gather(*calls, return_exceptions=True)
