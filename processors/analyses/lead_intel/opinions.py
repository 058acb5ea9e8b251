"""What experience says about a single field: the offline rules' reasons, and the bounds of a model's.

Law: each opinion looks at one concept's value (and the day of the snapshot), nothing else, and names no customer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Literal

from processors.analyses.facts import day, number

_FREE_MAIL_TEXT = """
    gmail.com googlemail.com yahoo.com yahoo.co.uk ymail.com hotmail.com hotmail.co.uk outlook.com live.com
    msn.com icloud.com me.com mac.com aol.com gmx.de gmx.net gmx.com gmx.at gmx.ch web.de t-online.de freenet.de
    mail.com mail.ru yandex.ru yandex.com proton.me protonmail.com orange.fr free.fr laposte.net wanadoo.fr
    libero.it qq.com 163.com 126.com naver.com comcast.net verizon.net att.net btinternet.com sky.com bluewin.ch
    zoho.com fastmail.com hey.com
"""
FREE_MAIL = frozenset(_FREE_MAIL_TEXT.split())
"""Mail providers for everybody: an address there says nothing about a company."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one value speaks for."""

    label: str
    direction: Literal["up", "down"]
    weight: int


def _up(label: str, weight: int) -> Opinion:
    return Opinion(label, "up", weight)


def _down(label: str, weight: int) -> Opinion:
    return Opinion(label, "down", weight)


Judge = Callable[[str, str, date], Opinion | None]
"""(value, crm, day of the snapshot) → opinion."""

_TITLES: tuple[tuple[str, Opinion], ...] = (
    (r"\b(intern|trainee|student|apprentice|praktikant|werkstudent|azubi)", _down("Not a buyer yet", 10)),
    (r"\b(assistant to|executive assistant|personal assistant|assistent)", _down("Does not decide alone", 4)),
    (
        r"\b(c[eftiompr]o|ciso|chief|(co-)?founder|owner|president|managing director|partner|[se]?vp|geschäftsführer\w*|vorstand\w*|inhaber\w*)\b",
        _up("Decision maker", 15),
    ),
    (r"\b(director|head of|head,|leiter\w*|bereichsleiter\w*|leitung)", _up("Leads a department", 12)),
    (r"\b(procurement|purchas\w+|buyer|einkauf\w*|sourcing)\b", _up("Buys for the company", 9)),
    (r"\b(manager\w*|team lead|principal|supervisor|teamleiter\w*)\b", _up("Has a say in it", 7)),
)


def _title(value: str, _crm: str, _on: date) -> Opinion | None:
    return next((opinion for pattern, opinion in _TITLES if re.search(pattern, value, re.IGNORECASE)), None)


def _email(value: str, _crm: str, _on: date) -> Opinion | None:
    name, at, domain = value.strip().casefold().rpartition("@")
    if not at or not name or "." not in domain:
        return _down("E-mail address is broken", 6)
    return _down("Private e-mail address", 4) if domain in FREE_MAIL else _up("Business e-mail address", 4)


def _phone(value: str, _crm: str, _on: date) -> Opinion | None:
    return _up("Can be called", 3) if sum(c.isdigit() for c in value) >= 7 else None


def _table(entries: dict[str, Opinion | None], keywords: tuple[tuple[str, Opinion | None], ...] = ()) -> Judge:
    def judge(value: str, _crm: str, _on: date) -> Opinion | None:
        plain = re.sub(r"[^a-z]", "", value.casefold())
        if plain in entries:
            return entries[plain]
        return next((opinion for word, opinion in keywords if word in plain), None)

    return judge


_LIFECYCLE = _table(
    {
        "subscriber": _down("Only a subscriber so far", 4),
        "lead": None,
        "marketingqualifiedlead": _up("Qualified by marketing", 6),
        "salesqualifiedlead": _up("Qualified by sales", 12),
        "opportunity": _up("Has an open opportunity", 16),
        "customer": _up("Already a customer", 12),
        "evangelist": _up("Recommends us", 8),
    }
)
_STATUS = _table(
    {
        "new": _up("New and untouched", 2),
        "opennotcontacted": _up("New and untouched", 2),
        "open": _up("Being worked on", 5),
        "inprogress": _up("Being worked on", 7),
        "workingcontacted": _up("In conversation", 8),
        "opendeal": _up("Has an open deal", 15),
        "connected": _up("In conversation", 10),
        "attemptedtocontact": _down("Not reached yet", 3),
        "badtiming": _down("Timing is bad", 10),
        "unqualified": _down("Not qualified", 20),
        "closednotconverted": _down("Closed without conversion", 20),
        "closedconverted": _up("Converted", 10),
        "qualified": _up("Qualified", 10),
    }
)
_RATING = _table({"hot": _up("Rated hot", 12), "warm": _up("Rated warm", 5), "cold": _down("Rated cold", 10)})
_SOURCE = _table(
    {},
    (
        ("referral", _up("Came by referral", 8)),
        ("phone", _up("Called us", 6)),
        ("purchased", _down("From a purchased list", 8)),
        ("list", _down("From a list", 4)),
        ("event", _up("Met at an event", 3)),
        ("tradeshow", _up("Met at an event", 3)),
        ("web", _up("Came to us", 4)),
        ("organic", _up("Came to us", 4)),
        ("direct", _up("Came to us", 4)),
    ),
)
_STAGE = _table(
    {
        "appointmentscheduled": _up("First meeting set", 2),
        "qualifiedtobuy": _up("Qualified to buy", 6),
        "presentationscheduled": _up("Presentation set", 9),
        "decisionmakerboughtin": _up("Decision maker is convinced", 16),
        "contractsent": _up("Contract is with the customer", 20),
        "closedwon": _up("Won", 25),
        "closedlost": _down("Lost", 25),
        "prospecting": None,
        "qualification": _up("Being qualified", 3),
        "needsanalysis": _up("Needs are being worked out", 5),
        "valueproposition": _up("Value is being shown", 7),
        "iddecisionmakers": _up("Decision makers being found", 9),
        "perceptionanalysis": _up("Customer is weighing it", 10),
        "proposalpricequote": _up("Quote is with the customer", 13),
        "negotiationreview": _up("In negotiation", 17),
    },
    (
        ("lost", _down("Lost", 25)),
        ("won", _up("Won", 25)),
        ("negotia", _up("In negotiation", 17)),
        ("contract", _up("Contract stage", 17)),
        ("proposal", _up("Quote is with the customer", 13)),
        ("quote", _up("Quote is with the customer", 13)),
        ("demo", _up("Demo stage", 8)),
        ("qualif", _up("Being qualified", 4)),
    ),
)


