"""A shadow's results against the live insights: what would change, by how much, and what it would cost.

Law: pure. Two insights are compared only when they were made from the same snapshot: everything else differs because the
record does. What is told "has changed since last time" (`changes`) is no difference of a prompt.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from schemas.insight import DataQuality, Insight, LeadIntel, Requirements
from schemas.record import RecordRef

SHOWN = 20
BIN = 10
"""Points of one bar of the histogram."""


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """One insight that changes; ordered by how much."""

    size: float
    ref: RecordRef
    live: Insight = field(compare=False, repr=False)
    shadow: Insight = field(compare=False, repr=False)
    shift: int = field(default=0, compare=False)


@dataclass(slots=True)
class Difference:
    """Of one analysis, filled pair by pair."""

    analysis: str
    compared: int = 0
    changed: int = 0
    only_shadow: int = 0
    """Records without a live insight."""
    moved_on: int = 0
    """Records that have changed since the shadow's snapshot: not compared."""
    unreadable: int = 0
    """Erased meanwhile."""
    shifts: Counter[int] = field(default_factory=Counter)
    """Lower edge of a bar of BIN points → insights whose score shifted so."""
    live_cost: float = 0.0
    live_paid: int = 0
    shadow_cost: float = 0.0
    shadow_paid: int = 0
    largest: list[Pair] = field(default_factory=list)
    """A heap of the SHOWN largest."""

    def add(self, live: Insight, shadow: Insight) -> None:
        """One record that both have judged by the same snapshot."""
        self.compared += 1
        self.paid(live, shadow)
        shift = score_of(shadow) - score_of(live)
        self.shifts[shift // BIN * BIN] += 1
        size = distance(live, shadow)
        if not size:
            return
        self.changed += 1
        pair = Pair(size, shadow.ref, live, shadow, shift)
        if len(self.largest) < SHOWN:
            heapq.heappush(self.largest, pair)
        else:
            heapq.heappushpop(self.largest, pair)

    def paid(self, live: Insight | None, shadow: Insight) -> None:
        """Note what they cost; what the cache answered cost nothing, and says nothing of the price."""
        if live is not None and not live.usage.cached and live.usage.input_tokens:
            self.live_cost += live.usage.cost_usd
            self.live_paid += 1
        if not shadow.usage.cached and shadow.usage.input_tokens:
            self.shadow_cost += shadow.usage.cost_usd
            self.shadow_paid += 1

    def top(self) -> list[Pair]:
        """The largest changes, largest first."""
        return sorted(self.largest, key=lambda pair: (-pair.size, pair.ref))

    def as_json(self) -> dict[str, Any]:
        """Numbers, and the largest changes with both payloads."""
        return {
            "analysis": self.analysis,
            "compared": self.compared,
            "changed": self.changed,
            "only_shadow": self.only_shadow,
            "moved_on": self.moved_on,
            "unreadable": self.unreadable,
            "shifts": {str(edge): number for edge, number in sorted(self.shifts.items())},
            "cost_per_insight_live": _mean(self.live_cost, self.live_paid),
            "cost_per_insight_shadow": _mean(self.shadow_cost, self.shadow_paid),
            "largest": [
                {
                    "record": str(pair.ref),
                    "shift": pair.shift,
                    "live": _plain(pair.live),
                    "shadow": _plain(pair.shadow),
                }
                for pair in self.top()
            ],
        }


def score_of(insight: Insight) -> int:
    """What is compared as a number: the score, the health, or how many requirements there are."""
    payload = insight.payload
    if isinstance(payload, LeadIntel):
        return payload.score or 0
    if isinstance(payload, DataQuality):
        return payload.health
    return len(payload.items) if isinstance(payload, Requirements) else 0


def distance(live: Insight, shadow: Insight) -> float:
    """How much two insights differ; 0: they say the same. A whole number where scores or items differ, below 1 for words."""
    one, other = live.payload, shadow.payload
    if one is None or other is None or type(one) is not type(other):
        return 0.0 if one == other else 100.0
    if isinstance(one, LeadIntel) and isinstance(other, LeadIntel):
        if one.status != other.status:
            return 100.0
        parts = abs((one.score or 0) - (other.score or 0)), _apart(_factors(one), _factors(other))
        words = one.model_copy(update={"changes": ()}) != other.model_copy(update={"changes": ()})
    elif isinstance(one, DataQuality) and isinstance(other, DataQuality):
        found = (
            {(d.field, d.kind) for d in each.defects} | {("", d.id) for d in each.duplicates} for each in (one, other)
        )
        parts, words = (abs(one.health - other.health), _apart(*found)), one != other
    else:
        assert isinstance(one, Requirements)
        assert isinstance(other, Requirements)
        parts, words = (0, _apart(_asked(one), _asked(other))), one != other
    return float(parts[0] + parts[1]) or (0.5 if words else 0.0)


def _apart(one: set[Any], other: set[Any]) -> int:
    return len(one ^ other)


def _factors(payload: LeadIntel) -> set[tuple[str, str]]:
    return {(factor.evidence.field, factor.direction) for factor in payload.factors}


def _asked(payload: Requirements) -> set[tuple[str, str, str, str]]:
    return {(item.source, item.quote, item.kind, item.priority) for item in payload.items}


def _mean(total: float, number: int) -> float | None:
    return round(total / number, 8) if number else None


def _plain(insight: Insight) -> dict[str, Any]:
    found: dict[str, Any] = insight.model_dump(mode="json", include={"model", "prompt_version", "payload"})
    return found
