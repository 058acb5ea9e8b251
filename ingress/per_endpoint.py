"""What is made of an endpoint once and used for every request of it.

Law: a memory, not a state: whatever is in here can be made again from the endpoint at any moment. An endpoint that was changed
is another object (the directory replaces, it never alters), so what was made of the old one is never used for the new one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from infra.accounts import Endpoint

T = TypeVar("T")

MOST = 20_000
"""Endpoints remembered; then all are made anew."""


class PerEndpoint(Generic[T]):
    """`PerEndpoint(make)(endpoint)`: what `make` made of this very object. Raises what `make` raises, each time."""

    def __init__(self, make: Callable[[Endpoint], T]) -> None:
        self._make = make
        self._made: dict[str, tuple[Endpoint, T]] = {}

    def __call__(self, endpoint: Endpoint) -> T:
        """From memory, where it is the same endpoint."""
        held = self._made.get(endpoint.id)
        if held is not None and held[0] is endpoint:
            return held[1]
        made = self._make(endpoint)
        if len(self._made) >= MOST:
            self._made.clear()
        self._made[endpoint.id] = (endpoint, made)
        return made
