"""The people who work in the stand-in's CRMs: a seeded generator of edits at a given rate.

Law: it changes records through `World` like everybody else and never touches this product's own properties.
One save is one burst of properties, as a person presses "Save" once; some records are edited again and again.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from infra.local.sandbox import texts
from infra.local.sandbox.activities import associate, log_hubspot, touch_subjects
from infra.local.sandbox.catalogue_hubspot import DEAL_STAGES, LEAD_STATUS, LIFECYCLE
from infra.local.sandbox.catalogue_salesforce import LEAD_STATUS as SALESFORCE_STATUS
from infra.local.sandbox.catalogue_salesforce import STAGES
from infra.local.sandbox.identifiers import iso, salesforce_time
from infra.local.sandbox.seeding import Maker, hubspot_contact, hubspot_twin, salesforce_lead
from infra.local.sandbox.state import Account, Actor, Record, Value, World

MACHINE = Actor("Contact Sync", "INTEGRATION", "998877", "998877")
"""Another vendor's integration, which rewrites its own volatile properties."""


@dataclass(slots=True)
class Mix:
    """How often people do what; weights, not shares."""

    edit: float = 0.72
    note: float = 0.10
    email: float = 0.07
    create: float = 0.04
    twin: float = 0.01
    merge: float = 0.005
    delete: float = 0.005
    sync: float = 0.05


@dataclass(slots=True)
class Did:
    """What was done so far."""

    saves: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)


