"""Several events of one record in one delivery become one change.

Law: nothing is lost by it: properties and merged records are united, the latest moment and author stay, and what ends
a record or erases it outweighs an edit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ingress.sources.source import Event
from schemas.change import Change, ChangeKind
from schemas.delivery import Delivery

_EDITS: frozenset[ChangeKind] = frozenset({"updated", "associated"})


def fold(delivery: Delivery, events: Iterable[Event]) -> list[tuple[Change, bool]]:
    """One change per record, in the order in which the records first appear; True: it belongs on the bulk lane.

    A record goes to the bulk lane only if all its events do.
    """
    records: dict[tuple[str, str, str], list[Event]] = {}
    for event in events:
        records.setdefault((event.account, event.object, event.id), []).append(event)
    return [
        (_change(delivery, found), found[0].bulk and all(event.bulk for event in found)) for found in records.values()
    ]


def _change(delivery: Delivery, events: list[Event]) -> Change:
    # Most records have but one event in a delivery, and there is nothing to fold.
    event = events[0] if len(events) == 1 else _folded(events)
    return Change(
        tenant=delivery.tenant,
        account=event.account,
        object=event.object,
        id=event.id,
        kind=event.kind,
        occurred_at=event.occurred_at,
        properties=tuple(dict.fromkeys(event.properties)),
        merged_ids=tuple(dict.fromkeys(event.merged_ids)),
        edited_by=event.edited_by or None,
        delivery=delivery.request_id,
        reason=event.reason,
    )


def _folded(events: list[Event]) -> Event:
    ordered = sorted(events, key=lambda event: event.occurred_at)
    latest = ordered[-1]
    return replace(
        latest,
        kind=_kind(ordered),
        properties=tuple(name for event in ordered for name in event.properties),
        merged_ids=tuple(one for event in ordered for one in event.merged_ids),
        edited_by=next((event.edited_by for event in reversed(ordered) if event.edited_by), None),
        # News outweighs a gap: what is told of with its fields is looked at as such.
        reason="webhook" if any(event.reason == "webhook" for event in ordered) else latest.reason,
    )


def _kind(ordered: list[Event]) -> ChangeKind:
    """Erasure outweighs everything, for it cannot be undone; then the last thing that made or ended the record counts."""
    kinds = [event.kind for event in ordered]
    if "erased" in kinds:
        return "erased"
    for kind in reversed(kinds):
        if kind not in _EDITS:
            return kind
    return "updated" if "updated" in kinds else "associated"
