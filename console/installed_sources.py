"""The sources that are installed here: which senders are understood, by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from infra.plugins import load
from ingress.sources.source import Source


@lru_cache(maxsize=1)
def installed() -> Mapping[str, Source]:
    """By name; found once a process. Raises TypeError for a plug-in that lacks what it should have."""
    return MappingProxyType(load("ingress.sources", Source))  # type: ignore[type-abstract]  # the protocol is only asked for its members
