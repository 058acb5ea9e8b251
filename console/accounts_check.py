"""`hookline account check`: whether everything that an account needs is there and works, each point with its remedy.

Law: tries the real thing (reads, a signed delivery through our own front door, a write of our own field to a record), and puts
back what it wrote. A point that cannot be known is `unknown`, never `passed`. No content of a customer is shown.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import sqlalchemy as sa

from console import account_events
from console.account_events import Result
from console.endpoints import url_of
from console.reading import Selection, ranges_of, raw_range, reader
from console.requests_fate import accepted_one
from console.status_lag import lags
from console.status_section import Sight
from infra.accounts import Account, Endpoint
from infra.crm.client import AccountUnavailable, CrmClient, CrmUnavailable, Gone, Written
from infra.database.tables import hydrator_state
from infra.kafka.codec import Codec
from schemas.record import RecordRef
from schemas.topics import RECORDS

OPTIONAL = frozenset({"lead"})
"""Kinds of records that not every plan of a CRM has."""
TRIAL_FIELD = "model"
"""Short, ours, and of no weight for anybody for the second that it is another."""
TRIED = ("contact", "deal", "company", "lead")
DELIVERY_SECONDS = 10.0
_ENVELOPE = (
    '<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/">'
    '<soapenv:Body><notifications xmlns="http://soap.sforce.com/2005/09/outbound"><OrganizationId>{org}</OrganizationId>'
    "</notifications></soapenv:Body></soapenv:Envelope>"
)


@dataclass(frozen=True, slots=True)
class Point:
    """One line of the table."""

    name: str
    result: Result
    detail: str
    remedy: str = ""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


async def check(
    sight: Sight, client: CrmClient, account: Account, *, record: str = "", echo_seconds: float = 8.0
) -> list[Point]:
    """All points, in the order in which they build on one another. `record`: `deal/1001`, to be written to; else one is chosen.

    Raises what Kafka and the database raise; whatever the CRM does is a point.
    """
    found = [await _credentials(client, account)]
    if found[0].result == "failed":
        return found
    found += await _fields(client, account)
    found.append(_subscriptions(account))
    found += [point async for point in _deliveries(sight, account)]
    if account.crm == "salesforce":
        found.append(await _change_events(sight, account))
    found += await _write_back(sight, client, account, record, echo_seconds)
    return found


async def _credentials(client: CrmClient, account: Account) -> Point:
    again = f"`hookline account connect {account.id}`, or `hookline account add` with new credentials"
    if account.credentials is None:
        return Point("credentials", "failed", "there are none that our master keys open", again)
    try:
        said = await client.identify(account)
    except (AccountUnavailable, CrmUnavailable) as error:
        return Point("credentials", "failed", _why(error), again)
    if said != account.id:
        return Point("credentials", "failed", f"they are of {said}", again)
    if account.state == "disconnected":
        return Point("credentials", "failed", f"good, but the account is disconnected: {account.state_reason}", again)
    return Point("credentials", "passed", f"{account.crm} says that they are of {said}")


async def _fields(client: CrmClient, account: Account) -> list[Point]:
    found = []
    again = f"`hookline account provision {account.id}`"
    for object_ in sorted(client.own_objects):
        try:
            survey = await client.survey(account, object_)
        except (AccountUnavailable, CrmUnavailable) as error:
            found.append(Point(f"scopes {object_}", "failed", _why(error), "mend that and check again"))
            continue
        if not survey.readable:
            grant = (
                "give the app the scopes to read and write it and its schema, then install it again"
                if account.crm == "hubspot"
                else "give the integration user a permission set that reads and edits it"
            )
            result: Result = "unknown" if object_ in OPTIONAL else "failed"
            found.append(Point(f"scopes {object_}", result, f"may not be read: {survey.detail}", grant))
            continue
        found.append(Point(f"scopes {object_}", "passed", "records and their schema may be read"))
        if survey.missing:
            found.append(
                Point(
                    f"fields {object_}",
                    "failed",
                    f"{len(survey.missing)} missing: {', '.join(survey.missing[:3])}…",
                    again,
                )
            )
        elif survey.unwritable:
            permit = "let the integration user edit them: assign the permission set Hookline Integration"
            found.append(Point(f"fields {object_}", "failed", f"{len(survey.unwritable)} may not be written", permit))
        else:
            old = (
                f"; left by an older release, yours to delete: {', '.join(survey.left_over)}"
                if survey.left_over
                else ""
            )
            found.append(Point(f"fields {object_}", "passed", f"all there{old}"))
    return found


def _subscriptions(account: Account) -> Point:
    where = (
        "the app's webhooks: target URL, subscriptions active, app installed in this portal"
        if account.crm == "hubspot"
        else "the outbound messages and the flow, or Change Data Capture's selection"
    )
    if account.last_delivery_at is None:
        # Neither CRM lets an app read its own subscriptions: HubSpot's project apps have no API for it.
        return Point(
            "subscriptions",
            "unknown",
            "nothing was ever delivered, and the CRM does not show them to us",
            f"look at {where}; edit a record, then check again",
        )
    age = datetime.now(UTC) - account.last_delivery_at
    if age > timedelta(days=1):
        return Point(
            "subscriptions",
            "unknown",
            f"the last delivery came {age.days} days ago",
            f"edit a record; if nothing comes, look at {where}",
        )
    return Point("subscriptions", "passed", f"the last delivery came at {account.last_delivery_at:%Y-%m-%d %H:%M} UTC")


async def _deliveries(sight: Sight, account: Account) -> AsyncIterator[Point]:
    speaking = [one for one in await sight.registry.endpoints() if account.id in one.accounts]
    if not speaking:
        yield Point(
            "delivery",
            "failed",
            "no endpoint may speak for this account",
            "`hookline account add` again with --endpoint",
        )
    for endpoint in speaking:
        # Nobody delivers to a stream: its events are fetched, see `_change_events`.
        if endpoint.source != account_events.STREAM:
            yield await _deliver(sight, account, endpoint)


async def _deliver(sight: Sight, account: Account, endpoint: Endpoint) -> Point:
    name = f"delivery {endpoint.name}"
    url = url_of(sight.settings, endpoint)
    if not endpoint.enabled:
        return Point(name, "failed", "the endpoint is closed", f"`hookline endpoint enable {endpoint.name}`")
    made = signed(endpoint, account, url, datetime.now(UTC))
    if made is None:
        return Point(
            name,
            "unknown",
            f"we cannot sign as a sender of {endpoint.source} does",
            "have the sender make a test delivery",
        )
    body, headers = made
    proxy = "check DNS, proxy and TLS in front of the front door, HOOKLINE_PUBLIC_URL, and `hookline requests list --refused`"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DELIVERY_SECONDS)) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            status, request_id = answer.status, answer.headers.get("X-Request-Id", "")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Point(
            name, "failed", f"the front door does not answer at its public address ({type(error).__name__})", proxy
        )
    if not 200 <= status < 300 or not request_id:
        return Point(name, "failed", f"answered {status}", proxy)
    try:
        kept = await accepted_one(sight.settings, Codec(sight.keyring, "hookline/console"), request_id)
    except ValueError:
        kept = None
    if kept is None:
        return Point(
            name,
            "failed",
            f"answered {status}, but request {request_id} is not on crm.deliveries",
            "is the public address another installation's?",
        )
    return Point(name, "passed", f"signed, accepted and on crm.deliveries as {request_id}")


def signed(endpoint: Endpoint, account: Account, url: str, now: datetime) -> tuple[bytes, dict[str, str]] | None:
    """An empty delivery as this sender makes them; None where only the sender can."""
    if endpoint.source == "hubspot":
        values = endpoint.valid_secrets(now)
        if not values:
            return None
        body, stamp = b"[]", str(int(now.timestamp() * 1000))
        digest = hmac.digest(values[0], b"POST" + url.encode() + body + stamp.encode(), hashlib.sha256)
        headers = {"X-HubSpot-Signature-v3": base64.b64encode(digest).decode(), "X-HubSpot-Request-Timestamp": stamp}
        return body, {**headers, "Content-Type": "application/json"}
    if endpoint.source == "salesforce":
        text = _ENVELOPE.format(org=account.id.partition(":")[2])
        return text.encode(), {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": '""'}
    return None


async def _change_events(sight: Sight, account: Account) -> Point:
    result, detail, remedy = await account_events.standing(sight.registry, sight.engine, account.id)
    return Point("change events", result, detail, remedy)


async def _write_back(
    sight: Sight, client: CrmClient, account: Account, record: str, echo_seconds: float
) -> list[Point]:
    name = "write-back"
    try:
        chosen = await _chosen(sight, client, account, record)
        if chosen is None:
            return [Point(name, "unknown", "the CRM holds no record to try it on", "make a contact, then check again")]
        ref, known = chosen
        since = datetime.now(UTC)
        point = await _round_trip(client, account, ref)
    except (AccountUnavailable, CrmUnavailable) as error:
        return [Point(name, "failed", _why(error), "mend that and check again")]
    if point.result != "passed":
        return [point]
    return [point, await _echo(sight, ref, since, echo_seconds, known=known)]


async def _chosen(sight: Sight, client: CrmClient, account: Account, record: str) -> tuple[RecordRef, bool] | None:
    """The record to write to, and whether it was read before: a record's first snapshot is no echo."""
    if record:
        object_, _, identity = record.partition("/")
        ref = RecordRef(account.tenant, account.id, object_, identity)
        return ref, await _is_known(sight, ref)
    first: RecordRef | None = None
    for object_ in TRIED:
        if object_ not in client.own_objects or not (await client.survey(account, object_)).readable:
            continue
        for identity, _ in (await client.page(account, object_, None)).records[:20]:
            ref = RecordRef(account.tenant, account.id, object_, identity)
            first = first or ref
            if await _is_known(sight, ref):
                return ref, True
    return (first, False) if first is not None else None


