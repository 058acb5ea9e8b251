"""The translator destroys the keys of deliveries whose retention is over, for as long as it runs."""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from infra.database.engine import migrate
from infra.database.tables import data_keys
from infra.kafka.topics import migrate_topics
from infra.role import Parts
from infra.settings import Settings
from ingress import translator_app

pytestmark = pytest.mark.connected


async def test_a_running_translator_destroys_delivery_keys_past_their_retention(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    """INVARIANT: a delivery cannot be read after its retention, wherever a copy lies. If it fails, old customer data stays readable."""
    assert translator_app.FORGET_EVERY_SECONDS <= 3600
    monkeypatch.setattr(translator_app, "FORGET_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(translator_app, "GROUP", f"hookline.test.{secrets.token_hex(6)}")
    await asyncio.to_thread(migrate, settings)
    await migrate_topics(settings)
    parts = Parts(settings)
    tenant = f"forget-{secrets.token_hex(4)}"
    try:
        role = translator_app.build_app(settings, parts)
        await role.start()
        try:
            # After its start, so that it is not the first look alone that counts.
            now = datetime.now(UTC)
            await parts.keyring.for_delivery(tenant, "door", now - timedelta(hours=80))
            kept = await parts.keyring.for_delivery(tenant, "door", now)
            async with asyncio.timeout(20):
                while len(found := await _keys(parts, tenant)) > 2:  # noqa: ASYNC110 -- the database tells nobody of its rows
                    await asyncio.sleep(0.02)
            assert kept.id in found
        finally:
            await role.drain(10)
    finally:
        await parts.stop()


async def _keys(parts: Parts, tenant: str) -> set[str]:
    query = sa.select(data_keys.c.key_id).where(data_keys.c.tenant == tenant)
    async with parts.engine.connect() as connection:
        return set((await connection.execute(query)).scalars())
