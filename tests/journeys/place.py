"""One customer in the house: a tenant with a HubSpot portal and a Salesforce org, registered as an admin would."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import sqlalchemy as sa
from aiokafka import ConsumerRecord
from sqlalchemy.ext.asyncio import AsyncEngine

from console import dead_letters
from console.reading import partitions_of, read, reader
from infra.accounts import Account, Endpoint, Registry
from infra.crm.limits_gate import KEY
from infra.crm.vendors import connect
from infra.database.engine import build_engine
from infra.database.tables import refusals
from infra.kafka.codec import Codec, Received
from infra.keyring import Keyring
from infra.local.sandbox.reconciliation import Reconciliation
from infra.redis import build_redis
from schemas.dead_letter import DeadLetter
from schemas.topics import INSIGHTS, RECORDS, Topic
from tests.journeys.house import House, until


@dataclass
class Place:
    """See the module."""

    house: House
    tenant: str
    engine: AsyncEngine
    registry: Registry
    keyring: Keyring
    portal: str = ""
    """`hubspot:...`"""
    org: str = ""
    """`salesforce:...`"""
    doors: dict[str, Endpoint] = field(default_factory=dict)
    client_secret: str = ""
    token: str = ""
    since: int = 0

    @property
    def controls(self):
        return self.house.sandbox.controls

    def account(self, crm: str) -> str:
        return self.portal if crm == "hubspot" else self.org

    # -- looking -------------------------------------------------------------------------------------------------------

    async def raw(self, topic: Topic) -> list[ConsumerRecord]:
        """The tenant's messages on a topic as they lie there."""
        found = []
        async with reader(self.house.settings) as consumer:
            partitions = await partitions_of(consumer, topic.name)
            ends = await consumer.end_offsets(partitions)
            consumer.assign(partitions)
            await consumer.seek_to_beginning()
            while any([await consumer.position(p) < ends[p] for p in partitions]):
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += [r for r in records if dict(r.headers).get("hl_tenant") == self.tenant.encode()]
        return found

    async def messages(self, topic: Topic) -> list[Received]:
        """The same, decoded."""
        codec = Codec(self.keyring, "test")
        return [
            message
            async for message in read(self.house.settings, codec, topic)
            if isinstance(message, Received) and message.envelope.tenant == self.tenant
        ]

    async def dead_letters(self) -> list[DeadLetter]:
        return await dead_letters.of_tenant(self.house.settings, self.keyring, self.tenant)

    async def refusals(self) -> Counter[str]:
        """What was refused at the tenant's doors."""
        async with self.engine.connect() as connection:
            rows = await connection.execute(sa.select(refusals.c.cause).where(refusals.c.tenant == self.tenant))
            return Counter(row.cause for row in rows)

    async def aside(self) -> set[tuple[str, str]]:
        """Stage and cause of what is set aside."""
        async with self.engine.connect() as connection:
            rows = await connection.execute(
                sa.text("SELECT stage, cause FROM set_aside WHERE tenant = :tenant AND emitted_at IS NULL"),
                {"tenant": self.tenant},
            )
            return {(row.stage, row.cause) for row in rows}

    async def hurry(self) -> None:
        """Let the time have come for all that is set aside."""
        async with self.engine.begin() as connection:
            await connection.execute(
                sa.text("UPDATE set_aside SET due_at = now() WHERE tenant = :tenant AND due_at > now()"),
                {"tenant": self.tenant},
            )

    async def new_day(self) -> None:
        """A day later: what a CRM said of its daily quota is believed no more."""
        async with build_redis(self.house.settings) as redis:
            await redis.delete(f"{KEY}{self.portal}", f"{KEY}{self.org}")

    def insight(self, crm: str, object_: str, record: str) -> dict[str, str]:
        """Our fields on the CRM's record, named the same for both CRMs."""
        held = self.controls.record(self.account(crm), object_, record)["properties"]
        return {
            name.lower().removesuffix("__c").removeprefix("hookline_"): str(value)
            for name, value in held.items()
            if name.lower().startswith("hookline_")
        }

    def reconciled(self) -> Reconciliation:
        """This tenant's part of the sandbox's journal, saves held against insights."""
        whole = self.house.journal().reconcile(since=self.since)
        own = {self.portal, self.org}
        whole.outcomes = {key: outcome for key, outcome in whole.outcomes.items() if key[0] in own}
        whole.duplicate_effects = [each for each in whole.duplicate_effects if each.account in own]
        whole.backwards = [each for each in whole.backwards if each.key[0] in own]
        return whole

    def settled(self) -> bool:
        """Everything that was saved is on its record, and the CRMs have nothing more to tell."""
        result = self.reconciled()
        return bool(result.outcomes) and not result.unsettled and self.controls.state()["idle"]

    async def stand(self) -> tuple[int, ...]:
        """How much lies where a further round would leave traces."""
        written = sum(each.account in {self.portal, self.org} for each in self.house.journal().insight_writes())
        return (len(await self.raw(RECORDS)), len(await self.raw(INSIGHTS)), written)

    # -- doing ---------------------------------------------------------------------------------------------------------

    async def post(self, crm: str, body: bytes, headers: dict[str, str] | None = None) -> int:
        """A request at the tenant's door; returns the status."""
        async with aiohttp.ClientSession() as http:
            url = f"{self.house.door}/hooks/{self.doors[crm].id}"
            async with http.post(url, data=body, headers=headers) as answer:
                await answer.read()
                return answer.status

    async def deliver(self, *events: dict, secret: str = "", **headers: str) -> int:
        """A delivery of HubSpot's, signed with v3."""
        body = json.dumps(events).encode()
        stamp = str(int(time.time() * 1000))
        url = f"{self.house.door}/hooks/{self.doors['hubspot'].id}"
        mac = hmac.new((secret or self.client_secret).encode(), digestmod=hashlib.sha256)
        mac.update(b"POST" + url.encode() + body + stamp.encode())
        signed = {
            "X-HubSpot-Signature-v3": base64.b64encode(mac.digest()).decode(),
            "X-HubSpot-Request-Timestamp": stamp,
        }
        return await self.post("hubspot", body, {**signed, **headers})

    def event(self, record: str, **changes) -> dict:
        """One of HubSpot's events about a contact of this portal."""
        return {
            "eventId": secrets.randbelow(10**9), "subscriptionId": 2, "portalId": int(self.portal.partition(":")[2]),
            "occurredAt": int(time.time() * 1000), "attemptNumber": 0, "subscriptionType": "contact.propertyChange",
            "objectId": int(record), "propertyName": "jobtitle", "propertyValue": "VP", **changes,
        }  # fmt: skip

    async def reconnect(self) -> Account:
        """What `hookline account add` does for an account that is registered already."""
        return await self.registry.add_account(
            self.tenant, "hubspot", self.portal, credentials={"access_token": self.token}
        )


