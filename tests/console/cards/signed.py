"""Calls as HubSpot's proxy makes them: the vendor's own signer over the public address, and stand-ins for what lies behind."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from urllib.parse import urlencode

import httpx
from hubspot.utils.signature import Signature

from console.cards.app import build
from console.cards.pace import Pace
from console.cards.refusals import Refused
from infra.accounts import Account, Endpoint
from tests.ingress.fakes import NOW, PORTAL, SECRET, endpoint
from tests.ingress.signers import HUBSPOT_ESCAPES, millis

API = "https://api.hookline.example.com"
APP = "33"
USER = {"userId": "7", "portalId": PORTAL.partition(":")[2], "userEmail": "dana.reyes@hookline.example", "appId": APP}


def account(tenant: str = "acme", id: str = PORTAL) -> Account:  # noqa: A002 - the field's name
    return Account(id=id, tenant=tenant, crm="hubspot", name="", config={}, credentials=None)


@dataclass
class Directory:
    """Keeps the contract of `console.cards.caller.Known`."""

    known: Mapping[str, Endpoint] = field(
        default_factory=lambda: {endpoint().id: endpoint(config={"app_id": APP, "signature": "v1"})}
    )
    accounts: Mapping[str, Account] = field(default_factory=lambda: {PORTAL: account()})

    def endpoints(self) -> Mapping[str, Endpoint]:
        return MappingProxyType(dict(self.known))

    def account(self, id: str) -> Account | None:  # noqa: A002 - the directory's own name for it
        return self.accounts.get(id)


@dataclass
class MemoryShelf:
    """Keeps the contract of `console.cards.shelf.Shelf`; `fails` is raised instead."""

    held: dict[tuple[str, str, str], dict] = field(default_factory=dict)
    said: list[tuple[str, str, str, str, str]] = field(default_factory=list)
    fails: Exception | None = None

    async def insights(self, account, object_, record):
        if self.fails is not None:
            raise self.fails
        return self.held.get((account.id, object_, record), {})

    async def feedback(self, account, object_, record, vote, note):
        if self.fails is not None:
            raise self.fails
        self.said.append((account.id, object_, record, vote, note))


def headers_of(
    target: str, body: bytes, *, at: datetime = NOW, secret: bytes = SECRET, base: str = API
) -> dict[str, str]:
    # The vendor's signer does not undo the escapes in the address as its documentation says, so that is done here.
    uri = re.sub("|".join(HUBSPOT_ESCAPES), lambda match: HUBSPOT_ESCAPES[match.group()], base + target)
    signature = Signature.get_signature(secret.decode(), body.decode(), "v3", uri, "POST", millis(at))
    return {
        "X-HubSpot-Signature-v3": signature,
        "X-HubSpot-Request-Timestamp": millis(at),
        "Content-Type": "application/json",
    }


@dataclass
class Card:
    """The real application behind HubSpot's proxy."""

    directory: Directory = field(default_factory=Directory)
    shelf: MemoryShelf = field(default_factory=MemoryShelf)
    pace: Pace = field(default_factory=lambda: Pace(1_000, 1_000))
    public_url: str = API
    now: datetime = NOW

    async def call(
        self, what: str, body, *, user=USER, headers=None, method: str = "POST", target: str | None = None, **signing
    ):
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        address = target or f"/cards/hubspot/{what}?{urlencode(user)}"
        given = headers_of(address, text, **signing) if headers is None else headers
        app = build(self.directory, self.shelf, self.public_url, pace=self.pace, now=lambda: self.now)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://10.0.0.8:8082") as client:
            return await client.request(method, address, content=text, headers=given)


__all__ = ["API", "APP", "USER", "Card", "Directory", "MemoryShelf", "Refused", "account", "headers_of"]
