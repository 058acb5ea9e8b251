"""`make bench-crm-limits`: thousands of changed records through one portal's limits; the last line is JSON.

A portal allows so many calls per window and so many a day, enforces both, and counts by itself. All its contacts change at once;
they travel the whole journey. What counts is what the portal saw: refusals after the first window, how much of what the
limit allows was used while work waited, and how many calls full batches of the same rows would have needed.

Time is scaled by ten, for the limit is to be the narrow place and not the machine: 1.1 calls a second, as 11 in ten seconds,
which leaves less room for bursts than `LIMIT=110`, where HubSpot's ten seconds last a hundred. `LIMIT=110 WINDOW=10` is HubSpot's own
pace, which only a machine can meet that analyses 200 records a second.

Law: no result unless every record's insight is on it. Work waits until the last read of a changed record; what was used is
counted from the second window to then. `RECORDS=500` is a smaller selection.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from bench.crm_house import main
from bench.failure import BenchError
from tests.journeys.house import House
from tests.journeys.place import Place, open_place

LIMIT = int(os.environ.get("LIMIT", "11"))
HUBSPOTS_PACE = 11.0
"""Calls a second: 110 in ten."""
SCALE = 10
WINDOW = float(os.environ.get("WINDOW", str(LIMIT * SCALE / HUBSPOTS_PACE)))
"""Seconds."""
BATCH = 100
PER_COMPANY = 20
STALLED_SECONDS = 120.0


async def measure(house: House) -> tuple[dict[str, Any], bool]:
    """One run."""
    records = int(os.environ.get("RECORDS", "5000"))
    read = Reading()
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
        controls.set_limits(portal, per_ten_seconds=LIMIT, window_ms=round(WINDOW * 1_000), daily=daily, used_today=0)
        controls.tally(portal, restart=True)
        print(f"{records} contacts changed; {LIMIT} calls per {WINDOW:g} s, {daily} a day.", flush=True)
        controls.set_manners(app, paused=False)
        await _through(place, lambda: read.look(controls.tally(portal)))
        told = controls.tally(portal)
    result = summary(told, WINDOW, records, read.last)
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


@dataclass
class Reading:
    """When changed records were last read, as far as the tally was looked at."""

    last: int = 0
    """Epoch ms."""
    calls: int = 0

    def look(self, told: dict[str, Any]) -> None:
        """Between two looks it is the end of them that counts."""
        calls = sum(times for name, times in told["calls"].items() if name.endswith("/objects/contacts/batch/read"))
        if calls != self.calls:
            self.calls, self.last = calls, max(told["at"])


def summary(told: dict[str, Any], window: float, records: int, until: int) -> dict[str, Any]:
    """What the portal's tally says; `until` then (epoch ms) work waited."""
    at = sorted(told["at"])
    first, last = at[0], at[-1]
    ms = window * 1_000
    inner = [each for each in at if first + ms <= each < until]
    span = until - first - ms
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
        "use_of_limit": round(len(inner) / (LIMIT * span / ms), 3) if span >= ms / 2 else None,
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


async def _through(place: Place, look: Callable[[], None] = lambda: None) -> None:
    """Until everything is on its record."""
    left, calls, since = -1, -1, time.monotonic()
    while True:
        look()
        found = await asyncio.to_thread(place.reconciled)
        now = len(found.unsettled)
        if found.outcomes and not now and place.controls.state()["idle"]:
            return
        if now != left:
            print(f"  {time.strftime('%H:%M:%S')} {now} records to go", flush=True)
        # Thousands are read before the first is written: a call is a movement, too.
        made = len(place.controls.tally(place.portal)["at"])
        if (now, made) != (left, calls):
            left, calls, since = now, made, time.monotonic()
        if time.monotonic() - since > STALLED_SECONDS:
            raise BenchError(
                f"{now} records are not settled, and nothing moved for {STALLED_SECONDS:.0f} s; {made} calls were made"
            )
        await asyncio.sleep(2.0)


if __name__ == "__main__":
    # Where time is scaled, so is what the product counts in seconds: a call's patience, and for how long a company is remembered.
    scale = HUBSPOTS_PACE * WINDOW / LIMIT
    scaled = {"HOOKLINE_CRM_WAIT_SECONDS": f"{60 * scale:g}", "HOOKLINE_CRM_RECENT_SECONDS": f"{10 * scale:g}"}
    sys.exit(main("crm_limits", measure, **scaled))
