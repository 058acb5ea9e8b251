"""What the console, tests and benchmarks tell the stand-in to do: people, single saves, faults, limits.

Law: every public method takes and returns what JSON can carry, so that each is also `POST /sandbox/{method}`; what a
caller got wrong raises ControlError, which says what to do. Runs on the sandbox's own event loop alone.
"""

# ruff: noqa: A002 - `object` and `id` are the journal's and the vendors' words, and part of the calls' JSON

from __future__ import annotations

import dataclasses
from typing import Any

from infra.local.sandbox.activities import associate, dissociate, log_hubspot, touch_subjects
from infra.local.sandbox.event_controls import EventControls
from infra.local.sandbox.identifiers import iso, now_ms, salesforce_id, salesforce_time
from infra.local.sandbox.kinds import ControlError, kind_name
from infra.local.sandbox.limits import Fault, Tally
from infra.local.sandbox.state import Actor

__all__ = ["ControlError", "Controls"]

_LIMITS = ("per_ten_seconds", "window_ms", "search_per_second", "daily", "used_today")


class Controls(EventControls):
    """The stand-in's controls."""

    # ---------------------------------------------------------------- limits, faults, deliveries

    def set_limits(self, account: str, **limits: int | None) -> dict[str, Any]:
        """`per_ten_seconds`, `window_ms` (instead of ten seconds), `search_per_second`, `daily`, `used_today`; null: unlimited."""
        known = self._account(account).limits
        for name, value in limits.items():
            if name not in _LIMITS:
                raise ControlError(f"no limit {name!r}: use {', '.join(_LIMITS)}")
            setattr(known, name, value)
        return {name: getattr(known, name) for name in _LIMITS}

    def tally(self, account: str, *, restart: bool = False) -> dict[str, Any]:
        """Calls, rows and refusals of an account since the last `restart`; beginning anew with `restart`."""
        limits = self._account(account).limits
        counted = limits.tally
        found = {
            "calls": dict(counted.calls),
            "rows": dict(counted.rows),
            "refused": list(counted.refused),
            "at": list(counted.at),
        }
        if restart:
            limits.tally = Tally()
        return found

    def plant_fault(
        self, account: str, operation: str, kind: str, count: int = 1, *, ms: int = 0, rows: int = 1
    ) -> dict[str, Any]:
        """The next `count` calls of an operation (a pattern such as `objects.batch_*`) meet 401, 403, 423, 429, 500, 502,
        503, 207 (its first `rows` rows fail), timeout or latency (`ms`). `account` may be `*`.
        """
        if kind not in {"401", "403", "423", "429", "500", "502", "503", "207", "timeout", "latency"}:
            raise ControlError("kind is 401, 403, 423, 429, 500, 502, 503, 207, timeout or latency")
        if account != "*":
            self._account(account)
        fault = Fault(account, operation, kind, count, ms, rows)  # type: ignore[arg-type]  # checked above
        self._hubspot.faults.plant(fault)
        return dataclasses.asdict(fault)

    def clear_faults(self) -> dict[str, Any]:
        """Take all planted faults back."""
        self._hubspot.faults.clear()
        return {}

    # ---------------------------------------------------------------- people and single saves

    def people_start(
        self,
        rate: float = 1.0,
        accounts: list[str] | None = None,
        mix: dict[str, float] | None = None,
        objects: list[str] | None = None,
    ) -> dict[str, Any]:
        """Let people make `rate` saves a second. `mix`: weights of edit, note, email, create, twin, merge, delete, sync
        (those not named: 0); `objects`: edit only these (contact, company, deal, lead).
        """
        if rate <= 0:
            raise ControlError("rate is saves per second, above 0")
        chosen = [self._account(key) for key in (accounts or list(self._world.accounts))]
        if not chosen or not all(any(account.records.values()) for account in chosen):
            raise ControlError("people need accounts with records: create_portal or create_org first")
        unknown = set(mix or ()) - {"edit", "note", "email", "create", "twin", "merge", "delete", "sync"}
        if unknown:
            raise ControlError(f"unknown in mix: {sorted(unknown)}")
        self._people.start(chosen, rate, mix=mix, objects=objects)
        return self.people_status()

    def people_stop(self) -> dict[str, Any]:
        """Let them stop at once."""
        self._people.stop()
        return self.people_status()

    def people_status(self) -> dict[str, Any]:
        """Whether they work, and what they did so far."""
        return {
            "running": self._people.running,
            "saves": self._people.did.saves,
            "by_kind": dict(self._people.did.by_kind),
        }

    def save(
        self, account: str, object: str, id: str, properties: dict[str, Any], *, by: str = "person"
    ) -> dict[str, Any]:
        """One save by a person (or by an integration of the name given); returns what changed and modified_at in ms."""
        owner = self._account(account)
        record = self._record(owner, object, id)
        actor = (
            self._world.person(owner)
            if by == "person"
            else Actor(by, "INTEGRATION", "998877", salesforce_id("005", 901))
        )
        changed = self._world.update(owner, record, properties, actor)
        if changed:
            touch_subjects(self._world, owner, record, actor)
        return {"changed": changed, "modified_at": record.modified}

    def create_record(
        self, account: str, object: str, properties: dict[str, Any], about: list[list[str]] | None = None
    ) -> dict[str, Any]:
        """A new record made by a person; `about`: [[object, id], ...] that it is associated with (HubSpot)."""
        owner = self._account(account)
        record = self._world.create(owner, kind_name(owner, object), properties, self._world.person(owner))
        for other_kind, other_id in about or ():
            associate(self._world, owner, record, self._record(owner, other_kind, other_id), self._world.person(owner))
        return {"id": record.id, "modified_at": record.modified}

    def note(
        self, account: str, id: str, text: str, *, object: str = "deal", kind: str = "note", subject: str = ""
    ) -> dict[str, Any]:
        """A person logs a note, or with `kind` "email" an incoming e-mail, on a deal (or another record)."""
        owner = self._account(account)
        record = self._record(owner, object, id)
        actor = self._world.person(owner)
        now = self._world.clock()
        if owner.vendor == "hubspot":
            values: dict[str, Any] = {"hs_timestamp": iso(now)}
            if kind == "email":
                values |= {"hs_email_subject": subject, "hs_email_text": text, "hs_email_direction": "INCOMING_EMAIL"}
            else:
                values |= {"hs_note_body": text, "hubspot_owner_id": actor.user}
            made = log_hubspot(
                self._world, owner, "emails" if kind == "email" else "notes", values, [record], actor=actor
            )
        else:
            values = {"Subject": subject or "Call", "Description": text, "WhatId": record.id, "Status": "Completed"}
            if kind == "email":
                values = {
                    "Subject": subject,
                    "TextBody": text,
                    "RelatedToId": record.id,
                    "Incoming": True,
                    "MessageDate": salesforce_time(now),
                }
            made = self._world.create(owner, "EmailMessage" if kind == "email" else "Task", values, actor)
            touch_subjects(self._world, owner, made, actor)
        return {"id": made.id, "modified_at": record.modified}

    def associate(
        self,
        account: str,
        one: list[str],
        other: list[str],
        *,
        removed: bool = False,
    ) -> dict[str, Any]:
        """A person links two HubSpot records, each [object, id], or with `removed` takes the link away."""
        owner = self._account(account)
        ends = self._record(owner, *one), self._record(owner, *other)
        change = dissociate if removed else associate
        return {"changed": change(self._world, owner, *ends, self._world.person(owner))}

    def delete(self, account: str, object: str, id: str, *, erase: bool = False) -> dict[str, Any]:
        """Delete a record; with `erase` for good (HubSpot's privacy deletion)."""
        owner = self._account(account)
        self._world.archive(owner, self._record(owner, object, id), self._world.person(owner), erase=erase)
        return {}

    def restore(self, account: str, object: str, id: str) -> dict[str, Any]:
        """Bring a deleted record back."""
        owner = self._account(account)
        record = owner.records[kind_name(owner, object)].get(id)
        if record is None:
            raise ControlError(f"{account} has no {object} {id}")
        try:
            self._world.restore(owner, record, self._world.person(owner))
        except ValueError as error:
            raise ControlError(str(error)) from None
        return {"modified_at": record.modified}

    def merge(self, account: str, object: str, winner: str, losers: list[str]) -> dict[str, Any]:
        """Fold records into one."""
        owner = self._account(account)
        kept = self._record(owner, object, winner)
        self._world.merge(owner, kept, [self._record(owner, object, key) for key in losers], self._world.person(owner))
        return {"modified_at": kept.modified}

    # ---------------------------------------------------------------- looking

    def records(self, account: str, object: str) -> list[str]:
        """The ids of all records of a type."""
        owner = self._account(account)
        return [record.id for record in owner.live(kind_name(owner, object))]

    def record(self, account: str, object: str, id: str) -> dict[str, Any]:
        """One record as it stands, archived or not."""
        owner = self._account(account)
        found = owner.records[kind_name(owner, object)].get(id)
        if found is None:
            raise ControlError(f"{account} has no {object} {id}")
        return {
            "id": found.id,
            "properties": {name: value for name, value in found.values.items() if value is not None},
            "modified_at": found.modified,
            "archived": found.archived,
            "gone": found.gone,
            "links": {kind: list(links) for kind, links in found.links.items()},
        }

    def state(self) -> dict[str, Any]:
        """Accounts, endpoints and whether all deliveries are through; the journal's file holds all that is told here."""
        self._world.journal.flush()
        return {
            "accounts": {
                key: {
                    "name": account.name,
                    "records": {kind: len(account.live(kind)) for kind in account.records if account.records[kind]},
                    "calls": account.limits.used_today,
                }
                for key, account in self._world.accounts.items()
            },
            "endpoints": {
                name: {
                    **dataclasses.asdict(endpoint.counts),
                    "queued": len(endpoint.queue),
                    "waiting": endpoint.retries,
                    "in_flight": endpoint.in_flight,
                }
                for name, endpoint in self._endpoints.items()
            },
            "people": self.people_status(),
            "idle": all(endpoint.idle for endpoint in self._endpoints.values()),
            "at": now_ms(),
        }

    async def _close(self) -> None:
        for endpoint in self._endpoints.values():
            await endpoint.close()
