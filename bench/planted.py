"""What people and imports do to good records, from a seed: missing, malformed, misspelt, contradictory and stale values.

Written against the generator's records and against nothing of the checker: slips are random edits, not entries of a list.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable
from datetime import date, timedelta
from typing import Literal

from bench.clean_records import TODAY
from schemas.record import RecordSnapshot

Kind = Literal["missing", "malformed", "misspelt", "contradictory", "stale"]
Damage = Callable[["Planter", str, RecordSnapshot], dict[str, str] | None]
"""(planter, value, record) → concept → new value (empty: emptied), or None where it cannot be done to this record."""


class Planter:
    """Plants one defect in a record; the same seed, the same defects."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def plant(self, record: RecordSnapshot, kind: Kind) -> tuple[RecordSnapshot, str] | None:
        """The damaged record and the CRM field that is wrong now; None when nothing of this kind fits the record."""
        ways = [(concept, way) for concept, way in WAYS[kind] if concept in record.concepts]
        self.random.shuffle(ways)
        for concept, way in ways:
            value = record.value(concept)
            if value is None:
                continue
            change = way(self, value, record)
            if change is None or (change.get(concept, value) == value and concept in change and len(change) == 1):
                continue
            fields = dict(record.fields)
            for name, new in change.items():
                field = record.concepts.get(name)
                if field is None:
                    break
                fields.pop(field, None)
                if new:
                    fields[field] = new
            else:
                return record.model_copy(update={"fields": fields}), record.concepts[concept]
        return None

    def slip(self, word: str, *, keep_first: bool = True) -> str:
        """One slip of the finger: a letter lost, doubled, swapped with its neighbour, or hit beside the key."""
        letters = list(word)
        places = [i for i, c in enumerate(letters) if c.isalpha() and (i > 0 or not keep_first)]
        if not places:
            return word
        for _ in range(20):
            at = self.random.choice(places)
            made = letters.copy()
            way = self.random.randrange(4)
            if way == 0:
                del made[at]
            elif way == 1:
                made.insert(at, made[at])
            elif way == 2 and at + 1 < len(made) and made[at + 1].isalpha():
                made[at], made[at + 1] = made[at + 1], made[at]
            else:
                made[at] = self.random.choice(_BESIDE.get(made[at].lower(), string.ascii_lowercase))
            text = "".join(made)
            if text.casefold() != word.casefold():
                return text
        return word


_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_BESIDE = {c: row[max(0, i - 1) : i] + row[i + 1 : i + 2] for row in _ROWS for i, c in enumerate(row)}


def _emptied(concept: str) -> Damage:
    def damage(_p: Planter, _v: str, record: RecordSnapshot) -> dict[str, str] | None:
        change = {concept: ""}
        # A person's full name is put together by the CRM.
        if concept == "last_name" and "full_name" in record.concepts:
            change["full_name"] = record.value("first_name") or ""
        if concept == "domain" and record.value("website"):
            change["website"] = ""
        if concept == "company_name" and record.object == "contact" and record.value("company"):
            return None
        if concept == "job_title" and record.value("department"):
            return None
        if concept == "industry" and record.object != "company":
            return None
        return change

    return damage


def _one(concept: str, *ways: Callable[[Planter, str], str]) -> Damage:
    def damage(planter: Planter, value: str, _record: RecordSnapshot) -> dict[str, str]:
        return {concept: planter.random.choice(ways)(planter, value)}

    return damage


def _middle(planter: Planter, text: str, inserted: str) -> str:
    at = planter.random.randrange(1, max(2, len(text) - 1))
    return text[:at] + inserted + text[at:]


_NOISE = (
    "n/a",
    "N.A.",
    "-",
    "test",
    "xxxx",
    "TBD",
    "unknown",
    "asdf",
    "...",
    "none",
    "Test Test",
    "?",
    "dummy",
    "qwerty",
    "to be defined",
)


def _noise(planter: Planter, _value: str) -> str:
    return planter.random.choice(_NOISE)


def _fewer_digits(planter: Planter, value: str) -> str:
    digits = [m.start() for m in re.finditer(r"\d", value)]
    for at in sorted(planter.random.sample(digits, planter.random.randrange(4, 6)), reverse=True):
        value = value[:at] + value[at + 1 :]
    return value