@asynccontextmanager
async def open_place(house: House, *, hubspot: bool = True, salesforce: bool = False) -> AsyncIterator[Place]:
    """Register a tenant of the test's own; its records are the test's to make."""
    engine = build_engine(house.settings)
    assert house.settings.master_keys
    keyring = Keyring(engine, house.settings.master_keys)
    place = Place(house, f"t{secrets.token_hex(5)}", engine, Registry(engine, keyring), keyring)
    place.since = place.controls.state()["at"]
    try:
        await place.registry.add_tenant(place.tenant)
        if hubspot:
            await _hubspot(place)
        if salesforce:
            await _salesforce(place)
        yield place
    finally:
        await engine.dispose()


async def _hubspot(place: Place) -> None:
    house, number = place.house, place.house.number()
    place.token = f"token-{secrets.token_hex(12)}"
    place.client_secret = f"client-secret-{secrets.token_hex(12)}"
    house.secrets += [place.token, place.client_secret]
    place.portal = f"hubspot:{number}"
    account = await place.registry.add_account(
        place.tenant, "hubspot", place.portal, config={"app_id": str(number)}, credentials={"access_token": place.token}
    )
    door = await place.registry.add_endpoint(
        place.tenant, "hubspot", config={"app_id": str(number)}, secret=place.client_secret, accounts=[place.portal]
    )
    place.doors["hubspot"] = door
    place.controls.create_app(number, place.client_secret, f"{house.door}/hooks/{door.id}")
    place.controls.create_portal(number, number, place.token, size=0)
    await _provisioned(place, account)
    await _open(place, door)


async def _salesforce(place: Place) -> None:
    house = place.house
    consumer = {"consumer_key": f"key-{secrets.token_hex(8)}", "consumer_secret": f"consumer-{secrets.token_hex(12)}"}
    door = await place.registry.add_endpoint(place.tenant, "salesforce")
    made = place.controls.create_org(
        f"00D{secrets.token_hex(6)}",
        f"session-{secrets.token_hex(12)}",
        f"{house.door}/hooks/{door.id}",
        size=0,
        **consumer,
    )
    place.org = made["account"]
    account = await place.registry.add_account(
        place.tenant,
        "salesforce",
        place.org,
        config={
            "instance_url": house.sandbox.base.replace("http:", "https:"),
            "integration_user": made["integration_user"],
        },
        credentials=consumer,
        endpoints=[door.id],
    )
    place.doors["salesforce"] = door
    # The address is what authenticates the sender.
    house.secrets += [consumer["consumer_secret"], door.id]
    await _provisioned(place, account)
    await _open(place, door)


async def _provisioned(place: Place, account: Account) -> None:
    """Our fields, as `hookline account add` makes them."""
    clients = connect(place.house.settings, [account.crm])
    try:
        await clients[account.crm].provision(account)
    finally:
        await asyncio.gather(*(client.close() for client in clients.values()))


async def _open(place: Place, door: Endpoint) -> None:
    async def answers() -> bool:
        async with aiohttp.ClientSession() as http, http.get(f"{place.house.door}/hooks/{door.id}") as answer:
            return answer.status == 200

    await until("the front door knows the new endpoint", answers, 10)