async def _is_known(sight: Sight, ref: RecordRef) -> bool:
    table = hydrator_state.c
    asked = sa.select(table.record_id).where(
        table.tenant == ref.tenant, table.account == ref.account, table.object == ref.object, table.record_id == ref.id
    )
    async with sight.engine.connect() as connection:
        return (await connection.execute(asked)).first() is not None


async def _round_trip(client: CrmClient, account: Account, ref: RecordRef) -> Point:
    name, where = "write-back", f"{ref.object} {ref.id}"

    async def held() -> str | None:
        values = (await client.own_fields(account, ref.object, [ref.id]))[ref.id]
        return None if isinstance(values, Gone) else values.get(TRIAL_FIELD, "")

    before = await held()
    if before is None:
        return Point(name, "failed", f"{where} is not there", "name another with --record")
    trial = f"check {secrets.token_hex(4)}"
    outcome = (await client.write(account, ref.object, {ref.id: {TRIAL_FIELD: trial}}))[ref.id]
    if outcome != Written():
        category = getattr(outcome, "category", type(outcome).__name__)
        return Point(
            name,
            "failed",
            f"{where}: {category}",
            "let the app or integration user edit our fields on it; validation rules may forbid it",
        )
    began = time.perf_counter()
    now = await held()
    if now == trial:
        # Whatever an analysis has written in between stays.
        await client.write(account, ref.object, {ref.id: {TRIAL_FIELD: before}})
        if await held() != before:
            return Point(
                name, "failed", f"{where}: what was there before could not be put back", f"set {TRIAL_FIELD} by hand"
            )
        took = time.perf_counter() - began
        return Point(name, "passed", f"{where}: our field written, read back and put back ({took:.1f} s)")
    return Point(
        name, "failed", f"{where}: another value was read than written", "is a workflow of the CRM changing our fields?"
    )


