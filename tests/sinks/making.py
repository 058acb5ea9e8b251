"""Insights and fakes for the tests of sinks."""

# ruff: noqa: A002 - the parameter names of the protocols that the fakes implement

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

from infra.accounts import Account
from infra.crm.client import AnswerLost, Gone, Written
from infra.crm.own_fields import OWN_FIELDS
from schemas.insight import (
    DataQuality,
    Defect,
    Duplicate,
    Evidence,
    Factor,
    Insight,
    LeadIntel,
    NextAction,
    Requirement,
    Requirements,
    Version,
)
from schemas.record import RecordRef
from sinks.destinations.crm_state import DOUBTED, NEVER, RECORD, Row

NOON = datetime(2026, 11, 22, 12, 0, 0, 123000, tzinfo=UTC)
ACCOUNT = Account(id="hubspot:123", tenant="acme", crm="hubspot", name="", config={}, credentials={"access_token": "t"})


def lead(score: int | None = 72, **more) -> LeadIntel:
    values = {
        "status": "scored",
        "score": score,
        "grade": "B",
        "summary": "Decision maker with budget.",
        "factors": (
            Factor(
                label="Job title",
                direction="up",
                weight=12,
                evidence=Evidence(field="jobtitle", value="VP Sales", since=NOON),
            ),
            Factor(
                label="No phone number",
                direction="down",
                weight=3,
                evidence=Evidence(field="phone", value="n/a", since=NOON),
            ),
        ),
        "changes": ("Job title was CFO.",),
        "next_action": NextAction(text="Call her", due=date(2026, 11, 25), why="budget closes"),
    }
    return LeadIntel(**{**values, **more})


def requirements() -> Requirements:
    return Requirements(
        items=(
            Requirement(
                text="SSO", kind="security", priority="should", quote="we want SSO", source="note:1", said_at=NOON
            ),
            Requirement(
                text="ERP link",
                kind="integration",
                priority="must",
                quote="must talk to the ERP",
                source="email:2",
                said_at=NOON,
            ),
        ),
        open_questions=("Which ERP?",),
    )


def quality(health: int = 80) -> DataQuality:
    return DataQuality(
        health=health,
        defects=(
            Defect(field="state", kind="missing", severity="low", message="State is missing"),
            Defect(
                field="email",
                kind="malformed",
                severity="high",
                message="Not an e-mail address",
                value="x",
                proposed="x@y.example",
            ),
        ),
        duplicates=(Duplicate(id="9", probability=0.94, evidence=("same e-mail",)),),
    )


def insight(payload=None, offset: int = 1, record: str = "1", **more) -> Insight:
    payload = lead() if payload is None else payload
    return Insight(
        **{
            "tenant": "acme",
            "account": "hubspot:123",
            "object": "contact",
            "id": record,
            "crm": "hubspot",
            "analysis": payload.analysis,
            "version": Version(1, offset, 1),
            "as_of": NOON + timedelta(seconds=offset),
            "analyzed_at": NOON + timedelta(seconds=offset, milliseconds=500),
            "model": "offline-rules",
            "payload": payload,
            **more,
        }
    )


def fingerprint(tenant: str, data: bytes) -> bytes:
    return hmac.digest(tenant.encode(), data, hashlib.sha256)


class FakeAccounts:
    def __init__(self, *accounts: Account) -> None:
        self.by_id = {found.id: found for found in accounts}

    def account(self, id: str) -> Account | None:
        return self.by_id.get(id)


class MemoryState:
    """`CrmState` in memory."""

    def __init__(self) -> None:
        self.rows: dict[RecordRef, dict[str, Row]] = {}
        self.claims: dict[RecordRef, str] = {}
        self.lose_next_done = False

    async def take_up(self, insights, claim):
        before = {ref: dict(self.rows.get(ref, {})) for ref in insights}
        for ref, versions in insights.items():
            if any(version > before[ref].get(analysis, Row()).version for analysis, version in versions.items()):
                row = self.rows.setdefault(ref, {}).get(RECORD, Row(version=NEVER))
                self.rows[ref][RECORD] = replace(row, pending=True)
                self.claims[ref] = claim
        return before

    async def done(self, rows, claim):
        if self.lose_next_done:
            self.lose_next_done = False
            raise ConnectionError("killed between the CRM's answer and the note of it")
        overtaken = set()
        for ref, analysis, row in rows:
            held = self.rows.setdefault(ref, {}).get(analysis)
            mine = analysis != RECORD or held is None or self.claims.get(ref, "") == claim
            if mine and (held is None or held.version <= row.version):
                self.rows[ref][analysis] = replace(row, pending=False)
            else:
                overtaken.add(ref)
        return overtaken

    async def doubt(self, refs):
        for ref in refs:
            self.rows[ref][RECORD] = replace(self.rows[ref][RECORD], pending=True)
            self.claims[ref] = DOUBTED


class FakeCrm:
    """A CRM in memory that implements `CrmClient` and keeps a log of what was written."""

    name = "hubspot"
    own_prefix = "hookline_"
    own_objects = frozenset({"contact", "deal"})

    def __init__(self) -> None:
        self.records: dict[str, dict[str, str]] = {}
        self.writes: list[Mapping[str, Mapping[str, str]]] = []
        self.asked: list[list[str]] = []
        self.answers: dict[str, object] = {}
        self.provisioned = 0
        self.error: Exception | None = None
        self.lose = 0
        """So many answers are lost."""
        self.arrives = True
        """Whether what has no answer is carried out."""

    async def write(self, account, object, rows):
        if self.error is not None:
            raise self.error
        if self.lose:
            self.lose -= 1
            if self.arrives:
                await self.write_rows(rows)
            raise AnswerLost("hubspot", "no answer")
        return await self.write_rows(rows)

    async def write_rows(self, rows):
        self.writes.append({one: dict(values) for one, values in rows.items()})
        found = {}
        for one, values in rows.items():
            assert set(values) <= set(OWN_FIELDS)
            found[one] = self.answers.get(one, Written())
            if found[one] == Written():
                held = self.records.setdefault(one, {})
                held.update(values)
                for name in [name for name, value in held.items() if value == ""]:
                    del held[name]
        return found

    async def own_fields(self, account, object, ids):
        self.asked.append(list(ids))
        return {one: dict(self.records[one]) if one in self.records else Gone() for one in ids}

    async def provision(self, account):
        self.provisioned += 1
        self.answers.clear()
        return ["contacts.hookline_score"]

    async def read(self, account, object, ids: Sequence[str]):
        raise AssertionError("a sink reads no record")

    async def parents(self, account, object, ids):
        raise AssertionError("a sink reads no note")

    async def integration_user(self, account):
        return None

    async def close(self):
        return None
