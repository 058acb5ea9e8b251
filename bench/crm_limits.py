"""`make bench-crm-limits`: thousands of changed records through one portal's limits; the last line is JSON.

A portal allows 110 calls per window and so many a day, enforces both, and counts by itself. All its contacts change at once;
they travel the whole journey. What counts is what the portal saw: refusals after the first window, how much of what the
limit allows was used while work waited, and how many calls full batches of the same rows would have needed.

Law: no result unless every record's insight is on it. `WINDOW=20` makes HubSpot's ten seconds twenty, `LIMIT=11` is the
same pace in tenths (a slow machine must not be the narrow place, or the limit is not what is measured), `RECORDS=500` is a
smaller selection.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from typing import Any

import aiohttp

from bench.crm_house import main
from bench.failure import BenchError
from tests.journeys.house import House
from tests.journeys.place import Place, open_place

LIMIT = int(os.environ.get("LIMIT", "110"))
BATCH = 100
PER_COMPANY = 20
STALLED_SECONDS = 120.0


async def measure(house: House) -> tuple[dict[str, Any], bool]:
    """One run."""
    records, window = int(os.environ.get("RECORDS", "5000")), float(os.environ.get("WINDOW", "10"))
    async with open_place(house) as place:
        controls, portal = place.controls, place.portal
        app = f"app:{portal.partition(':')[2]}"
        companies = [
            controls.create_record(portal, "company", {"name": f"Company {number}"})["id"]
            for number in range(-(-records // PER_COMPANY))
        ]
        await _through(place)
        controls.set_manners(app, paused=True)
        await _people(place, records, companies)
        daily = 20 * records
        controls.set_limits(portal, per_ten_seconds=LIMIT, window_ms=round(window * 1_000), daily=daily, used_today=0)
        controls.tally(portal, restart=True)
        print(f"{records} contacts changed; {LIMIT} calls per {window:g} s, {daily} a day.", flush=True)
        controls.set_manners(app, paused=False)
        await _through(place)
        told = controls.tally(portal)
    result = summary(told, window, records)
    for name, (calls, rows, needed) in sorted(result.pop("batches").items()):
        print(f"  {name:<60} {calls:>5} calls, {rows:>6} rows, {needed:>4} full batches")
    result["daily_budget"] = daily
    good = (
        result["refused_after_first_window"] == 0
        # A run too short to meet the limit says nothing of it: there batches need not be full.
        and (
            result["use_of_limit"] is None
            or (result["use_of_limit"] >= 0.9 and result["calls_per_full_batches_of_changed"] <= 1.2)
        )
        and result["calls"] <= daily * 0.8
    )
    return result, good


def summary(told: dict[str, Any], window: float, records: int) -> dict[str, Any]:
    """What the portal's tally says."""
    at = sorted(told["at"])
    first, last = at[0], at[-1]
    ms = window * 1_000
    # While work waited: from the second window to the last but one, where there are that many.
    inner = [each for each in at if first + ms <= each < last - ms]
    span = last - first - 2 * ms
    batches = {
        name: (calls, told["rows"][name], math.ceil(told["rows"][name] / BATCH))
        for name, calls in told["calls"].items()
        if "/batch/" in name
    }
    return {
        "records": records,
        "seconds": round((last - first) / 1_000, 1),
        "calls": len(at),
        "refused": len(told["refused"]),
        "refused_after_first_window": sum(each > first + ms for each in told["refused"]),
        "use_of_limit": round(len(inner) / (LIMIT * span / ms), 3) if span >= ms else None,
        "calls_per_full_batches_of_changed": _ratio([each for name, each in batches.items() if "/contacts/" in name]),
        "calls_per_full_batches": _ratio(list(batches.values())),
        "single_calls": len(at) - sum(calls for calls, _, _ in batches.values()),
        "batches": batches,
    }


def _ratio(batches: list[tuple[int, int, int]]) -> float:
    return round(sum(calls for calls, _, _ in batches) / max(1, sum(needed for _, _, needed in batches)), 3)


async def _people(place: Place, records: int, companies: list[str]) -> None:
    """Contacts of companies, by the portal's own API where the controls have no word for it."""
    controls, portal = place.controls, place.portal
    pairs: list[tuple[str, str]] = []
    for number in range(records):
        person = {"firstname": "Ada", "lastname": f"Lovelace {number}", "email": f"ada{number}@engines.example", "jobtitle": "Buyer"}  # fmt: skip
        pairs.append((controls.create_record(portal, "contact", person)["id"], companies[number // PER_COMPANY]))
    controls.add_token(portal, f"other-{place.token}")
    url = f"{place.house.sandbox.base}/crm/v4/associations/contacts/companies/batch/associate/default"
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer other-{place.token}"}) as http:
        for start in range(0, records, BATCH):
            rows = [{"from": {"id": one}, "to": {"id": other}} for one, other in pairs[start : start + BATCH]]
            async with http.post(url, json={"inputs": rows}) as answer:
                if answer.status >= 300:
                    raise BenchError(f"the sandbox did not associate: {answer.status} {await answer.text()}")


async def _through(place: Place) -> None:
    """Until everything is on its record."""
    left, since = -1, time.monotonic()
    while True:
        found = await asyncio.to_thread(place.reconciled)
        now = len(found.unsettled)
        if found.outcomes and not now and place.controls.state()["idle"]:
            return
        if now != left:
            print(f"  {time.strftime('%H:%M:%S')} {now} records to go", flush=True)
            left, since = now, time.monotonic()
        if time.monotonic() - since > STALLED_SECONDS:
            raise BenchError(f"{now} records are not settled, and nothing moved for {STALLED_SECONDS:.0f} s")
        await asyncio.sleep(2.0)


if __name__ == "__main__":
    sys.exit(main("crm_limits", measure))