_MALFORMED_EMAIL: tuple[Callable[[Planter, str], str], ...] = (
    lambda _p, v: v.replace("@", ""),
    lambda _p, v: v.replace("@", "@@"),
    lambda _p, v: v.replace("@", " at "),
    lambda _p, v: v.replace("@", "#"),
    lambda p, v: _middle(p, v.split("@")[0], " ") + "@" + v.split("@")[1],
    lambda _p, v: v.replace(".", ",") if "." in v.split("@")[1] else v + ",",
    lambda _p, v: v.split("@")[0] + "@",
    lambda _p, v: v.split("@")[0] + "@" + v.split("@")[1].replace(".", ""),
    lambda _p, v: v + ".",
    lambda _p, v: v.replace("@", ".@"),
    lambda _p, v: f"{v}; {v}",
    lambda p, _v: p.random.choice(("none", "n/a", "no email", "unbekannt")),
)
_MALFORMED_PHONE: tuple[Callable[[Planter, str], str], ...] = (
    _fewer_digits,
    lambda p, v: _middle(p, v, p.random.choice("oOlIxq")),
    lambda p, v: v + "".join(p.random.choices(string.digits, k=6)),
    lambda p, _v: p.random.choice(("0000000000", "1111111111", "123456789", "call reception", "n/a", "tbc")),
    lambda _p, _v: "maria@phone.example",
)
_MALFORMED_SITE: tuple[Callable[[Planter, str], str], ...] = (
    lambda _p, v: "htp:/" + re.sub(r"^\w+://", "", v),
    lambda _p, v: re.sub(r"^\w+://(www\.)?", "", v).replace(".", ","),
    lambda _p, v: re.sub(r"^\w+://(www\.)?", "", v).replace(".", " ", 1),
    lambda _p, v: "www." + re.sub(r"[.].*", "", re.sub(r"^\w+://(www\.)?", "", v)).strip("/") + ".",
    lambda _p, v: "http//" + re.sub(r"^\w+://", "", v),
    lambda _p, _v: "none",
    lambda _p, _v: "see linkedin",
)
_MALFORMED_DATE: tuple[Callable[[Planter, str], str], ...] = (
    lambda _p, v: f"{v[8:10]}.{v[5:7]}.{v[:4]}",
    lambda _p, v: f"{v[:4]}-13-{v[8:10]}",
    lambda _p, v: f"{v[:4]}-02-31",
    lambda p, _v: p.random.choice(("next week", "Q4", "soon", "0000-00-00", "tbd")),
    lambda _p, v: f"2{v}",
)
_MALFORMED_NUMBER: tuple[Callable[[Planter, str], str], ...] = (
    lambda _p, v: f"{float(v.split('-')[0]):,.2f} EUR",
    lambda _p, v: f"€{v}",
    lambda _p, v: "-" + v.split("-")[0],
    lambda p, _v: p.random.choice(("approx. 20k", "lots", "tbd", "n/a", "12o00")),
)
_MALFORMED_NAME: tuple[Callable[[Planter, str], str], ...] = (
    _noise,
    lambda p, v: v + str(p.random.randrange(1, 99)),
    lambda p, v: _middle(p, v, p.random.choice("0135")),
    lambda _p, v: f"{v.split()[0]}@acme.com",
    lambda p, v: v + p.random.choice((" #2", " ***", "_old")),
)


def _postal(planter: Planter, value: str, _record: RecordSnapshot) -> dict[str, str]:
    ways = (value[:-2] if len(value) < 8 else value[:3], value + "77", _middle(planter, value, "#"), "n/a", "?????")
    return {"postal_code": planter.random.choice(ways)}


def _mail_slip(planter: Planter, value: str, record: RecordSnapshot) -> dict[str, str] | None:
    local, _, host = value.partition("@")
    name, _, tld = host.partition(".")
    site = (record.value("website") or record.value("domain") or "").casefold()
    private = host in _PROVIDERS
    if private and planter.random.random() < 0.7:
        return {"email": f"{local}@{planter.slip(name)}.{tld}"} if len(name) > 4 else None
    if not private and host in site and len(name) > 5 and planter.random.random() < 0.7:
        return {"email": f"{local}@{planter.slip(name)}.{tld}"}
    return (
        {"email": f"{local}@{name}.{planter.random.choice(('con', 'cmo', 'ocm', 'comm', 'vom'))}"}
        if tld == "com"
        else None
    )


