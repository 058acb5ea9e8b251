"""The app card's endpoint where it is served: beside the HTTP API, on PostgreSQL."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from urllib.parse import urlencode

import httpx
import pytest

from console.api.app import build_app
from infra.database.tables import insights as table
from tests.console.cards.showing import insights, row
from tests.console.cards.signed import USER, headers_of
from tests.ingress.fakes import PORTAL

pytestmark = [pytest.mark.connected, pytest.mark.timeout(180)]
SECRET = b"client-secret-of-the-app-0d55ecae"
PUBLIC = "https://api.hookline.example.com"


async def test_a_signed_call_gets_the_insights_of_its_own_tenant(settings, tenant) -> None:
    role = build_app(settings.model_copy(update={"api_port": 0, "api_public_url": PUBLIC}))
    await role.start()
    try:
        registry = role.parts.registry
        await registry.add_tenant(tenant)
        made = await registry.add_endpoint(tenant, "hubspot", name="hubspot", config={}, secret=SECRET)
        await registry.add_account(tenant, "hubspot", PORTAL, name="", config={}, credentials=None, endpoints=[made.id])
        await role.parts.directory.refresh()
        found = await insights("hubspot", "contact", PORTAL, "51")
        async with role.parts.engine.begin() as connection:
            for one in found:
                await connection.execute(table.insert().values(**{**row(one), "tenant": tenant}))
        body = json.dumps({"object_type": "0-1", "record": "51"}).encode()
        target = f"/cards/hubspot/insight?{urlencode(USER)}"
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{role.port}", timeout=30) as client:
            headers = headers_of(target, body, at=datetime.now(UTC), secret=SECRET, base=PUBLIC)
            answer = await client.post(target, content=body, headers=headers)
            assert (answer.status_code, set(answer.json()["insights"])) == (200, {one.analysis for one in found})
            assert answer.json()["insights"]["lead_intel"]["payload"] == found[0].payload.model_dump(mode="json")
            forged = await client.post(target, content=body + b" ", headers=headers)
            assert (forged.status_code, forged.json()["cause"]) == (401, "VERIFICATION_FAILED")
    finally:
        await role.drain(5)
