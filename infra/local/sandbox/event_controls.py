"""Controls of Salesforce's event bus: channels, gaps, retention, refusals.

Law: as `controls`: JSON in, JSON out; what a caller got wrong raises ControlError, which says what to do.
"""

# ruff: noqa: A002 - `object` is the journal's word, and part of the calls' JSON

from __future__ import annotations

from typing import Any

from infra.local.sandbox.change_events import ChangeEvents, OrgBus
from infra.local.sandbox.kinds import ControlError, kind_name
from infra.local.sandbox.registry import Registry


class EventControls(Registry):
    """What tests and demos do to the event bus."""

    _events: ChangeEvents | None = None

    def _use(self, events: ChangeEvents | None) -> None:
        self._events = events

    def create_channel(self, account: str, topic: str, objects: list[str]) -> dict[str, Any]:
        """A channel of an admin's own (`/data/Hookline__chn`) with the objects that were selected on it."""
        owner = self._account(account)
        self._bus(account).channels[topic] = frozenset(kind_name(owner, each) for each in objects)
        return {"channel": topic}

    def change_event(
        self, account: str, object: str, ids: list[str], change_type: str, **header: Any
    ) -> dict[str, Any]:
        """An event that no save made: `GAP_UPDATE`, `GAP_OVERFLOW`, wildcards, an origin or a user of one's own (`header`);
        `changed`: names of fields that it says were changed.
        """
        owner = self._account(account)
        kind = kind_name(owner, object)
        names = list(header.pop("changed", ()))
        record = owner.records[kind].get(ids[0]) if ids else None
        values = {name: record.values.get(name) for name in names} if record is not None else {}
        user = owner.users[0][0]
        told = {"recordIds": ids, "changeType": change_type, "commitUser": user, **header}
        made = self._bus(account).add(kind, told, values, names)
        return {"id": made.id, "number": made.number}

    def set_events(
        self, account: str, retention_ms: int | None = None, refusal: str | None = None, forget: bool = False
    ) -> dict[str, Any]:
        """`retention_ms`: how long events are kept; `refusal`: the code that ends every subscription (`service.unavailable`,
        `subscription.limit.exceeded`, "" to stop); `forget`: all replay ids given so far end, as after an org's migration.
        """
        bus = self._bus(account)
        if retention_ms is not None:
            bus.retention_ms = retention_ms
        if refusal is not None:
            bus.refusal = refusal
        if forget:
            bus.renew()
        bus.wake()
        return self.events(account)

    def events(self, account: str) -> dict[str, Any]:
        """What an org's bus holds."""
        bus = self._bus(account)
        bus.forget()
        return {
            "events": len(bus.events),
            "schemas": len(bus.schemas),
            "subscriptions": bus.subscriptions,
            "subscribed": bus.subscribed,
        }

    def _bus(self, account: str) -> OrgBus:
        owner = self._account(account)
        if self._events is None or owner.vendor != "salesforce":
            raise ControlError("no event bus: start the sandbox with events=True (--events), and name a Salesforce org")
        return self._events.org(account)
