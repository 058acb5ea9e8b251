"""What Hookline's messages look like on the wire, for the bare loops to send the like; and what judging a record costs by itself.

Law: made by the product's own code from a record of the stand-in; nothing is written down here.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from bench.backlog import portal
from infra.crm import hubspot_shapes as shapes
from infra.crm.client import Read
from infra.crm.concepts import concepts_of
from infra.plugins import load
from infra.settings import Settings
from llm_gateway.direct import Direct
from llm_gateway.providers.offline import MODEL, OfflineProvider
from llm_gateway.routing import Route
from processors import snapshots
from processors.analyses.analysis import Analysis, Context
from processors.grounding import ground
from processors.grounding.evidence import Evidence
from schemas.change import Change
from schemas.envelope import Envelope
from schemas.insight import Insight, Version
from schemas.record import RecordRef, RecordSnapshot
from schemas.topics import CHANGES, INSIGHTS, RECORDS, Topic

PLURALS = {"contacts": "contact", "companies": "company", "deals": "deal"}
JUDGED = 600


def properties(plural: str) -> tuple[str, ...]:
    """What the product's adapter asks of the stand-in."""
    _, answer = portal.answer("GET", f"/crm/v3/properties/{plural}", b"")
    return shapes.chosen_fields(PLURALS[plural], json.loads(answer)["results"]).read


def snapshot(account: str, tenant: str, plural: str, one: int) -> RecordSnapshot:
    """The record as the hydrator would publish it."""
    kind = PLURALS[plural]
    record = orjson.loads(portal.answer("GET", f"/crm/v3/objects/{plural}/{one}", b"")[1])
    visible = shapes.visible(properties(plural))
    read = Read(
        modified_at=shapes.modified_at(record),
        fields=shapes.shown_fields(record["properties"]),
        known_fields=visible,
        concepts=concepts_of("hubspot", kind, visible),
        notes=(),
        related=(),
        owner=record["properties"].get("hubspot_owner_id"),
    )
    content = snapshots.digest(b"bench", read, shapes.PREFIX)
    return snapshots.build(
        RecordRef(tenant, account, kind, str(one)),
        "hubspot",
        read,
        snapshots.compare(content, None, {}, read.modified_at),
        own_prefix=shapes.PREFIX,
        read_at=datetime.now(UTC),
        edited_by="userId:42",
        reason="webhook",
    )


class Judge:
    """Every analysis that a record is for, by its offline rules, with grounding; no gateway, no state, no likely duplicates."""

    def __init__(self) -> None:
        settings = Settings(_env_file=None)
        self._analyses = load("processors.analyses", Analysis, settings.analyses)  # type: ignore[type-abstract]  # the protocol is only asked for its members
        self._direct = Direct(Route(OfflineProvider(), MODEL))

    async def insights(self, given: RecordSnapshot) -> list[Insight]:
        """What would be published."""
        evidence, now = Evidence(given), datetime.now(UTC)
        found = []
        for name, analysis in self._analyses.items():
            if given.object not in analysis.objects:
                continue
            analysis.inputs(given)
            analysis.pieces(given)
            finding = await analysis.analyse(Context(given, None, self._direct.ask, (), now.date()))
            grounded = ground(finding.payload, given, evidence=evidence)
            found.append(
                Insight(
                    tenant=given.tenant,
                    account=given.account,
                    object=given.object,
                    id=given.id,
                    crm=given.crm,
                    analysis=name,
                    version=Version(1, 1_000, 1),
                    as_of=given.modified_at,
                    analyzed_at=now,
                    model=finding.model,
                    prompt_version=finding.prompt_version,
                    payload=grounded.payload,
                    dropped_claims=finding.dropped_claims + len(grounded.dropped),
                    usage=finding.usage,
                )
            )
        return found


def judging_cpu_per_1000(account: str, tenant: str) -> float:
    """CPU seconds that judging 1,000 records takes by itself."""
    judge = Judge()
    given = [snapshot(account, tenant, list(PLURALS)[one % 5 // 2], one) for one in range(1, JUDGED + 1)]

    async def judged() -> None:
        for each in given:
            await judge.insights(each)

    asyncio.run(judge.insights(given[0]))  # compiled patterns, prompts
    began = time.process_time()
    asyncio.run(judged())
    return 1_000 * (time.process_time() - began) / len(given)


def told(account: str, tenant: str) -> dict[str, Any]:
    """For `floor`: a change, and by kind a snapshot and its insights, as JSON; and each topic's headers."""
    now = datetime.now(UTC)
    change = Change(
        tenant=tenant,
        account=account,
        object="contact",
        id="1",
        kind="updated",
        occurred_at=now,
        properties=("jobtitle",),
        edited_by="userId:42",
        delivery="backlog-1000",
    )
    judge = Judge()
    samples = {plural: snapshot(account, tenant, plural, 1) for plural in PLURALS}
    insights = {plural: asyncio.run(judge.insights(each)) for plural, each in samples.items()}
    return {
        "change": json.loads(change.model_dump_json()),
        "snapshots": {plural: json.loads(each.model_dump_json()) for plural, each in samples.items()},
        "insights": {
            plural: [json.loads(each.model_dump_json()) for each in found] for plural, found in insights.items()
        },
        "headers": {
            stage: _headers(topic, tenant, account)
            for stage, topic in (("translator", CHANGES), ("hydrator", RECORDS), ("analyst", INSIGHTS))
        },
        "key": f"{tenant}/{account}",
    }


def _headers(topic: Topic[Any], tenant: str, account: str) -> Mapping[str, str]:
    envelope = Envelope(
        "0" * 32, topic.type, "hookline/translator", datetime.now(UTC), tenant, account, "0" * 32,
        f"00-{'0' * 32}-{'0' * 16}-00",
    )  # fmt: skip
    return {name: value.decode() for name, value in envelope.headers()}
