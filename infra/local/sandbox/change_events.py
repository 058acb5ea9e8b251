"""Change events of the orgs: what each channel holds, for how long, and where in it a replay id lies.

Law: an event is made of a change that is journaled already, by the same listener as webhooks. Replay ids are opaque and differ from org
to org; one that was never given, or whose event is gone, is refused. Knows no gRPC.
"""

from __future__ import annotations

import asyncio
import io
import json
import secrets
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import fastavro

from infra.local.sandbox.change_schemas import EventSchema
from infra.local.sandbox.identifiers import now_ms
from infra.local.sandbox.objects import SALESFORCE
from infra.local.sandbox.state import Account, Save, World

RETENTION_MS = 72 * 3_600_000
ALL = "/data/ChangeEvents"
_KINDS = {"created": "CREATE", "deleted": "DELETE", "erased": "DELETE", "restored": "UNDELETE"}
_EVERY_SAVE = ("LastModifiedDate", "LastModifiedById")


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event on an org's bus."""

    number: int
    at: int
    """Epoch milliseconds."""
    entity: str
    id: str
    schema_id: str
    payload: bytes


class UnknownReplayIdError(ValueError):
    """It was never given, or its event is no longer kept."""


class OrgBus:
    """One org's events."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.events: deque[StoredEvent] = deque()
        self.channels: dict[str, frozenset[str]] = {}
        """Channels that an admin made, and the objects selected on each."""
        self.retention_ms = RETENTION_MS
        self.schemas: dict[str, str] = {}
        self._made: dict[tuple[str, int], tuple[EventSchema, Any]] = {}
        self.changed = asyncio.Event()
        """Set, and replaced, whenever something happened that a subscriber may wait for."""
        self.refusal = ""
        """Vendor's code with which every subscription is ended, while there is one."""
        self.subscriptions = 0
        """Open now."""
        self.subscribed = 0
        """Ever opened."""
        self._salt = secrets.token_bytes(2)
        self._number = secrets.randbelow(1_000_000)
        self._commit = 0

    # ---------------------------------------------------------------- channels and places

    def objects(self, topic: str) -> frozenset[str] | None:
        """The objects whose events a channel holds; None where there is no such channel."""
        if topic == ALL:
            return frozenset(SALESFORCE)
        name = topic.removeprefix("/data/").removesuffix("ChangeEvent")
        if topic == f"/data/{name}ChangeEvent" and name in SALESFORCE:
            return frozenset({name})
        return self.channels.get(topic)

    def replay_id(self, number: int) -> bytes:
        """The opaque form of an event's place."""
        return struct.pack(">Q", number) + self._salt

    def place(self, replay_id: bytes) -> int:
        """The number behind a replay id; raises UnknownReplayIdError."""
        self.forget()
        if len(replay_id) != 10 or replay_id[8:] != self._salt:
            raise UnknownReplayIdError
        (number,) = struct.unpack(">Q", replay_id[:8])
        first = self.events[0].number if self.events else self._number + 1
        if not first - 1 <= number <= self._number:
            raise UnknownReplayIdError
        return int(number)

    def tip(self) -> int:
        """The number of the newest event."""
        return self._number

    def after(self, number: int, objects: frozenset[str], most: int) -> list[StoredEvent]:
        """Events behind a place, oldest first."""
        self.forget()
        found: list[StoredEvent] = []
        for each in self.events:
            if each.number > number and each.entity in objects:
                found.append(each)
                if len(found) == most:
                    break
        return found

    def forget(self) -> None:
        """Let go of what is older than events are kept."""
        oldest = now_ms() - self.retention_ms
        while self.events and self.events[0].at < oldest:
            self.events.popleft()

    def renew(self) -> None:
        """End all replay ids that were given."""
        self._salt = secrets.token_bytes(2)

    def wake(self) -> None:
        """Have every subscriber look again."""
        before, self.changed = self.changed, asyncio.Event()
        before.set()

    # ---------------------------------------------------------------- making events

    def add(self, entity: str, header: dict[str, Any], values: dict[str, Any], names: Sequence[str]) -> StoredEvent:
        """An event of `values`; `names`: fields that changed. `header` outweighs what is made up here."""
        schema, parsed = self._schema(entity)
        now = now_ms()
        self._number += 1
        self._commit += 1
        nulled = [name for name in names if values.get(name) is None]
        complete = {
            "entityName": entity,
            "changeOrigin": "",
            "transactionKey": f"{secrets.token_hex(4)}-{secrets.token_hex(2)}-{secrets.token_hex(6)}",
            "sequenceNumber": 1,
            "commitTimestamp": now,
            "commitNumber": self._commit,
            "changedFields": schema.bitmaps(names),
            "nulledFields": schema.bitmaps(nulled),
            "diffFields": [],
            **header,
        }
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, {"ChangeEventHeader": complete, **schema.event(values)})
        event_id = f"{secrets.token_hex(4)}-{secrets.token_hex(2)}-4{secrets.token_hex(8)}"
        made = StoredEvent(self._number, now, entity, event_id, schema.id, out.getvalue())
        self.events.append(made)
        self.wake()
        return made

    def _schema(self, entity: str) -> tuple[EventSchema, Any]:
        fields = self.account.catalogue[entity]
        # Fields are only ever added, so their number tells whether it is still the same schema.
        key = entity, len(fields)
        if key not in self._made:
            schema = EventSchema(entity, fields)
            self.schemas[schema.id] = schema.text
            self._made[key] = schema, fastavro.parse_schema(json.loads(schema.text))
        return self._made[key]


class ChangeEvents:
    """All orgs' buses; told of each change."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.orgs: dict[str, OrgBus] = {}
        world.listeners.append(self.tell)

    def org(self, key: str) -> OrgBus:
        """The bus of an org; raises KeyError as `World.account`."""
        account = self.world.account(key)
        if key not in self.orgs:
            self.orgs[key] = OrgBus(account)
        return self.orgs[key]

    def tell(self, save: Save) -> None:
        """Put a change on its org's bus."""
        if save.account.vendor != "salesforce":
            return
        bus = self.org(save.account.key)
        ours = save.actor.by == "hookline"
        header = {
            "recordIds": [save.record.id],
            "changeType": _KINDS.get(save.kind, "UPDATE"),
            "changeOrigin": "com/salesforce/api/rest/66.0;client=hookline" if ours else "",
            "commitUser": save.actor.user,
        }
        values = save.record.values
        if save.kind == "created":
            bus.add(save.record.type, header, values, ())
        elif header["changeType"] != "UPDATE":
            bus.add(save.record.type, header, {}, ())
        else:
            names = [*save.changed, *_EVERY_SAVE]
            bus.add(save.record.type, header, {name: values.get(name) for name in names}, names)
        for loser in save.details.get("merged", ()):
            gone = {**header, "recordIds": [loser], "changeType": "DELETE"}
            bus.add(save.record.type, gone, {}, ())