_PROVIDERS = frozenset(
    [
        "gmail.com",
        "outlook.com",
        "yahoo.com",
        "gmx.de",
        "hotmail.co.uk",
        "icloud.com",
        "web.de",
        "orange.fr",
        "proton.me",
        "mail.com",
        "bluewin.ch",
    ]
)


def _place_slip(concept: str, least: int) -> Damage:
    def damage(planter: Planter, value: str, _record: RecordSnapshot) -> dict[str, str] | None:
        return {concept: planter.slip(value)} if len(value) >= least and value.isascii() else None

    return damage


def _title_slip(planter: Planter, value: str, _record: RecordSnapshot) -> dict[str, str] | None:
    words = [word for word in re.findall(r"[A-Za-z]+", value) if len(word) >= 6]
    if not words:
        return None
    word = planter.random.choice(words)
    return {"job_title": value.replace(word, planter.slip(word), 1)}


def _over(record: RecordSnapshot) -> bool:
    return "losed" in (record.value("deal_stage") or "")


def _won_but(planter: Planter, _value: str, record: RecordSnapshot) -> dict[str, str] | None:
    stage = record.value("deal_stage") or ""
    half = f"0.{planter.random.randrange(1, 9)}" if record.crm == "hubspot" else str(planter.random.randrange(5, 95))
    if "on" in stage[-3:].casefold() and "losed" in stage:
        return {"probability": planter.random.choice(("0", half))}
    return {"probability": half} if "ost" in stage[-3:].casefold() and "losed" in stage else None


def _closes_before(planter: Planter, _value: str, record: RecordSnapshot) -> dict[str, str]:
    created = date.fromisoformat((record.value("created_at") or "2026-01-01")[:10])
    return {"close_date": (created - timedelta(days=planter.random.randrange(3, 200))).isoformat()}


def _other_site(planter: Planter, value: str, record: RecordSnapshot) -> dict[str, str] | None:
    if not (record.value("website") or record.value("domain")) or value.partition("@")[2] in _PROVIDERS:
        return None
    return {
        "email": value.partition("@")[0]
        + "@"
        + planter.random.choice(("zentrale-brandt.de", "hollowaypartners.com", "ostrava-steel.cz", "umbrella.io"))
    }


def _foreign_phone(planter: Planter, _value: str, record: RecordSnapshot) -> dict[str, str] | None:
    home = (record.value("country") or "").casefold()
    far = [
        ("+49 30 2345", "germany deutschland"),
        ("+33 1 4268", "france"),
        ("+81 3 3211 0", "japan"),
        ("+44 20 7946 0", "united kingdom uk england"),
    ]
    numbers = [number for number, names in far if home not in names]
    number = planter.random.choice(numbers)
    return {
        "phone": number
        + "".join(planter.random.choices(string.digits, k=3 if number.startswith(("+44", "+81")) else 4))
    }


def _foreign_state(planter: Planter, _value: str, record: RecordSnapshot) -> dict[str, str]:
    home = (record.value("country") or "").casefold()
    states = [("Texas", "us"), ("Bavaria", "de"), ("Ontario", "ca"), ("Queensland", "au"), ("Florida", "us")]
    code = (
        "us"
        if home in {"united states", "usa", "us", "united states of america"}
        else "de"
        if home in {"germany", "deutschland"}
        else "ca"
        if home == "canada"
        else "au"
        if home == "australia"
        else ""
    )
    return {"state": planter.random.choice([state for state, of in states if of != code])}


def _no_deals(_p: Planter, _v: str, record: RecordSnapshot) -> dict[str, str] | None:
    return (
        {"lifecycle_stage": "customer", "number_of_deals": "0"}
        if record.crm == "hubspot" and record.value("number_of_deals")
        else None
    )


def _unqualified(_p: Planter, _v: str, record: RecordSnapshot) -> dict[str, str] | None:
    return (
        {"lead_status": "UNQUALIFIED"}
        if record.value("lifecycle_stage") in {"customer", "opportunity", "salesqualifiedlead"}
        else None
    )


