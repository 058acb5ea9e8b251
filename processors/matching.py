"""Which records are likely the same person or company: features, blocking keys, and a comparison that says why.

Fellegi and Sunter's model: each compared field falls into a level, each level has a weight in bits (log2 of how much
likelier it is among true duplicates than among strangers), the sum with the prior gives a probability. Fields that either
side lacks weigh nothing. Weights of names, birth dates, cities and e-mail addresses were counted on one half of the
clusters of tests/data/splink_fake_1000 (`python -m bench.fit_matching`); the others are set by judgement.

Law: pure, no I/O; evidence names what agrees, never the other record's values.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import date
from functools import cache, lru_cache
from typing import Any, Literal

from rapidfuzz.distance import OSA, JaroWinkler, LCSseq
from rapidfuzz.fuzz import ratio, token_set_ratio

from processors.analyses.facts import day
from processors.analyses.suspicion import folded
from schemas.record import RecordSnapshot

OBJECTS = frozenset({"contact", "lead", "company"})
THRESHOLD = 0.5
"""Matches below this probability are not told."""
EVIDENCE = re.compile(r"(?:same|similar|swapped|close) [a-z -]{3,24}(?: \(0\.\d{2}\))?")
"""What a line of evidence looks like; nothing else is ever shown."""

_NO_SIGN = re.compile(r"[^\w.@+-]+")
_NO_DIGIT = re.compile(r"\D")
_COMPANY_FORM = re.compile(
    r"\b(?:gmbh(?: & co\.? kg)?|ag|kg|ohg|se|ug|inc|incorporated|llc|ltd|limited|plc|corp|corporation|co|company|sa|s\.a|sarl|sas|bv|b\.v|nv|oy|ab|as|a/s|srl|spa|pty|group|holding)\b\.?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Match:
    """Another record that is likely the same person or company."""

    id: str
    probability: float
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Features:
    """What a record is compared by; already normal. Empty: not known."""

    object: str
    first: str = ""
    last: str = ""
    email: str = ""
    phone: str = ""
    born: str = ""
    city: str = ""
    company: str = ""
    domain: str = ""

    def as_json(self) -> dict[str, str]:
        """What is known, for sealing."""
        return {name: value for name in _NAMES if (value := getattr(self, name))}

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Features:
        """Read what `as_json` wrote; unknown names are left out."""
        return cls(**{name: str(value) for name, value in given.items() if name in _NAMES})


_NAMES = tuple(field.name for field in fields(Features))


@lru_cache(maxsize=16_384)
def _plain(text: str | None) -> str:
    if not text:
        return ""
    kept = text.casefold()
    if not text.isascii():
        folded_text = folded(text).casefold().replace("ß", "ss").replace("ø", "o").replace("ł", "l")
        kept = "".join(c for c in unicodedata.normalize("NFKD", folded_text) if not unicodedata.combining(c))
    return " ".join(_NO_SIGN.sub(" ", kept).split())


@lru_cache(maxsize=16_384)
def _company(text: str | None) -> str:
    plain = _plain(text)
    return " ".join(re.sub(r"[.\-+@]", " ", _COMPANY_FORM.sub(" ", plain)).split()) or plain


@lru_cache(maxsize=16_384)
def _host(text: str | None) -> str:
    if not text:
        return ""
    bare = re.sub(r"^https?://", "", text.strip().casefold())
    host = re.split(r"[/?#:]", bare, maxsplit=1)[0].removeprefix("www.")
    return host if re.fullmatch(r"[\w-]+(?:\.[\w-]+)+", host) else ""


def features(snapshot: RecordSnapshot) -> Features | None:
    """What to compare this record by; None for a record that cannot be told from others (deleted, of another kind, too bare)."""
    if snapshot.object not in OBJECTS or snapshot.deleted:
        return None
    first, last = _plain(snapshot.value("first_name")), _plain(snapshot.value("last_name"))
    if not first and not last and snapshot.object != "company":
        first, _, last = _plain(snapshot.value("full_name")).partition(" ")
    digits = _NO_DIGIT.sub("", snapshot.value("phone") or snapshot.value("mobile_phone") or "")
    born = day(snapshot.value("birth_date"))
    found = Features(
        object=snapshot.object,
        first=first,
        last=last,
        email=_plain(snapshot.value("email")).replace(" ", ""),
        # The national part: country codes and leading zeros are written or not.
        phone=digits[-9:] if len(digits) >= 7 else "",
        born=born.isoformat() if born else "",
        city=_plain(snapshot.value("city")),
        company=_company(snapshot.value("company_name")),
        domain=_host(snapshot.value("domain") or snapshot.value("website")),
    )
    telling = (
        (found.company or found.domain)
        if snapshot.object == "company"
        else (
            found.email or found.phone or (found.first and found.last) or (found.born and (found.first or found.last))
        )
    )
    return found if telling else None


def blocking_keys(found: Features) -> tuple[str, ...]:
    """Keys of which duplicates share at least one; each tells enough that few strangers share it."""
    keys = {f"domain:{found.domain}" if found.domain else "", f"phone:{found.phone}" if found.phone else ""}
    if found.object == "company":
        keys |= (
            {f"company:{''.join(sorted(found.company.split()))}", f"company4:{found.company[:5]}|{found.city[:3]}"}
            if found.company
            else set()
        )
        return _keyed(found, keys)
    names = [name for name in (found.first, found.last) if name]
    if found.email:
        local, _, host = found.email.partition("@")
        # Broken addresses are anagrams of whole ones, or lack a letter: letters in order, and the beginning.
        keys |= {f"email:{found.email}", f"letters:{_letters(found.email)}", f"local:{local}"}
        if len(local) >= 4:
            keys |= {f"local5:{local[:5]}"}
        if host:
            keys.add(f"host:{_letters(host)}")
    if len(names) == 2:
        keys.add("names:" + "|".join(sorted(names)))
        keys.add("name-letters:" + "|".join(sorted(_letters(name) for name in names)))
        # Typing slips seldom spare neither name: the lesser letters of both, whatever the order of the names.
        keys.add("heads:" + "|".join(sorted(name[:2] for name in names)) + f"|{found.city[:3]}")
        if found.company:
            keys |= {f"at:{found.company}|{name}" for name in names}
    if found.born:
        keys.add(f"born:{found.born}")
        for name in names:
            keys.add(f"year:{found.born[:4]}|{_letters(name)}")
            keys.add(f"month:{found.born[:7]}|{name[:1]}")
            keys.add(f"year1:{found.born[:4]}|{name[:2]}|{found.city[:2]}")
        if found.city:
            keys.add(f"month-city:{found.born[:7]}|{_letters(found.city)}")
            keys.add(f"year-city:{found.born[:4]}|{_letters(found.city)}")
    return _keyed(found, keys - {f"domain:{found.domain}"})


def _keyed(found: Features, keys: set[str]) -> tuple[str, ...]:
    return tuple(sorted(f"{found.object}:{key}" for key in keys if key and not key.endswith(":")))


def _letters(text: str) -> str:
    return "".join(sorted(c for c in text if c.isalnum()))


Level = Literal["exact", "close", "alike", "near", "other"]

WEIGHTS: dict[str, dict[Level, float]] = {
    "names": {"exact": 7.0, "close": 6.5, "alike": 5.0, "near": 1.0, "other": -5.0},
    "one_name": {"exact": 5.0, "close": 4.0, "alike": 2.5, "near": 0.0, "other": -3.0},
    "born": {"exact": 9.0, "close": 6.0, "alike": 4.0, "near": 2.5, "other": -4.0},
    "city": {"exact": 2.0, "close": 3.0, "alike": 1.5, "near": 0.0, "other": -3.0},
    "email": {"exact": 10.0, "close": 9.0, "alike": 6.0, "near": 2.0, "other": -5.0},
    "phone": {"exact": 8.0, "close": 4.0, "alike": 0.0, "near": 0.0, "other": -1.0},
    "company": {"exact": 3.0, "close": 2.5, "alike": 1.0, "near": 0.0, "other": -1.5},
    "company_name": {"exact": 9.0, "close": 7.0, "alike": 4.0, "near": 1.0, "other": -5.0},
    "domain": {"exact": 9.0, "close": 3.0, "alike": 0.0, "near": 0.0, "other": -4.0},
}
PRIOR = -9.0
"""Bits: before anything is compared, one pair in about five hundred that share a block is a duplicate."""


@lru_cache(maxsize=16_384)
def _ordered(text: str) -> str:
    return "".join(sorted(text))


def _same_letters(a: str, b: str) -> bool:
    return len(a) > 2 and len(a) == len(b) and _ordered(a) == _ordered(b)


def _lost(a: str, b: str) -> int:
    """Letters that one has and the other lacks, whatever their order: typos by exchange leave it at zero."""
    # What two ordered texts have in common as a sequence is what they have in common at all.
    return max(len(a), len(b)) - LCSseq.similarity(_ordered(a), _ordered(b))


def _name_likeness(a: str, b: str) -> float:
    if a == b:
        return 1.0
    if _same_letters(a, b):
        return 0.97
    most = 1 + (max(len(a), len(b)) >= 6)
    if min(len(a), len(b)) >= 3 and abs(len(a) - len(b)) <= most and _lost(a, b) <= most:
        # One or two letters lost and the others shuffled.
        return max(0.88, JaroWinkler.similarity(a, b))
    return float(JaroWinkler.similarity(a, b))


def _level(likeness: float) -> Level:
    if likeness >= 0.999:
        return "exact"
    if likeness >= 0.95:
        return "close"
    if likeness >= 0.87:
        return "alike"
    return "near" if likeness >= 0.75 else "other"


def _names(a: Features, b: Features) -> tuple[str, Level, str] | None:
    """Compared straight and swapped, whichever fits better; with one name missing, the other alone."""
    if a.first and a.last and b.first and b.last:
        straight = (_name_likeness(a.first, b.first), _name_likeness(a.last, b.last))
        swapped = (_name_likeness(a.first, b.last), _name_likeness(a.last, b.first))
        best, how = (straight, "") if sum(straight) >= sum(swapped) else (swapped, "swapped")
        low = min(best)
        level = _level(low) if low >= 0.75 else ("near" if max(best) >= 0.95 else "other")
        said = (
            "swapped names"
            if how
            else "same name"
            if low >= 0.999
            else f"similar name ({min(0.99, sum(best) / 2):.2f})"
        )
        return "names", level, said
    pairs = [(x, y) for x in (a.first, a.last) for y in (b.first, b.last) if x and y]
    if not pairs:
        return None
    likeness = max(_name_likeness(x, y) for x, y in pairs)
    return (
        "one_name",
        _level(likeness),
        "same part of the name" if likeness >= 0.999 else f"similar part of the name ({min(0.99, likeness):.2f})",
    )


def _born(a: str, b: str) -> tuple[str, Level, str] | None:
    if not a or not b:
        return None
    if a == b:
        return "born", "exact", "same birth date"
    apart = abs((date.fromisoformat(a) - date.fromisoformat(b)).days)
    if OSA.distance(a, b) <= 1 or apart <= 15:
        return "born", "close", "close birth date"
    if apart <= 45 or a[5:] == b[5:]:
        return "born", "alike", "close birth date"
    return "born", "near" if a[:4] == b[:4] or apart <= 366 else "other", "close birth date"


def _city(a: str, b: str) -> tuple[str, Level, str] | None:
    if not a or not b:
        return None
    likeness = _name_likeness(a, b)
    level: Level = "exact" if a == b else "close" if likeness >= 0.95 else "alike" if likeness >= 0.85 else "other"
    return "city", level, "same city" if a == b else f"similar city ({min(0.99, likeness):.2f})"


def _email(a: str, b: str) -> tuple[str, Level, str] | None:
    if not a or not b:
        return None
    if a == b:
        return "email", "exact", "same e-mail address"
    (local_a, _, host_a), (local_b, _, host_b) = a.partition("@"), b.partition("@")
    likeness = ratio(a, b) / 100
    if abs(len(a) - len(b)) <= 2 and likeness < 0.96:
        if _same_letters(a, b):
            likeness = 0.96
        elif likeness < 0.92 and len(a) > 8 and _lost(a, b) <= 2:
            likeness = 0.92
    if local_a == local_b and len(local_a) >= 4 and host_a and host_b:
        return (
            "email",
            "close" if likeness >= 0.9 else "alike",
            "similar e-mail address" + (f" ({min(0.99, likeness):.2f})" if likeness < 1 else ""),
        )
    level: Level = (
        "close" if likeness >= 0.9 else "alike" if likeness >= 0.8 else "near" if likeness >= 0.7 else "other"
    )
    if (
        host_a == host_b
        and level in {"close", "alike"}
        and local_a[:1] != local_b[:1]
        and not _same_letters(local_a, local_b)
    ):
        level = "near"
    return "email", level, f"similar e-mail address ({min(0.99, likeness):.2f})"


def _phone(a: str, b: str) -> tuple[str, Level, str] | None:
    if not a or not b:
        return None
    if a == b or (min(len(a), len(b)) >= 7 and (a.endswith(b) or b.endswith(a))):
        return "phone", "exact", "same phone number"
    return "phone", "close" if OSA.distance(a, b, score_cutoff=1) <= 1 else "other", "similar phone number"


def _companies(a: Features, b: Features) -> tuple[str, Level, str] | None:
    if not a.company or not b.company:
        return None
    likeness = max(ratio(a.company, b.company), 0.95 * token_set_ratio(a.company, b.company)) / 100
    field = "company_name" if a.object == "company" else "company"
    return (
        field,
        _level(likeness),
        "same company name" if a.company == b.company else f"similar company name ({min(0.99, likeness):.2f})",
    )


def _domains(a: str, b: str) -> tuple[str, Level, str] | None:
    if not a or not b:
        return None
    if a == b:
        return "domain", "exact", "same website"
    return (
        "domain",
        "close" if a.split(".", maxsplit=1)[0] == b.split(".", maxsplit=1)[0] or OSA.distance(a, b) <= 1 else "other",
        "similar website",
    )


_Found = tuple[str, Level, str]
_How = Callable[[Features, Features], _Found | None]
_COMPANY: tuple[tuple[float, _How], ...] = (
    (WEIGHTS["domain"]["exact"], lambda a, b: _domains(a.domain, b.domain)),
    (WEIGHTS["phone"]["exact"], lambda a, b: _phone(a.phone, b.phone)),
    (WEIGHTS["city"]["close"], lambda a, b: _city(a.city, b.city)),
    (WEIGHTS["company_name"]["exact"], _companies),
)
_PERSON: tuple[tuple[float, _How], ...] = (
    (WEIGHTS["phone"]["exact"], lambda a, b: _phone(a.phone, b.phone)),
    (WEIGHTS["email"]["exact"], lambda a, b: _email(a.email, b.email)),
    (WEIGHTS["born"]["exact"], lambda a, b: _born(a.born, b.born)),
    (WEIGHTS["company"]["exact"], _companies),
    (WEIGHTS["city"]["close"], lambda a, b: _city(a.city, b.city)),
    (WEIGHTS["names"]["exact"], _names),
)
"""What is compared, cheap and telling ones first: the most that each can speak for a duplicate, and how."""


def levels(a: Features, b: Features) -> list[_Found]:
    """How far each field that both have agrees: (field, level, how to say it)."""
    compared = (how(a, b) for _, how in (_COMPANY if a.object == "company" else _PERSON))
    return [entry for entry in compared if entry is not None]


def compare(a: Features, b: Features) -> tuple[float, tuple[str, ...]]:
    """Probability that both are the same, and what speaks for it, strongest first; different kinds of records never match."""
    return _judged(levels(a, b)) if a.object == b.object else (0.0, ())


def likely(a: Features, b: Features) -> tuple[float, tuple[str, ...]] | None:
    """What `compare` says where that reaches THRESHOLD, else None; gives up as soon as nothing that is left could lift it there."""
    if a.object != b.object:
        return None
    is_company = a.object == "company"
    steps, best = _steps(is_company, (_there_company if is_company else _there_person)(a, b))
    found = []
    for most, how in steps:
        if best < _LEAST_BITS:
            return None
        entry = how(a, b)
        best -= most
        if entry is not None:
            found.append(entry)
            best += WEIGHTS[entry[0]][entry[1]]
    return _judged(found) if best >= _LEAST_BITS else None


def _there_company(a: Features, b: Features) -> tuple[bool, ...]:
    """Of each line of _COMPANY, whether both have it. Written out: it is asked of every pair that shares a block."""
    return (
        bool(a.domain and b.domain),
        bool(a.phone and b.phone),
        bool(a.city and b.city),
        bool(a.company and b.company),
    )


def _there_person(a: Features, b: Features) -> tuple[bool, ...]:
    """Likewise of _PERSON; for the names, whichever part of them is there."""
    return (
        bool(a.phone and b.phone),
        bool(a.email and b.email),
        bool(a.born and b.born),
        bool(a.company and b.company),
        bool(a.city and b.city),
        True,
    )


@cache
def _steps(is_company: bool, there: tuple[bool, ...]) -> tuple[tuple[tuple[float, _How], ...], float]:
    """What is compared where these are there, and the most bits that it can come to."""
    steps = tuple(
        (most, how)
        for (most, how), is_there in zip(_COMPANY if is_company else _PERSON, there, strict=True)
        if is_there
    )
    return steps, PRIOR + sum(most for most, _ in steps)


_LEAST_BITS = math.log2(THRESHOLD / (1 - THRESHOLD))


def _judged(found: list[_Found]) -> tuple[float, tuple[str, ...]]:
    bits = PRIOR + sum(WEIGHTS[field][level] for field, level, _ in found)
    telling = sorted(
        ((WEIGHTS[field][level], said) for field, level, said in found if WEIGHTS[field][level] > 0), reverse=True
    )
    probability = 1 / (1 + math.exp2(-max(-60.0, min(60.0, bits))))
    return probability, tuple(said for _, said in telling)
