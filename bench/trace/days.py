"""Days of CRM edits: read from a file of JSON lines, or drawn with a seed after the same description.

One line is one delivery: `t` (seconds of the day), `account`, `object`, `id`, `change_source`, `events` [{`property`,
`value`}]. Law: a drawn day is a function of its seed. People edit in sessions of several saves, records by Zipf (s = 1.1); a
save is several properties, sometimes split over deliveries, 2 % delivered twice; 15 % of edits set the value that was there;
half of the saves also touch a field that no analysis reads, and syncs touch 60 records at once with those alone.
"""

from __future__ import annotations

import gzip
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

DAY_SECONDS = 86_400.0
ACCOUNTS = ("hubspot:145883449", "salesforce:00D5g000004XyZz", "hubspot:62515")
READ = {
    "contact": (
        "firstname",
        "lastname",
        "email",
        "phone",
        "city",
        "jobtitle",
        "lifecyclestage",
        "lead_source",
        "message",
    ),
    "company": ("name", "domain", "country", "industry", "annualrevenue", "numberofemployees", "description"),
    "deal": ("dealname", "amount", "closedate", "dealstage", "next_step", "description", "note", "email_body"),
}
UNREAD = ("last_synced_at", "hs_analytics_last_timestamp", "external_sync_hash", "marketing_touch_count")
APPLIES = {"contact": 2, "deal": 3, "company": 1}
"""Naive model calls of a delivery: one for each analysis that applies to its object."""
_KINDS = ("contact", "deal", "company")
_SHARES = (0.5, 0.4, 0.1)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery."""

    t: float
    account: str
    object: str
    id: str
    source: str
    events: tuple[tuple[str, str], ...]

    @property
    def record(self) -> tuple[str, str, str]:
        """Whose it is."""
        return self.account, self.object, self.id


def read(path: Path) -> list[Delivery]:
    """All deliveries of a file (gzip or plain), by time."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        lines = [orjson.loads(line) for line in file]
    found = [
        Delivery(
            each["t"], each["account"], each["object"], str(each["id"]), each["change_source"],
            tuple((event["property"], str(event["value"])) for event in each["events"]),
        )
        for each in lines
    ]  # fmt: skip
    return sorted(found, key=lambda delivery: delivery.t)


def draw(seed: int, deliveries: int = 20_000, records: int = 6_000) -> list[Delivery]:
    """A day of about so many deliveries."""
    chance = random.Random(seed)
    population = [
        (chance.choices(ACCOUNTS, (0.5, 0.3, 0.2))[0], chance.choices(_KINDS, _SHARES)[0], str(1_000_000 + number))
        for number in range(records)
    ]
    cumulative = list(itertools.accumulate(1 / (rank + 1) ** 1.1 for rank in range(records)))
    values: dict[tuple[tuple[str, str, str], str], int] = {}
    found: list[Delivery] = []
    while len(found) < deliveries:
        at = min(max(chance.gauss(13 * 3600, 3.5 * 3600), 6_000), DAY_SECONDS - 4_000)
        if chance.random() < 0.004:
            found.extend(
                Delivery(at + chance.random() * 20, *record, "INTEGRATION", ((chance.choice(UNREAD), str(at)),))
                for record in chance.sample(population, 60)
            )
            continue
        found.extend(_session(chance, at, chance.choices(population, cum_weights=cumulative)[0], values))
    return sorted(found, key=lambda delivery: delivery.t)


def _session(
    chance: random.Random,
    at: float,
    record: tuple[str, str, str],
    values: dict[tuple[tuple[str, str, str], str], int],
) -> Iterator[Delivery]:
    for _ in range(1 + min(12, int(chance.expovariate(0.43)))):
        names = chance.sample(READ[record[1]], chance.choice((1, 2, 2, 3)))
        events = []
        for name in names:
            if (record, name) not in values or chance.random() >= 0.15:
                values[record, name] = values.get((record, name), 0) + 1
            events.append((name, f"{name}-v{values[record, name]}"))
        if chance.random() < 0.5:
            events.append((chance.choice(UNREAD), f"{at:.3f}"))
        cut = chance.randrange(1, len(events)) if len(events) > 1 and chance.random() < 0.15 else len(events)
        for part in (events[:cut], events[cut:]):
            if part:
                delivery = Delivery(at + chance.random() * 2, *record, "CRM_UI", tuple(part))
                yield delivery
                if chance.random() < 0.02:
                    yield Delivery(delivery.t + 1 + chance.random() * 5, *record, "CRM_UI", tuple(part))
        at += 4 + chance.expovariate(1 / 22)


_STAGES = ("appointmentscheduled", "qualifiedtobuy", "presentationscheduled", "decisionmakerboughtin", "contractsent")
_LIFE = ("subscriber", "lead", "marketingqualifiedlead", "salesqualifiedlead", "opportunity", "customer")
TEXTS = ("note", "email_body")
"""Properties of the trace that a portal keeps as activities of their own."""
_NAMES = {"lead_source": "hs_analytics_source", "next_step": "hs_next_step"}


def saved(name: str, value: str) -> tuple[str, str]:
    """A property of the trace as a portal has it: coded fields need values that exist, numbers digits, dates days."""
    number = int(value.rpartition("-v")[2]) if value.rpartition("-v")[2].isdigit() else 0
    known = {
        "dealstage": _STAGES[number % len(_STAGES)],
        "lifecyclestage": _LIFE[number % len(_LIFE)],
        "amount": str(1_000 + 250 * number),
        "annualrevenue": str(100_000 * (number + 1)),
        "numberofemployees": str(10 + number),
        "closedate": f"2027-{number % 12 + 1:02}-{number % 27 + 1:02}T00:00:00Z",
        "last_synced_at": f"2026-11-22T{number % 24:02}:{zlib_minute(value):02}:00Z",
        "marketing_touch_count": str(zlib_minute(value)),
        "email": f"person{number}@customer.example",
        "domain": f"customer{number}.example",
        "phone": f"+49 40 55{number:04}",
        "industry": "",
    }
    return _NAMES.get(name, name), known.get(name, f"We need {value.replace('-', ' ')} by spring.")


def zlib_minute(value: str) -> int:
    """A number below 60 that goes with a text."""
    return sum(value.encode()) % 60