def _employees(value: str, _crm: str, _on: date) -> Opinion | None:
    count = number(value)
    if count is None:
        return None
    if count >= 1000:
        return _up("Large company", 8)
    if count >= 200:
        return _up("Mid-size company", 6)
    if count >= 50:
        return _up("Growing company", 3)
    return _down("Very small company", 3) if count < 10 else None


def _revenue(value: str, _crm: str, _on: date) -> Opinion | None:
    amount = number(value)
    if amount is None or amount < 1_000_000:
        return None
    return _up("Strong revenue", 8 if amount >= 100_000_000 else 5 if amount >= 10_000_000 else 2)


def _contacted(value: str, _crm: str, on: date) -> Opinion | None:
    when = day(value)
    if when is None:
        return None
    age = (on - when).days
    if age <= 7:
        return _up("Contact within the last week", 10)
    if age <= 30:
        return _up("Contact within the last month", 6)
    if age > 180:
        return _down("No contact for half a year", 12)
    return _down("No contact for three months", 8) if age > 90 else None


def _probability(value: str, crm: str, _on: date) -> Opinion | None:
    chance = number(value)
    if chance is None:
        return None
    percent = chance * 100 if crm == "hubspot" and chance <= 1 else chance
    if percent >= 70:
        return _up("High probability in the CRM", 8)
    if percent >= 40:
        return _up("Fair probability in the CRM", 3)
    return _down("Low probability in the CRM", 6) if percent <= 15 else None


def _amount(value: str, _crm: str, _on: date) -> Opinion | None:
    amount = number(value)
    if amount is None:
        return None
    if amount <= 0:
        return _down("No amount", 5)
    return (
        _up("Large amount", 8)
        if amount >= 100_000
        else _up("Solid amount", 5)
        if amount >= 20_000
        else _up("Amount is known", 2)
    )


def _close(value: str, _crm: str, on: date) -> Opinion | None:
    when = day(value)
    if when is None:
        return None
    left = (when - on).days
    if left < 0:
        return _down("Close date has passed", 12)
    if left <= 30:
        return _up("Closes within a month", 8)
    if left <= 90:
        return _up("Closes within three months", 4)
    return _down("Closes in more than a year", 4) if left > 365 else None


def _created(value: str, _crm: str, on: date) -> Opinion | None:
    when = day(value)
    return _down("Open for over half a year", 6) if when and (on - when).days > 180 else None


def _step(_value: str, _crm: str, _on: date) -> Opinion | None:
    return _up("Next step is agreed", 5)


def _opted_out(value: str, _crm: str, _on: date) -> Opinion | None:
    return _down("Opted out of e-mail", 10) if value.casefold() in {"true", "yes", "1"} else None


JUDGES: dict[str, Judge] = {
    "job_title": _title,
    "email": _email,
    "phone": _phone,
    "mobile_phone": _phone,
    "lifecycle_stage": _LIFECYCLE,
    "lead_status": _STATUS,
    "rating": _RATING,
    "lead_source": _SOURCE,
    "deal_stage": _STAGE,
    "employees": _employees,
    "annual_revenue": _revenue,
    "last_contacted_at": _contacted,
    "last_activity_at": _contacted,
    "probability": _probability,
    "amount": _amount,
    "close_date": _close,
    "next_step": _step,
    "opted_out": _opted_out,
}
DEAL_JUDGES: dict[str, Judge] = {"created_at": _created}


@lru_cache(maxsize=4096)
def closed(stage: str | None) -> Literal["won", "lost"] | None:
    """Whether a deal's stage (or a lead's status) says that it is over."""
    if not stage:
        return None
    plain = re.sub(r"[^a-z]", "", stage.casefold())
    if "closedwon" in plain or plain in {"won", "closedconverted"}:
        return "won"
    return "lost" if "closedlost" in plain or plain in {"lost", "closednotconverted", "unqualified"} else None


def opinion(concept: str, value: str, *, crm: str, on: date, object: str, over: bool = False) -> Opinion | None:  # noqa: A002 — the CRM's word
    """What experience says about one value; None where it says nothing. `over`: the deal is closed, so its dates no longer speak."""
    if over and concept in {
        "close_date",
        "created_at",
        "probability",
        "next_step",
        "last_contacted_at",
        "last_activity_at",
    }:
        return None
    judge = JUDGES.get(concept) or (DEAL_JUDGES.get(concept) if object == "deal" else None)
    return judge(value, crm, on) if judge else None