async def _echo(sight: Sight, ref: RecordRef, since: datetime, seconds: float, *, known: bool) -> Point:
    name = "echo"
    if not known:
        return Point(
            name,
            "unknown",
            "the record was never read before, so that its first snapshot would look like an echo",
            "edit it once or run a backfill, then check again",
        )
    await asyncio.sleep(seconds)
    behind = [
        lag.role
        for lag in await lags(sight.settings)
        if lag.topic.startswith(("crm.deliveries", "crm.changes"))
        and lag.lane != "bulk"
        and (lag.messages or not lag.members)
    ]
    if behind:
        return Point(
            name, "unknown", f"{', '.join(sorted(set(behind)))} is behind or not running", "start it, then check again"
        )
    snapshots = 0
    async with reader(sight.settings) as consumer:
        ranges = await ranges_of(consumer, RECORDS.name, since=since)
        async for page in raw_range(consumer, RECORDS.name, ranges, selection=Selection(record=ref)):
            snapshots += len(page)
    if snapshots:
        return Point(
            name,
            "failed",
            f"{snapshots} new snapshots within {seconds:g} s of our own write",
            "did a person edit the record just now? If not, set --app-id or --integration-user",
        )
    return Point(name, "passed", f"our own write made no new snapshot within {seconds:g} s")


def _why(error: AccountUnavailable | CrmUnavailable) -> str:
    return f"{error.cause}: {error.detail}" if isinstance(error, AccountUnavailable) else str(error)