def _converted(_p: Planter, _v: str, record: RecordSnapshot) -> dict[str, str] | None:
    return {"lead_status": "Closed - Not Converted", "converted": "true"} if record.object == "lead" else None


def _passed(planter: Planter, value: str, record: RecordSnapshot) -> dict[str, str] | None:
    created = date.fromisoformat((record.value("created_at") or "2026-01-01")[:10])
    room = (TODAY - created).days
    when = TODAY - timedelta(days=planter.random.randrange(1, max(2, min(room, 90))))
    return None if _over(record) else {"close_date": when.isoformat() + (value[10:] if len(value) > 10 else "")}


def _quiet(concept: str) -> Damage:
    def damage(planter: Planter, value: str, record: RecordSnapshot) -> dict[str, str] | None:
        if record.object == "deal" and _over(record):
            return None
        if record.object == "contact" and record.value("lifecycle_stage") not in {
            "lead",
            "marketingqualifiedlead",
            "salesqualifiedlead",
            "opportunity",
        }:
            return None
        if record.object == "company":
            return {
                concept: (TODAY - timedelta(days=planter.random.randrange(400, 1500))).isoformat(),
                "created_at": "2019-05-02T08:00:00.000Z",
            }
        both = record.value("last_contacted_at") and record.value("last_activity_at")
        if concept == "last_activity_at" and both:
            return None
        when = (TODAY - timedelta(days=planter.random.randrange(150, 700))).isoformat() + (
            value[10:] if len(value) > 10 else ""
        )
        # The CRM moves both together; the later one is what shows that nobody was in touch.
        later = (TODAY - timedelta(days=planter.random.randrange(710, 900))).isoformat()
        return {
            concept: when,
            **({"last_activity_at": later} if both else {}),
            "created_at": "2023-05-02T08:00:00.000Z",
        }

    return damage


def _still_new(planter: Planter, _value: str, record: RecordSnapshot) -> dict[str, str] | None:
    if record.object not in {"contact", "lead"} or record.value("lifecycle_stage") == "customer":
        return None
    created = (TODAY - timedelta(days=planter.random.randrange(45, 400))).isoformat() + "T09:00:00.000Z"
    return {"lead_status": "NEW" if record.crm == "hubspot" else "Open - Not Contacted", "created_at": created}


WAYS: dict[Kind, tuple[tuple[str, Damage], ...]] = {
    "missing": tuple(
        (concept, _emptied(concept))
        for concept in (
            "email",
            "last_name",
            "phone",
            "job_title",
            "company_name",
            "country",
            "deal_name",
            "amount",
            "close_date",
            "deal_stage",
            "domain",
            "industry",
        )
    ),
    "malformed": (
        ("email", _one("email", *_MALFORMED_EMAIL)),
        ("phone", _one("phone", *_MALFORMED_PHONE)),
        ("website", _one("website", *_MALFORMED_SITE)),
        ("close_date", _one("close_date", *_MALFORMED_DATE)),
        ("birth_date", _one("birth_date", *_MALFORMED_DATE)),
        ("amount", _one("amount", *_MALFORMED_NUMBER)),
        ("annual_revenue", _one("annual_revenue", *_MALFORMED_NUMBER)),
        ("first_name", _one("first_name", *_MALFORMED_NAME)),
        ("last_name", _one("last_name", *_MALFORMED_NAME)),
        ("company_name", _one("company_name", _noise)),
        ("job_title", _one("job_title", _noise)),
        ("deal_name", _one("deal_name", _noise)),
        ("postal_code", _postal),
    ),
    "misspelt": (
        ("email", _mail_slip),
        ("city", _place_slip("city", 5)),
        ("country", _place_slip("country", 5)),
        ("job_title", _title_slip),
    ),
    "contradictory": (
        ("probability", _won_but),
        ("close_date", _closes_before),
        ("email", _other_site),
        ("phone", _foreign_phone),
        ("state", _foreign_state),
        ("lifecycle_stage", _no_deals),
        ("lead_status", _unqualified),
        ("lead_status", _converted),
    ),
    "stale": (
        ("close_date", _passed),
        ("last_contacted_at", _quiet("last_contacted_at")),
        ("last_activity_at", _quiet("last_activity_at")),
        ("lead_status", _still_new),
    ),
}
