"""The CRMs that we speak to, found by their plug-ins.

Law: knows no vendor by name; an account's `crm` says which client is its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

from infra.crm.client import CrmClient, CrmVendor
from infra.plugins import load
from infra.settings import Settings


def connect(settings: Settings, names: Collection[str] | None = None) -> Mapping[str, CrmClient]:
    """A client per CRM, of all or of those named; `close` each in the end. Raises SettingsError for an unknown name."""
    found = load("infra.crm", CrmVendor, names)  # type: ignore[type-abstract]  # the protocol is only asked for its members
    return {name: vendor.connect(settings) for name, vendor in found.items()}


@asynccontextmanager
async def connected(settings: Settings, crm: str) -> AsyncIterator[CrmClient]:
    """A client of one CRM, closed afterwards. Raises SettingsError for an unknown name."""
    client = connect(settings, [crm])[crm]
    try:
        yield client
    finally:
        await client.close()
