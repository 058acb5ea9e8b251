"""A real insight of each kind, by the product's own rules, about a record that a rep would know."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from infra.crm.concepts import MAPS
from llm_gateway.prompt import Answer
from processors.analyses.analysis import Context
from processors.analyses.data_quality import PLUGIN as DATA_QUALITY
from processors.analyses.lead_intel import PLUGIN as LEAD_INTEL
from processors.analyses.requirements import PLUGIN as REQUIREMENTS
from processors.grounding import ground
from processors.matching import Match
from schemas.insight import Insight, Usage, Version
from schemas.record import Note, RecordSnapshot

AT = datetime(2026, 11, 18, 9, 12, tzinfo=UTC)
TODAY = date(2026, 11, 20)
NOTES = (
    "Kick-off call. Dana said: single sign-on with Okta is a must before anything goes live.",
    "They need an integration with SAP to sync orders every night. The budget is 40,000 EUR.",
    "Dana asked whether we can host in the EU. They must be live by the end of March.",
)
BEFORE = {"job_title": "Sales Manager", "lead_status": "OPEN"}
NOW = {
    "first_name": "Dana", "last_name": "Reyes", "job_title": "VP of Sales", "company_name": "Acme Logistics",
    "email": "dana.reyes@acme-logistics,com", "phone": "+1 (555) 010-0199", "country": "Germany", "city": "Hamburg",
}  # fmt: skip
TWINS = {"hubspot": "4812", "salesforce": "00QWs000001abcEMAQ"}
VENDORS = {
    "hubspot": {"lifecycle_stage": "salesqualifiedlead", "lead_status": "CONNECTED", "last_contacted_at": "2026-11-16T10:00:00Z"},
    "salesforce": {"lead_status": "Working - Contacted", "lead_source": "Partner Referral", "rating": "Hot", "last_activity_at": "2026-11-16"},
}  # fmt: skip


def snapshot(crm: str, object_: str, account: str, record: str, at: datetime, **values: str) -> RecordSnapshot:
    concepts = MAPS[crm][object_]
    given = {concepts[concept]: value for concept, value in values.items() if concept in concepts}
    return RecordSnapshot(
        tenant="acme", account=account, object=object_, id=record, crm=crm, fields=given, concepts=concepts,
        known_fields=tuple(concepts.values()), modified_at=at, read_at=at,
        notes=tuple(
            Note(id=str(310 + index), kind="note", at=AT - timedelta(days=6 - index), text=text) for index, text in enumerate(NOTES)
        ),
    )  # fmt: skip


async def _ask(prompt):
    return Answer(
        prompt.rules(prompt.facts), "offline-rules", "offline", Usage(), cached=False, prompt_version=prompt.version
    )


async def _analysed(plugin, snap: RecordSnapshot, previous: Insight | None, version: int) -> Insight:
    matches = (Match(TWINS[snap.crm], 0.97, ("same phone", "similar name (0.94)")),) if plugin.wants_matches else ()
    finding = await plugin.analyse(Context(snap, previous, _ask, matches, TODAY))
    payload = ground(finding.payload, snap, previous=previous).payload
    return Insight(
        tenant=snap.tenant, account=snap.account, object=snap.object, id=snap.id, crm=snap.crm, analysis=plugin.name,
        version=Version(1, version, 1), as_of=snap.modified_at, analyzed_at=snap.modified_at + timedelta(seconds=2),
        model=finding.model, prompt_version=finding.prompt_version, payload=payload,
    )  # fmt: skip


async def insights(crm: str, object_: str, account: str, record: str) -> list[Insight]:
    """What the three analyses say of the record now, after it changed once."""
    before = snapshot(crm, object_, account, record, AT - timedelta(days=8), **{**NOW, **VENDORS[crm], **BEFORE})
    after = snapshot(crm, object_, account, record, AT, **{**NOW, **VENDORS[crm]})
    after = after.model_copy(
        update={"changed": tuple(name for name in after.fields if after.fields[name] != before.fields.get(name))}
    )
    found = []
    for plugin in (LEAD_INTEL, REQUIREMENTS, DATA_QUALITY):
        if object_ in plugin.objects:
            previous = await _analysed(plugin, before, None, 4_640)
            found.append(await _analysed(plugin, after, previous, 4_711))
    return found


def row(insight: Insight) -> dict[str, Any]:
    """As the table `insights` holds it."""
    given = insight.model_dump(mode="json", exclude={"id", "version", "usage"})
    epoch, offset, generation = insight.version
    stamps = {"as_of": insight.as_of, "analyzed_at": insight.analyzed_at}
    return {
        **given,
        **stamps,
        "record_id": insight.id,
        "epoch": epoch,
        "snapshot_offset": offset,
        "generation": generation,
    }
