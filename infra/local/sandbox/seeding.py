"""The records that an account starts with: people, companies and deals that could be somebody's.

Law: the same seed makes the same records; starting data is neither journaled nor told. Some values are missing,
misspelt or doubled on purpose, as in any CRM.
"""

from __future__ import annotations

import random
from typing import Any

from infra.local.sandbox import texts
from infra.local.sandbox.activities import associate, log_hubspot
from infra.local.sandbox.catalogue_hubspot import DEAL_STAGES, LEAD_STATUS, LIFECYCLE
from infra.local.sandbox.catalogue_salesforce import LEAD_STATUS as SALESFORCE_STATUS
from infra.local.sandbox.catalogue_salesforce import STAGES
from infra.local.sandbox.identifiers import iso
from infra.local.sandbox.state import Account, Actor, Record, World

DAY_MS = 86_400_000
_DEFECT_RATE = 0.12


class Maker:
    """Draws plausible values."""

    def __init__(self, chance: random.Random, now: int) -> None:
        self.chance = chance
        self.now = now

    def company(self) -> dict[str, Any]:
        """A company, vendor-neutral."""
        pick = self.chance.choice
        first, last = pick(texts.COMPANY_FIRST), pick(texts.COMPANY_LAST)
        city, country, postal, dial = pick(texts.CITIES)
        domain = f"{first}-{last}.example".lower().replace(" ", "-")
        return {
            "name": f"{first} {last}", "domain": domain, "city": city, "country": country, "zip": postal, "dial": dial,
            "industry": texts.INDUSTRIES[last], "employees": pick((12, 45, 80, 140, 320, 900, 2400)),
            "revenue": pick((900_000, 4_500_000, 12_000_000, 60_000_000, 240_000_000)), "phone": self.phone(dial),
        }  # fmt: skip

    def phone(self, dial: str) -> str:
        """A phone number, sometimes malformed."""
        if self.chance.random() < _DEFECT_RATE:
            return self.chance.choice(("n/a", "12345", "0000000", "see e-mail", f"{dial}x77"))
        return f"{dial} {self.chance.randrange(200, 999)} {self.chance.randrange(1000, 9999)}"

    def person(self, company: dict[str, Any]) -> dict[str, Any]:
        """Somebody who works there."""
        pick = self.chance.choice
        first, last = pick(texts.FIRST), pick(texts.LAST)
        local = f"{first}.{last}".lower().replace("'", "").replace(" ", "")
        email = f"{local}@{company['domain']}"
        if self.chance.random() < _DEFECT_RATE:
            email = pick(
                (email.replace("@", "(at)"), email.replace(".example", ",example"), local, email.replace("@", "@@"))
            )
        return {
            "first": first, "last": last, "email": email, "title": pick(texts.TITLES) if self.chance.random() > 0.1 else "",
            "phone": self.phone(company["dial"]), "company": company["name"], "city": company["city"],
            "country": company["country"] if self.chance.random() > 0.08 else "Germny", "zip": company["zip"],
        }  # fmt: skip

    def day(self, low: int, high: int) -> int:
        """A midnight between `low` and `high` days from now, in epoch ms."""
        return (self.now // DAY_MS + self.chance.randint(low, high)) * DAY_MS

    def fill(self, text: str, first: str) -> str:
        """A text with its blanks filled in."""
        budget = f"{self.chance.randrange(8, 240) * 1000:,}".replace(",", ".")
        return text.format(
            first=first,
            budget=budget,
            date=iso(self.day(10, 120))[:10],
            project=self.chance.choice(texts.PROJECTS).capitalize(),
            seats=self.chance.choice((15, 40, 80, 250, 600)),
            city=self.chance.choice(texts.CITIES)[0],
        )

    def duplicate(self, name: str) -> str:
        """A name with a typing error."""
        if len(name) < 4:
            return name
        place = self.chance.randrange(1, len(name) - 2)
        return name[:place] + name[place + 1] + name[place] + name[place + 2 :]


def seed_hubspot(world: World, account: Account, size: int, chance: random.Random) -> None:
    """Companies, contacts, deals and their first notes."""
    maker = Maker(chance, world.clock())
    actor = Actor("person", "IMPORT", "userId:10000001", account.users[0][0])
    for _ in range(max(1, size // 5)):
        draft = maker.company()
        company = world.create(account, "companies", hubspot_company(draft, account, chance), actor, quiet=True)
        contacts: list[Record] = []
        for _ in range(chance.randint(2, 4)):
            contact = world.create(
                account, "contacts", hubspot_contact(maker.person(draft), account, chance, maker), actor, quiet=True
            )
            associate(world, account, contact, company, actor, quiet=True)
            contact.values["associatedcompanyid"] = company.id
            contacts.append(contact)
        if chance.random() < 0.25:
            world.create(account, "contacts", hubspot_twin(contacts[0], maker), actor, quiet=True)
        if chance.random() < 0.75:
            deal = world.create(account, "deals", hubspot_deal(draft, account, chance, maker), actor, quiet=True)
            associate(world, account, deal, company, actor, quiet=True)
            for contact in contacts[: chance.randint(1, 2)]:
                associate(world, account, deal, contact, actor, quiet=True)
            first = str(contacts[0].values.get("firstname") or "the customer")
            for _ in range(chance.randint(0, 2)):
                at = iso(maker.now - chance.randrange(1, 40) * DAY_MS)
                body: dict[str, Any] = {
                    "hs_note_body": maker.fill(chance.choice(texts.NOTES), first),
                    "hs_timestamp": at,
                }
                log_hubspot(world, account, "notes", body, [deal, company], actor=actor, quiet=True)
    _age(account, chance)


def hubspot_company(draft: dict[str, Any], account: Account, chance: random.Random) -> dict[str, Any]:
    """Values of a company."""
    return {
        "name": draft["name"], "domain": draft["domain"], "website": f"https://www.{draft['domain']}", "phone": draft["phone"],
        "city": draft["city"], "country": draft["country"], "zip": draft["zip"], "industry": draft["industry"],
        "numberofemployees": str(draft["employees"]), "annualrevenue": str(draft["revenue"]), "type": "PROSPECT",
        "lifecyclestage": chance.choice(LIFECYCLE[1:6])[0], "hubspot_owner_id": chance.choice(account.users)[0],
    }  # fmt: skip


def hubspot_contact(draft: dict[str, Any], account: Account, chance: random.Random, maker: Maker) -> dict[str, Any]:
    """Values of a contact."""
    return {
        "firstname": draft["first"], "lastname": draft["last"], "email": draft["email"], "jobtitle": draft["title"],
        "phone": draft["phone"], "company": draft["company"], "city": draft["city"], "country": draft["country"], "zip": draft["zip"],
        "lifecyclestage": chance.choice(LIFECYCLE[:6])[0], "hs_lead_status": chance.choice(LEAD_STATUS)[0],
        "hubspot_owner_id": chance.choice(account.users)[0] if chance.random() > 0.1 else "",
        "hs_analytics_source": chance.choice(("ORGANIC_SEARCH", "PAID_SEARCH", "REFERRALS", "DIRECT_TRAFFIC", "OFFLINE")),
        "notes_last_contacted": iso(maker.day(-120, -1)) if chance.random() > 0.3 else "",
    }  # fmt: skip


def hubspot_twin(contact: Record, maker: Maker) -> dict[str, Any]:
    """The same person again, typed by somebody else: another spelling, another address of theirs."""
    values = contact.values
    email = str(values.get("email") or "")
    return {
        "firstname": values.get("firstname"), "lastname": maker.duplicate(str(values.get("lastname") or "")),
        "email": email.replace("@", "+1@") if "@" in email else "", "company": values.get("company"), "phone": values.get("phone"),
        "jobtitle": values.get("jobtitle"), "city": values.get("city"),
    }  # fmt: skip


def hubspot_deal(draft: dict[str, Any], account: Account, chance: random.Random, maker: Maker) -> dict[str, Any]:
    """Values of a deal."""
    return {
        "dealname": f"{draft['name']} - {chance.choice(texts.PROJECTS)}", "amount": str(chance.randrange(4, 260) * 1000),
        "closedate": iso(maker.day(-20, 120)), "dealstage": chance.choice(DEAL_STAGES[:5])[0], "pipeline": "default",
        "dealtype": chance.choice(("newbusiness", "existingbusiness")), "deal_currency_code": "EUR",
        "description": maker.fill(chance.choice(texts.DESCRIPTIONS), ""), "hubspot_owner_id": chance.choice(account.users)[0],
        "hs_next_step": chance.choice(texts.NEXT_STEPS), "hs_priority": chance.choice(("low", "medium", "high")),
    }  # fmt: skip


def seed_salesforce(world: World, account: Account, size: int, chance: random.Random) -> None:
    """Accounts, contacts, opportunities, leads and their first tasks."""
    maker = Maker(chance, world.clock())
    actor = Actor("person", "UI", account.users[0][0], account.users[0][0])
    for user, name in account.users:
        record = Record("User", user, maker.now)
        record.values = {
            "Id": user,
            "Name": name,
            "Username": f"{name}@sandbox.example".replace(" ", ".").lower(),
            "IsActive": True,
        }
        account.records["User"][user] = record
    organization = Record("Organization", account.number, maker.now)
    organization.values = {
        "Id": account.number,
        "Name": account.name,
        "OrganizationType": "Enterprise Edition",
        "IsSandbox": False,
    }
    account.records["Organization"][account.number] = organization
    for _ in range(max(1, size // 5)):
        draft = maker.company()
        company = world.create(account, "Account", salesforce_account(draft), actor, quiet=True)
        for _ in range(chance.randint(1, 2)):
            contact = salesforce_contact(maker.person(draft), chance)
            world.create(account, "Contact", {**contact, "AccountId": company.id}, actor, quiet=True)
        for _ in range(chance.randint(1, 2)):
            world.create(account, "Lead", salesforce_lead(maker.person(maker.company()), chance), actor, quiet=True)
        if chance.random() < 0.75:
            deal = world.create(
                account,
                "Opportunity",
                {**salesforce_opportunity(draft, chance, maker), "AccountId": company.id},
                actor,
                quiet=True,
            )
            text = maker.fill(chance.choice(texts.NOTES), chance.choice(texts.FIRST))
            task: dict[str, Any] = {
                "Subject": "Call",
                "Description": text,
                "WhatId": deal.id,
                "Status": "Completed",
                "Priority": "Normal",
            }
            world.create(account, "Task", task, actor, quiet=True)
    _age(account, chance)


def salesforce_account(draft: dict[str, Any]) -> dict[str, Any]:
    """Values of an Account."""
    return {
        "Name": draft["name"], "Website": f"https://www.{draft['domain']}", "Phone": draft["phone"], "BillingCity": draft["city"],
        "BillingCountry": draft["country"], "BillingPostalCode": draft["zip"], "Industry": draft["industry"].replace("_", " ").title(),
        "NumberOfEmployees": draft["employees"], "AnnualRevenue": float(draft["revenue"]), "Type": "Prospect",
    }  # fmt: skip


def salesforce_contact(draft: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Values of a Contact."""
    return {
        "FirstName": draft["first"], "LastName": draft["last"], "Email": draft["email"], "Title": draft["title"], "Phone": draft["phone"],
        "MailingCity": draft["city"], "MailingCountry": draft["country"], "MailingPostalCode": draft["zip"],
        "LeadSource": chance.choice(("Web", "Partner Referral", "Other")),
    }  # fmt: skip


def salesforce_lead(draft: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Values of a Lead."""
    return {
        "FirstName": draft["first"], "LastName": draft["last"], "Company": draft["company"], "Email": draft["email"],
        "Title": draft["title"], "Phone": draft["phone"], "City": draft["city"], "Country": draft["country"], "PostalCode": draft["zip"],
        "Status": chance.choice(SALESFORCE_STATUS[:2]), "Rating": chance.choice(("Hot", "Warm", "Cold", "")), "IsConverted": False,
        "LeadSource": chance.choice(("Web", "Phone Inquiry", "Partner Referral", "Purchased List")),
        "NumberOfEmployees": chance.choice((10, 60, 250, 1200)), "AnnualRevenue": float(chance.choice((1_000_000, 8_000_000, 50_000_000))),
    }  # fmt: skip


def salesforce_opportunity(draft: dict[str, Any], chance: random.Random, maker: Maker) -> dict[str, Any]:
    """Values of an Opportunity."""
    return {
        "Name": f"{draft['name']} - {chance.choice(texts.PROJECTS)}", "StageName": chance.choice(STAGES[:8]),
        "Amount": float(chance.randrange(4, 260) * 1000), "CloseDate": iso(maker.day(-20, 120))[:10], "Type": "New Customer",
        "Description": maker.fill(chance.choice(texts.DESCRIPTIONS), ""), "NextStep": chance.choice(texts.NEXT_STEPS),
        "Probability": float(chance.choice((10, 25, 50, 75))),
    }  # fmt: skip


def _age(account: Account, chance: random.Random) -> None:
    """Starting records were not all made this minute."""
    from infra.local.sandbox.identifiers import salesforce_time  # noqa: PLC0415 - only used here
    from infra.local.sandbox.objects import HUBSPOT  # noqa: PLC0415 - only used here

    for kind, rows in account.records.items():
        for record in rows.values():
            created = record.created - chance.randrange(30, 500) * DAY_MS + chance.randrange(DAY_MS)
            record.created = created
            record.modified = created + chance.randrange(1, 20) * DAY_MS
            if account.vendor == "hubspot":
                record.values[HUBSPOT[kind].created] = iso(created)
                record.values[HUBSPOT[kind].modified] = iso(record.modified)
                for name, stamps in record.history.items():
                    record.history[name] = [
                        (value, created, source, source_id) for value, _, source, source_id in stamps
                    ]
            elif "CreatedDate" in record.values:
                record.values["CreatedDate"] = salesforce_time(created)
                record.values["LastModifiedDate"] = record.values["SystemModstamp"] = salesforce_time(record.modified)