class People:
    """Edits records of the given accounts; `start` and `stop` may be called again."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.did = Did()
        self.mix = Mix()
        self.accounts: list[Account] = []
        self.objects: frozenset[str] = frozenset()
        self._task: asyncio.Task[None] | None = None
        self._sessions: list[tuple[Account, Record, Actor]] = []

    @property
    def running(self) -> bool:
        """Whether saves are being made."""
        return self._task is not None and not self._task.done()

    def start(
        self,
        accounts: list[Account],
        rate: float,
        *,
        mix: dict[str, float] | None = None,
        objects: list[str] | None = None,
    ) -> None:
        """Begin to make `rate` saves a second in these accounts; `objects` limits edits to canonical names."""
        self.stop()
        self.accounts = accounts
        self.objects = frozenset(objects or ())
        self.mix = Mix(**(mix or {})) if not mix else Mix(**{**dict.fromkeys(Mix.__slots__, 0.0), **mix})
        self._task = asyncio.get_running_loop().create_task(self._work(rate))

    def stop(self) -> None:
        """Stop at once; a save is never left half done."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _work(self, rate: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            # People are uneven: gaps are drawn, while the rate holds on average.
            due += self.chance.expovariate(rate)
            wait = due - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            elif wait < -1:
                due = loop.time()
            self.one_save()

    def one_save(self) -> str:
        """Do one thing, as the weights say; returns which."""
        names = list(Mix.__slots__)
        kind = self.chance.choices(names, [getattr(self.mix, name) for name in names])[0]
        account = self.chance.choice(self.accounts)
        actor = self.world.person(account, self.chance.randrange(len(account.users)))
        done: str = getattr(self, f"_{kind}")(account, actor)
        self.did.saves += 1
        self.did.by_kind[done] = self.did.by_kind.get(done, 0) + 1
        return done

    # ---------------------------------------------------------------- what people do

    def _edit(self, account: Account, actor: Actor) -> str:
        if self._sessions and self.chance.random() < 0.35:
            account, record, actor = self.chance.choice(self._sessions)
            if record.archived:
                self._sessions.clear()
                return self._edit(account, actor)
        else:
            record = self._any(
                account,
                ["contacts", "companies", "deals"]
                if account.vendor == "hubspot"
                else ["Lead", "Contact", "Account", "Opportunity"],
            )
            self._sessions.append((account, record, actor))
            del self._sessions[:-4]
        choices = self._choices(account, record)
        burst = self.chance.sample(sorted(choices), min(len(choices), self.chance.randint(2, 6)))
        self.world.update(account, record, {name: choices[name]() for name in burst}, actor)
        return "edit"

    def _any(self, account: Account, kinds: list[str]) -> Record:
        wanted = [kind for kind in kinds if not self.objects or account.canonical(kind) in self.objects] or kinds
        weights = {"contacts": 5, "Lead": 4, "deals": 3, "Opportunity": 3}
        kind = self.chance.choices(wanted, [weights.get(kind, 2) for kind in wanted])[0]
        return self.chance.choice(account.live(kind))

    def _choices(self, account: Account, record: Record) -> dict[str, Any]:
        """Property → a function that draws a new value."""
        maker = Maker(self.chance, self.world.clock())
        pick = self.chance.choice
        city, country, postal, dial = pick(texts.CITIES)
        owners = [user for user, _ in account.users]
        hubspot: dict[str, dict[str, Any]] = {
            "contacts": {
                "jobtitle": lambda: pick((*texts.TITLES, "")), "phone": lambda: maker.phone(dial), "city": lambda: city,
                "country": lambda: country, "zip": lambda: postal, "lifecyclestage": lambda: pick(LIFECYCLE)[0],
                "hs_lead_status": lambda: pick(LEAD_STATUS)[0], "hubspot_owner_id": lambda: pick(owners),
                "mobilephone": lambda: maker.phone(dial), "notes_last_contacted": lambda: iso(maker.now),
                "message": lambda: maker.fill(pick(texts.DESCRIPTIONS), ""),
            },
            "companies": {
                "phone": lambda: maker.phone(dial), "city": lambda: city, "country": lambda: country, "zip": lambda: postal,
                "numberofemployees": lambda: str(pick((20, 60, 150, 400, 1800))), "annualrevenue": lambda: str(pick((2, 9, 30, 75)) * 1_000_000),
                "lifecyclestage": lambda: pick(LIFECYCLE)[0], "hubspot_owner_id": lambda: pick(owners),
                "description": lambda: maker.fill(pick(texts.DESCRIPTIONS), ""),
            },
            "deals": {
                "amount": lambda: str(self.chance.randrange(4, 260) * 1000), "closedate": lambda: iso(maker.day(-10, 150)),
                "dealstage": lambda: pick(DEAL_STAGES)[0], "hs_next_step": lambda: pick(texts.NEXT_STEPS),
                "hs_priority": lambda: pick(("low", "medium", "high")), "hubspot_owner_id": lambda: pick(owners),
                "description": lambda: maker.fill(pick(texts.DESCRIPTIONS), ""),
            },
        }  # fmt: skip
        salesforce: dict[str, dict[str, Any]] = {
            "Lead": {
                "Title": lambda: pick((*texts.TITLES, "")), "Phone": lambda: maker.phone(dial), "City": lambda: city, "Country": lambda: country,
                "PostalCode": lambda: postal, "Status": lambda: pick(SALESFORCE_STATUS), "Rating": lambda: pick(("Hot", "Warm", "Cold")),
                "Description": lambda: maker.fill(pick(texts.DESCRIPTIONS), ""), "NumberOfEmployees": lambda: pick((10, 60, 250, 1200)),
            },
            "Contact": {
                "Title": lambda: pick(texts.TITLES), "Phone": lambda: maker.phone(dial), "MobilePhone": lambda: maker.phone(dial),
                "MailingCity": lambda: city, "MailingCountry": lambda: country, "MailingPostalCode": lambda: postal,
                "Department": lambda: pick(("IT", "Finance", "Operations")),
            },
            "Account": {
                "Phone": lambda: maker.phone(dial), "BillingCity": lambda: city, "BillingCountry": lambda: country,
                "NumberOfEmployees": lambda: pick((20, 150, 400, 1800)), "AnnualRevenue": lambda: pick((2.0, 9.0, 30.0)) * 1_000_000,
                "Rating": lambda: pick(("Hot", "Warm", "Cold")), "Description": lambda: maker.fill(pick(texts.DESCRIPTIONS), ""),
            },
            "Opportunity": {
                "Amount": lambda: float(self.chance.randrange(4, 260) * 1000), "CloseDate": lambda: iso(maker.day(-10, 150))[:10],
                "StageName": lambda: pick(STAGES), "NextStep": lambda: pick(texts.NEXT_STEPS),
                "Probability": lambda: float(pick((10, 25, 50, 75, 90))), "Description": lambda: maker.fill(pick(texts.DESCRIPTIONS), ""),
            },
        }  # fmt: skip
        return (hubspot if account.vendor == "hubspot" else salesforce)[record.type]

    def _written(self, pool: tuple[str, ...]) -> str:
        """One text in fifteen tries to give orders to a language model."""
        text = self.chance.choice(texts.INJECTIONS if self.chance.random() < 1 / 15 else pool)
        return Maker(self.chance, self.world.clock()).fill(text, self.chance.choice(texts.FIRST))

    def _note(self, account: Account, actor: Actor) -> str:
        text = self._written(texts.NOTES)
        if account.vendor == "hubspot":
            deal = self.chance.choice(account.live("deals"))
            values: dict[str, Value] = {
                "hs_note_body": text,
                "hs_timestamp": iso(self.world.clock()),
                "hubspot_owner_id": actor.user,
            }
            log_hubspot(self.world, account, "notes", values, [deal, *self._around(account, deal)], actor=actor)
        else:
            deal = self.chance.choice(account.live("Opportunity"))
            self._salesforce_activity(
                account,
                "Task",
                {"Subject": "Call", "Description": text, "WhatId": deal.id, "Status": "Completed"},
                actor,
            )
        return "note"

    def _email(self, account: Account, actor: Actor) -> str:
        subject, body = self.chance.choice(texts.EMAILS)
        text = self._written((body,))
        now = self.world.clock()
        if account.vendor == "hubspot":
            deal = self.chance.choice(account.live("deals"))
            values: dict[str, Value] = {
                "hs_email_subject": subject, "hs_email_text": text, "hs_email_direction": "INCOMING_EMAIL", "hs_email_status": "SENT",
                "hs_timestamp": iso(now),
            }  # fmt: skip
            log_hubspot(self.world, account, "emails", values, [deal, *self._around(account, deal)], actor=actor)
        else:
            deal = self.chance.choice(account.live("Opportunity"))
            message: dict[str, Value] = {
                "Subject": subject,
                "TextBody": text,
                "RelatedToId": deal.id,
                "Incoming": True,
                "MessageDate": salesforce_time(now),
            }
            self._salesforce_activity(account, "EmailMessage", message, actor)
        return "email"

    @staticmethod
    def _around(account: Account, deal: Record) -> list[Record]:
        """The contacts and companies that HubSpot logs an activity of a deal on as well."""
        return [
            found
            for kind in ("contacts", "companies")
            for key in deal.links.get(kind, {})
            if (found := account.find(kind, key))
        ]

    def _salesforce_activity(self, account: Account, kind: str, values: dict[str, Value], actor: Actor) -> None:
        touch_subjects(self.world, account, self.world.create(account, kind, values, actor), actor)

    def _create(self, account: Account, actor: Actor) -> str:
        maker = Maker(self.chance, self.world.clock())
        draft = maker.person(maker.company())
        if account.vendor == "hubspot":
            contact = self.world.create(account, "contacts", hubspot_contact(draft, account, self.chance, maker), actor)
            associate(self.world, account, contact, self.chance.choice(account.live("companies")), actor)
        else:
            self.world.create(account, "Lead", salesforce_lead(draft, self.chance), actor)
        return "create"

    def _twin(self, account: Account, actor: Actor) -> str:
        if account.vendor != "hubspot":
            return self._edit(account, actor)
        twin = hubspot_twin(self.chance.choice(account.live("contacts")), Maker(self.chance, self.world.clock()))
        self.world.create(account, "contacts", twin, actor)
        return "twin"

    def _merge(self, account: Account, actor: Actor) -> str:
        contacts = account.live("contacts") if account.vendor == "hubspot" else []
        if len(contacts) < 20:
            return self._edit(account, actor)
        winner, loser = self.chance.sample(contacts, 2)
        self.world.merge(account, winner, [loser], actor)
        return "merge"

    def _delete(self, account: Account, actor: Actor) -> str:
        rows = account.live("contacts" if account.vendor == "hubspot" else "Lead")
        if len(rows) < 20:
            return self._edit(account, actor)
        self.world.archive(account, self.chance.choice(rows), actor)
        return "delete"

    def _sync(self, account: Account, actor: Actor) -> str:  # noqa: ARG002 - every deed takes who does it; here a machine does
        if account.vendor == "hubspot":
            record = self.chance.choice(account.live(self.chance.choice(("contacts", "companies", "deals"))))
            values: dict[str, Value] = {
                "last_synced_at": iso(self.world.clock()),
                "external_sync_hash": f"{self.chance.getrandbits(64):016x}",
                "marketing_touch_count": str(self.chance.randrange(200)),
            }
            self.world.update(account, record, values, MACHINE)
        else:
            record = self.chance.choice(account.live("Lead"))
            sync = Actor(MACHINE.by, MACHINE.source, MACHINE.source_id, account.users[-1][0])
            self.world.update(account, record, {"Last_Synced_At__c": salesforce_time(self.world.clock())}, sync)
        return "sync"
