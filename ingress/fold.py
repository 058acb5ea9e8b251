"""Several events of one record in one delivery become one change.

Law: nothing is lost by it: properties and merged records are united, the latest moment and author stay, and what ends
a record or erases it outweighs an edit.
"""

from __future__ import annotations

from collections.abc import Iterable

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
    if len(events) == 1:
        # Most records have but one event in a delivery, and there is nothing to fold.
        (only,) = events
        return Change(
            tenant=delivery.tenant,
            account=only.account,
            object=only.object,
            id=only.id,
            kind=_kind(events),
            occurred_at=only.occurred_at,
            properties=tuple(dict.fromkeys(only.properties)),
            merged_ids=tuple(dict.fromkeys(only.merged_ids)),
            edited_by=only.edited_by or None,
            delivery=delivery.request_id,
            reason=only.reason,
        )
    ordered = sorted(events, key=lambda event: event.occurred_at)
    latest = ordered[-1]
    return Change(
        tenant=delivery.tenant,
        account=latest.account,
        object=latest.object,
        id=latest.id,
        kind=_kind(ordered),
        occurred_at=latest.occurred_at,
        properties=tuple(dict.fromkeys(name for event in ordered for name in event.properties)),
        merged_ids=tuple(dict.fromkeys(one for event in ordered for one in event.merged_ids)),
        edited_by=next((event.edited_by for event in reversed(ordered) if event.edited_by), None),
        delivery=delivery.request_id,
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
