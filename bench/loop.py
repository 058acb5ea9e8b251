"""`make loop`: our own write-backs cause no analysis, and hide nobody's edit; the last line is JSON.

People change contacts in a HubSpot portal and leads in a Salesforce org; insights are written back; both CRMs send our writes
back to us. In every second round each edit of a person, or of another integration, is saved after our write and before its
echo is delivered: the CRM's deliveries are held in between.

Law: an echo that caused an analysis shows as a snapshot that no save explains; a missed edit as a save without insight.
`WRITES=100` is a smaller selection.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from typing import Any

from bench.crm_house import main
from bench.failure import BenchError
from schemas.topics import INSIGHTS, RECORDS
from tests.journeys.house import House
from tests.journeys.place import Place, open_place

KINDS = {"hubspot": "contact", "salesforce": "lead"}
TITLES = {"hubspot": "jobtitle", "salesforce": "Title"}
NEW = {
    "hubspot": {"firstname": "Ada", "lastname": "Lovelace", "email": "ada@engines.example", "jobtitle": "Buyer"},
    "salesforce": {"FirstName": "Ada", "LastName": "Lovelace", "Company": "Engines", "Email": "ada@engines.example", "Title": "Buyer"},
}  # fmt: skip
SECONDS = 120.0


async def loop(place: Place, writes: int, *, records: int) -> dict[str, Any]:
    """Until at least so many write-backs were made, over `records` records in each CRM."""
    ids = {
        crm: [place.controls.create_record(place.account(crm), kind, NEW[crm])["id"] for _ in range(records)]
        for crm, kind in KINDS.items()
    }
    await _until(place.settled, "the first insights")
    between = round_ = 0
    while _written(place) < writes:
        round_ += 1
        _edit(place, ids, f"Director {round_}")
        await _until(lambda: _delivered(place), "the edits' delivery")
        _pause(place, True)
        held_at = place.controls.state()["at"]
        await _until(lambda: not place.reconciled().unsettled, "the insights of a round")
        # Our writes are on the records, their echoes are not with us yet; now somebody else writes.
        echoed = {(each.account, each.id) for each in place.house.journal().insight_writes() if each.at >= held_at}
        _edit(place, ids, f"Head {round_}")
        between += sum((place.account(crm), one) in echoed for crm, some in ids.items() for one in some)
        _pause(place, False)
        await _until(place.settled, "the edits before the echoes")
    before = await place.stand()
    await asyncio.sleep(2.0)
    if await place.stand() != before:
        raise BenchError("something still moves although nobody saved anything")
    return {
        "writes": _written(place),
        "writes_by_crm": {crm: _written(place, crm) for crm in KINDS},
        "echoes_delivered": _echoes(place),
        "edits_between_write_and_echo": between,
        **await _explained(place),
        "edits_missed": len(place.reconciled().unsettled),
    }


async def _explained(place: Place) -> dict[str, int]:
    """Snapshots and analyses against the saves that may have caused them."""
    saves: Counter[tuple[str, str, str]] = Counter()
    for each in place.house.journal().saves():
        if each.account in {place.portal, place.org} and each.by != "hookline" and each.at >= place.since:
            saves[each.account, each.object, each.id] += 1
    snapshots: Counter[tuple[str, str, str]] = Counter()
    for message in await place.messages(RECORDS):
        ref = message.payload.ref
        snapshots[ref.account, ref.object, ref.id] += 1
    twice = Counter(
        (insight.account, insight.object, insight.id, insight.analysis, insight.version)
        for insight in (message.payload for message in await place.messages(INSIGHTS))
    )
    return {
        "saves": saves.total(),
        "snapshots": snapshots.total(),
        "analyses_caused_by_echoes": sum(max(0, count - saves[key]) for key, count in snapshots.items())
        + sum(count - 1 for count in twice.values()),
    }


def _edit(place: Place, ids: dict[str, list[str]], title: str) -> None:
    for crm, some in ids.items():
        for one in some:
            place.controls.save(place.account(crm), KINDS[crm], one, {TITLES[crm]: title})


def _pause(place: Place, paused: bool) -> None:
    for endpoint in _endpoints(place):
        place.controls.set_manners(endpoint, paused=paused)


def _endpoints(place: Place) -> list[str]:
    return [name for name in place.controls.state()["endpoints"] if name.endswith((place.portal[8:], place.org[11:]))]


def _delivered(place: Place) -> bool:
    state = place.controls.state()["endpoints"]
    return not any(state[name]["queued"] + state[name]["in_flight"] for name in _endpoints(place))


def _written(place: Place, crm: str = "") -> int:
    accounts = {place.account(each) for each in KINDS if crm in {"", each}}
    return sum(each.account in accounts for each in place.house.journal().insight_writes())


def _echoes(place: Place) -> int:
    state = place.controls.state()["endpoints"]
    return sum(int(state[name]["echoes"]) for name in _endpoints(place))


async def _until(condition: Any, said: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            raise BenchError(f"after {SECONDS:.0f} s still not: {said}")
        await asyncio.sleep(0.05)


async def measure(house: House) -> tuple[dict[str, Any], bool]:
    """One run."""
    writes = int(os.environ.get("WRITES", "1000"))
    async with open_place(house, salesforce=True) as place:
        found = await loop(place, writes, records=max(5, writes // 20))
    good = not found["analyses_caused_by_echoes"] and not found["edits_missed"]
    return found, good and found["edits_between_write_and_echo"] > 0


if __name__ == "__main__":
    sys.exit(main("loop", measure, HOOKLINE_COALESCE_WINDOW_SECONDS="0.3"))
