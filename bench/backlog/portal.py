"""A lean stand-in of HubSpot's batch reads: any number of records, made from their ids, at almost no cost.

Law: answers what `infra/crm/hubspot.py` asks while it hydrates, in HubSpot's shapes, and nothing else; both sides of the
benchmark read from it through HubSpot's own library. The sandbox CRM holds every record as a person edits it, which costs
more than what is to be measured here. Records have no notes and no relations; what hangs on them is asked for all the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any

import orjson
import uvicorn

MODIFIED = "2026-11-01T08:00:00.000Z"
READY = "ready"
PORT = "BENCH_PORTAL_PORT"

_FIRST = ("Mara", "Jonas", "Lena", "Tariq", "Ines", "Pavel", "Noor", "Emil", "Yara", "Oskar", "Freya", "Hugo")
_TITLES = ("Head of IT", "Buyer", "CTO", "Operations Manager", "Data Lead", "Managing Director", "Assistant")
_SYLLABLES = ("ba", "ren", "tol", "mi", "ska", "ver", "lu", "hof", "dan", "el", "gor", "pi", "sen", "wa", "kru", "ty")
_CITIES = ("Hamburg", "Lyon", "Porto", "Turin", "Gdansk", "Leeds", "Malmo", "Graz", "Ghent", "Cork")
_STAGES = ("appointmentscheduled", "qualifiedtobuy", "presentationscheduled", "decisionmakerboughtin", "contractsent")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def fields_of(plural: str, one: int) -> dict[str, str]:
    """The properties of a record: plausible, different for each, always the same for one id."""
    name = _word(one)
    if plural == "contacts":
        return {
            "firstname": _FIRST[one % len(_FIRST)],
            "lastname": name.capitalize(),
            "email": f"{_FIRST[one % len(_FIRST)].lower()}.{name}@{_word(one // 3)}{one % 997}.example",
            "phone": f"+49 40 {one * 7919 % 10_000_000:07}",
            "jobtitle": _TITLES[one * 31 % len(_TITLES)],
            "company": f"{_word(one // 3).capitalize()} {one % 997} GmbH",
            "city": _CITIES[one * 17 % len(_CITIES)],
            "country": "Germany",
            "lifecyclestage": "lead",
            "hs_lead_status": "OPEN",
            "hubspot_owner_id": str(100 + one % 40),
        }
    if plural == "companies":
        return {
            "name": f"{name.capitalize()} {one % 997} GmbH",
            "domain": f"{name}{one % 997}.example",
            "industry": "COMPUTER_SOFTWARE",
            "numberofemployees": str(10 + one % 900),
            "annualrevenue": str(100_000 + one * 7919 % 9_000_000),
            "city": _CITIES[one * 17 % len(_CITIES)],
            "country": "Germany",
            "description": f"Asked about a {_word(one // 5)} rollout, reference {one}.",
            "hubspot_owner_id": str(100 + one % 40),
        }
    return {
        "dealname": f"{name.capitalize()} rollout {one % 997}",
        "amount": str(1_000 + one * 7919 % 90_000),
        "dealstage": _STAGES[one % len(_STAGES)],
        "pipeline": "default",
        "closedate": f"2027-0{1 + one % 9}-15T00:00:00Z",
        "hs_next_step": f"Send the {_word(one // 5)} plan",
        "hubspot_owner_id": str(100 + one % 40),
    }


def _word(one: int) -> str:
    mixed = (one * 2_654_435_761) % 2**32
    return "".join(_SYLLABLES[mixed >> shift & 15] for shift in (0, 4, 8, 12))


@lru_cache(maxsize=300_000)
def _record(plural: str, one: str) -> bytes:
    values = {**fields_of(plural, int(one)), "createdate": MODIFIED, "hs_object_id": one}
    values["lastmodifieddate" if plural == "contacts" else "hs_lastmodifieddate"] = MODIFIED
    return orjson.dumps(
        {"id": one, "properties": values, "createdAt": MODIFIED, "updatedAt": MODIFIED, "archived": False}
    )


def answer(method: str, path: str, body: bytes) -> tuple[int, bytes]:
    """Status and JSON of one call."""
    parts = path.strip("/").split("/")
    if parts[:3] == ["crm", "v3", "properties"]:
        names = [*fields_of(parts[3], 1), "lastmodifieddate", "hs_lastmodifieddate"]
        found = [{"name": name, "type": "string", "fieldType": "text", "hubspotDefined": True} for name in names]
        return 200, orjson.dumps({"results": found})
    if parts[:3] == ["crm", "v3", "objects"] and parts[-2:] == ["batch", "read"]:
        ids = [row["id"] for row in orjson.loads(body)["inputs"]]
        rows = b",".join(_record(parts[3], one) for one in ids)
        return 200, b'{"status":"COMPLETE","results":[' + rows + b"]}"
    if parts[:3] == ["crm", "v3", "objects"] and method == "GET":
        return 200, _record(parts[3], parts[4])
    if parts[:3] == ["crm", "v4", "associations"]:
        return 200, b'{"status":"COMPLETE","results":[]}'
    return 404, b'{"status":"error","category":"OBJECT_NOT_FOUND"}'


async def application(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """ASGI."""
    body, more = b"", True
    while more:
        part = await receive()
        body += part.get("body", b"")
        more = part.get("more_body", False)
    status, found = answer(scope["method"], scope["path"], body)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(found)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": found})


if __name__ == "__main__":
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    uvicorn.run(
        application,
        host="127.0.0.1",
        port=int(os.environ[PORT]),
        http="httptools",
        lifespan="off",
        log_config=None,
        access_log=False,
    )
