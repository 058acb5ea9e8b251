"""The records of all accounts, and the one way to change one.

Law: every change of a record passes through `World`, which journals it before anybody is told; nothing here speaks HTTP.
Kept in memory; used by the event loop that runs the sandbox, and by no other thread.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from infra.local.sandbox.catalogue_hubspot import GROUPS, Property, standard_properties
from infra.local.sandbox.catalogue_salesforce import standard_fields
from infra.local.sandbox.identifiers import iso, now_ms, salesforce_id, salesforce_time
from infra.local.sandbox.journal import JournalWriter
from infra.local.sandbox.limits import Limits
from infra.local.sandbox.objects import HUBSPOT, SALESFORCE
from infra.local.sandbox.reconciliation import is_ours

Value = str | float | int | bool | None
Vendor = Literal["hubspot", "salesforce"]
SaveKind = Literal["created", "updated", "deleted", "restored", "merged", "erased", "associated", "touched"]
MERGED_IDS = "hs_merged_object_ids"
HISTORY = 20
"""Earlier values that are kept of a property; HubSpot keeps 45 of a contact's and 20 of any other object's."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes a record, as webhooks and the journal tell it."""

    by: str
    """`person`, `hookline`, or another integration's name."""
    source: str
    """HubSpot's changeSource: `CRM_UI`, `INTEGRATION`, `IMPORT`, ..."""
    source_id: str
    """HubSpot's sourceId: `userId:10000001` for a person, the app's id for an integration."""
    user: str
    """The vendor's id of the user: `10000001` or `005...`."""


@dataclass(slots=True)
class Token:
    """An access token, and for whom it acts."""

    value: str
    account: str
    actor: Actor
    app_id: int | None = None
    expires: int | None = None
    """Epoch milliseconds; None: does not expire."""
    revoked: bool = False


class Record:
    """One record; `links` are HubSpot's associations: type → id → association type ids."""

    __slots__ = ("archived", "created", "gone", "history", "id", "links", "merged_into", "modified", "type", "values")

    def __init__(self, kind: str, record_id: str, created: int) -> None:
        self.type = kind
        self.id = record_id
        self.values: dict[str, Value] = {}
        self.created = created
        self.modified = created
        self.archived = False
        self.gone = ""
        self.merged_into = ""
        self.history: dict[str, list[tuple[Value, int, str, str]]] = {}
        self.links: dict[str, dict[str, tuple[int, ...]]] = {}


@dataclass(slots=True)
class Save:
    """One change, as those are told who send webhooks."""

    account: Account
    record: Record
    kind: SaveKind
    changed: dict[str, Value]
    actor: Actor
    at: int
    details: dict[str, Any] = field(default_factory=dict)


class Account:
    """One HubSpot portal or Salesforce org."""

    def __init__(self, vendor: Vendor, number: str, name: str, limits: Limits) -> None:
        self.vendor: Vendor = vendor
        self.number = number
        self.key = f"{vendor}:{number}"
        self.name = name
        self.limits = limits
        self.catalogue: dict[str, dict[str, Property]] = (
            standard_properties() if vendor == "hubspot" else standard_fields()
        )
        self.groups: dict[str, dict[str, str]] = {plural: dict([group]) for plural, group in GROUPS.items()}
        self.records: dict[str, dict[str, Record]] = {
            kind: {} for kind in (HUBSPOT if vendor == "hubspot" else SALESFORCE)
        }
        self.users: list[tuple[str, str]] = []
        """(vendor's user id, name) of the people who work here."""
        self.counter = 0

    def canonical(self, kind: str) -> str:
        """The journal's name for one of this vendor's types."""
        return HUBSPOT[kind].canonical if self.vendor == "hubspot" else SALESFORCE[kind].canonical

    def find(self, kind: str, record_id: str) -> Record | None:
        """A record that is neither archived nor gone."""
        record = self.records[kind].get(record_id)
        return record if record is not None and not record.archived else None

    def live(self, kind: str) -> list[Record]:
        """All records of a type that are there, oldest first."""
        return [record for record in self.records[kind].values() if not record.archived]

    def new_id(self, kind: str) -> str:
        """The next free id, in the vendor's form."""
        while True:
            self.counter += 1
            if self.vendor == "hubspot":
                found = str(100_000_000 + (int(self.number) % 9_000) * 10_000 + self.counter * 37)
            else:
                found = salesforce_id(SALESFORCE[kind].prefix, self.counter)
            if found not in self.records[kind]:
                return found


