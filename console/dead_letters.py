"""What was laid aside, read from `crm.dead-letters`."""

from __future__ import annotations

from console.reading import read
from infra.kafka.codec import Codec, Received
from infra.keyring import Keyring
from infra.settings import Settings
from schemas.dead_letter import DeadLetter
from schemas.topics import DEAD_LETTERS


async def of_tenant(settings: Settings, keyring: Keyring, tenant: str) -> list[DeadLetter]:
    """All dead letters of a tenant, oldest first per partition."""
    return [
        message.payload
        async for message in read(settings, Codec(keyring, "hookline/console"), DEAD_LETTERS)
        if isinstance(message, Received) and message.payload.tenant == tenant
    ]