class World:
    """All accounts, tokens and the journal."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.journal = JournalWriter(folder)
        self.random = random.Random(seed)
        self.accounts: dict[str, Account] = {}
        self.tokens: dict[str, Token] = {}
        self.listeners: list[Callable[[Save], None]] = []
        """Told of each change after it is journaled; must not block or raise."""
        self.clock: Callable[[], int] = now_ms

    def account(self, key: str) -> Account:
        """The account of this key; raises KeyError that says which there are."""
        try:
            return self.accounts[key]
        except KeyError:
            known = ", ".join(sorted(self.accounts)) or "none yet"
            raise KeyError(f"no account {key!r}; there are: {known}") from None

    def person(self, account: Account, index: int = 0) -> Actor:
        """One of the account's people."""
        user = account.users[index % len(account.users)][0]
        return Actor("person", "CRM_UI", f"userId:{user}", user)

    # ---------------------------------------------------------------- changes

    def create(
        self, account: Account, kind: str, values: dict[str, Value], actor: Actor, *, quiet: bool = False
    ) -> Record:
        """A new record. `quiet` is for starting data: neither journaled nor told."""
        now = self.clock()
        record = Record(kind, account.new_id(kind), now)
        account.records[kind][record.id] = record
        record.values[(account.vendor == "hubspot" and "hs_object_id") or "Id"] = record.id
        if account.vendor == "salesforce":
            record.values |= {
                "IsDeleted": False,
                "CreatedById": actor.user,
                "OwnerId": values.get("OwnerId", actor.user),
            }
        changed = self._store(account, record, values, actor, now)
        self._stamp(account, record, actor)
        if not quiet:
            save = Save(account, record, "created", changed, actor, now)
            self._journal(save, "create")
            self._tell(save)
        return record

    def update(
        self, account: Account, record: Record, values: dict[str, Value], actor: Actor, *, cause: str = "edit"
    ) -> dict[str, Value]:
        """Write values; returns what really changed. HubSpot's records stay as they are when nothing differs."""
        now = self.clock()
        changed = self._store(account, record, values, actor, now)
        # Salesforce stamps and tells every save; HubSpot only one that changes something.
        if changed or account.vendor == "salesforce":
            record.modified = max(now, record.modified + 1)
            self._stamp(account, record, actor)
        save = Save(account, record, "updated", changed, actor, now)
        self._journal_write(save, values, cause)
        if changed or account.vendor == "salesforce":
            self._tell(save)
        return changed

    def touch(self, account: Account, record: Record, actor: Actor, cause: str) -> None:
        """A note or an e-mail was logged on a record: that counts as a save of it."""
        now = self.clock()
        record.modified = max(now, record.modified + 1)
        if account.vendor == "hubspot":
            count = str(int(str(record.values.get("num_notes") or 0)) + 1)
            changed: dict[str, Value] = {"num_notes": count, "notes_last_updated": iso(now)}
        else:
            changed = {"LastActivityDate": iso(now)[:10]}
        record.values.update(changed)
        self._stamp(account, record, actor)
        save = Save(account, record, "touched", changed, actor, now)
        self._journal(save, cause)
        self._tell(save)

    def archive(self, account: Account, record: Record, actor: Actor, *, erase: bool = False) -> None:
        """Delete a record; with `erase` for good, as a privacy deletion does."""
        now = self.clock()
        record.archived = True
        record.gone = "erased" if erase else "deleted"
        record.modified = max(now, record.modified + 1)
        if account.vendor == "salesforce":
            record.values["IsDeleted"] = True
            self._stamp(account, record, actor)
        save = Save(account, record, "erased" if erase else "deleted", {}, actor, now)
        self._journal(save, "erase" if erase else "delete")
        self._tell(save)
        if erase:
            record.values = {"hs_object_id": record.id}
            record.history.clear()

    def restore(self, account: Account, record: Record, actor: Actor) -> None:
        """Bring a deleted record back; raises ValueError for one that was erased or merged away."""
        if record.gone != "deleted":
            raise ValueError(f"{record.type} {record.id} cannot be restored: it is {record.gone or 'not deleted'}")
        now = self.clock()
        record.archived, record.gone = False, ""
        record.modified = max(now, record.modified + 1)
        if account.vendor == "salesforce":
            record.values["IsDeleted"] = False
        self._stamp(account, record, actor)
        save = Save(account, record, "restored", {}, actor, now)
        self._journal(save, "restore")
        self._tell(save)

    def merge(self, account: Account, winner: Record, losers: list[Record], actor: Actor) -> dict[str, Value]:
        """Fold `losers` into `winner`, which keeps its values and takes those it lacks; returns what it took."""
        now = self.clock()
        taken: dict[str, Value] = {}
        for loser in losers:
            for name, value in loser.values.items():
                definition = account.catalogue[winner.type].get(name)
                if (
                    definition
                    and not definition.read_only
                    and not is_ours(name)
                    and winner.values.get(name) in {None, ""}
                ):
                    taken[name] = value
            for kind, links in loser.links.items():
                for other, types in links.items():
                    winner.links.setdefault(kind, {}).setdefault(other, types)
            loser.archived, loser.gone, loser.merged_into = True, "merged", winner.id
            if account.vendor == "salesforce":
                loser.modified = max(now, loser.modified + 1)
                loser.values |= {"IsDeleted": True, "MasterRecordId": winner.id}
                self._stamp(account, loser, actor)
            else:
                went = [winner.values.get(MERGED_IDS), loser.id, loser.values.get(MERGED_IDS)]
                winner.values[MERGED_IDS] = ";".join(str(one) for one in went if one)
            self._journal(Save(account, loser, "merged", {}, actor, now), "merged_away")
        changed = self._store(account, winner, taken, actor, now)
        winner.modified = max(now, winner.modified + 1)
        self._stamp(account, winner, actor)
        details = {"merged": [loser.id for loser in losers], "moved": len(changed)}
        save = Save(account, winner, "merged", changed, actor, now, details)
        self._journal(save, "merge")
        self._tell(save)
        return changed

    # ---------------------------------------------------------------- inside

    def _store(
        self, account: Account, record: Record, values: dict[str, Value], actor: Actor, now: int
    ) -> dict[str, Value]:
        changed: dict[str, Value] = {}
        current = record.values
        for name, value in values.items():
            new = None if value == "" else value
            if current.get(name) != new:
                changed[name] = "" if new is None and account.vendor == "hubspot" else new
                current[name] = new
                if account.vendor == "hubspot":
                    stamps = record.history.setdefault(name, [])
                    stamps.insert(0, (new, now, actor.source, actor.source_id))
                    del stamps[HISTORY:]
        return changed

    def _stamp(self, account: Account, record: Record, actor: Actor) -> None:
        """Keep the properties that tell the record's own times in step."""
        if account.vendor == "hubspot":
            kind = HUBSPOT[record.type]
            record.values[kind.created] = record.values.get(kind.created) or iso(record.created)
            record.values[kind.modified] = iso(record.modified)
            return
        values = record.values
        modified = salesforce_time(record.modified)
        values |= {"LastModifiedDate": modified, "SystemModstamp": modified, "LastModifiedById": actor.user}
        values["CreatedDate"] = values.get("CreatedDate") or salesforce_time(record.created)
        if record.type in {"Lead", "Contact"}:
            values["Name"] = (
                " ".join(str(values[part]) for part in ("FirstName", "LastName") if values.get(part)) or None
            )

    def _journal_write(self, save: Save, values: dict[str, Value], cause: str) -> None:
        ours = {name: value for name, value in values.items() if is_ours(name)}
        changed = save.changed
        if ours:
            self.journal.write(
                "insight_write",
                {
                    "account": save.account.key,
                    "object": save.account.canonical(save.record.type),
                    "id": save.record.id,
                    "at": save.at,
                    "values": ours,
                    "changed": [name for name in ours if name in changed],
                    "by": save.actor.by,
                },
            )
        foreign = {name: value for name, value in changed.items() if not is_ours(name)}
        if foreign or not ours:
            self._journal(save, cause, foreign)

    def _journal(self, save: Save, cause: str, changed: dict[str, Value] | None = None) -> None:
        self.journal.write(
            "save",
            {
                "account": save.account.key,
                "object": save.account.canonical(save.record.type),
                "id": save.record.id,
                "at": save.at,
                "modified_at": save.record.modified,
                "by": save.actor.by,
                "cause": cause,
                "properties": save.changed if changed is None else changed,
            },
        )

    def _tell(self, save: Save) -> None:
        for listener in self.listeners:
            listener(save)
