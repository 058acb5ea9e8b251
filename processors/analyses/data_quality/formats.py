"""Values that cannot be what their field is for.

Law: e-mail syntax is email-validator's business (no DNS), phone numbers are libphonenumber's; a proposal is made only
where one reading remains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from functools import lru_cache

import phonenumbers
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email

from processors.analyses.data_quality.record import Record
from processors.analyses.data_quality.reference import PLACEHOLDER, POSTAL
from processors.analyses.facts import day, moment, number
from schemas.insight import Defect

NAMES = ("first_name", "last_name")
TEXTS = ("company_name", "job_title", "city", "country", "state", "street", "deal_name", "industry")
DATES = ("close_date", "created_at", "birth_date", "last_contacted_at", "last_activity_at")
NUMBERS = ("amount", "annual_revenue", "employees", "probability")
_PLAIN_ADDRESS = re.compile(r"[A-Za-z0-9]+(?:[._+-][A-Za-z0-9]+)*@(?:[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*\.)+[A-Za-z]{2,24}")
_RESERVED = frozenset(name.rpartition(".")[2] for name in SPECIAL_USE_DOMAIN_NAMES)
"""Last labels of names that no mail is sent to."""
_EXTENSION = re.compile(r"\s*(?:ext\.?|extension|x|#|durchwahl|dw|app\.?)\s*\d{1,6}$", re.IGNORECASE)
_NO_DIGIT = re.compile(r"\D")
_LETTER = re.compile(r"[^\W\d_]")
_NO_PHONE = re.compile(r"[^\d\s+().\-/–·]")
_REPEATED = re.compile(r"(\d)\1{6,}")
_NO_NAME = re.compile(r"[\d@#$%^*_=+<>{}\[\]|\\/]")
_HOST = re.compile(
    r"(?!-)(?:[a-z0-9\u00a1-\uffff](?:[a-z0-9\u00a1-\uffff-]{0,61}[a-z0-9\u00a1-\uffff])?\.)+[a-z\u00a1-\uffff][a-z0-9\u00a1-\uffff-]{1,22}",
    re.IGNORECASE,
)


def check(record: Record) -> Iterator[Defect]:
    """Every malformed value, one defect a field."""
    for concept in (*NAMES, *TEXTS):
        value = record[concept]
        if value and is_placeholder(value) and not (concept == "state" and len(value) == 2):
            yield record.defect(
                concept,
                "malformed",
                "high" if concept in {*NAMES, "company_name", "deal_name"} else "medium",
                "{label} is a placeholder, not a value",
            )
        elif value and concept in NAMES and _NO_NAME.search(value):
            # Only what hangs at an end was not meant; a digit inside may stand for any letter.
            repaired = re.sub(r"^[\W\d_]+|[\W\d_]+$", "", value)
            yield record.defect(
                concept,
                "malformed",
                "medium",
                "{label} has characters that names do not have",
                proposed=repaired if re.fullmatch(r"[^\W\d_][^\d@#$%^*_=+<>{}\[\]|\\/]+", repaired) else None,
            )
        elif value and concept in {"city", "country", "state", "job_title"} and _wordless(value, concept):
            yield record.defect(concept, "malformed", "medium", "{label} is not a text that names one")
    yield from _email(record)
    for concept in ("phone", "mobile_phone"):
        yield from _phone(record, concept)
    for concept in ("website", "domain", "linkedin"):
        yield from _web(record, concept)
    for concept in DATES:
        yield from _date(record, concept)
    for concept in NUMBERS:
        yield from _number(record, concept)
    yield from _postal(record)


@lru_cache(maxsize=4096)
def is_placeholder(value: str) -> bool:
    """Whether people write it where they have nothing to write: `n/a`, `test`, `Test Test`, `xxx`."""
    words = value.split()
    return bool(PLACEHOLDER.fullmatch(value)) or (
        len(words) == 2 and words[0].casefold() == words[1].casefold() and bool(PLACEHOLDER.fullmatch(words[0]))
    )


@lru_cache(maxsize=4096)
def _wordless(value: str, concept: str) -> bool:
    if "@" in value or "://" in value:
        return True
    letters, digits = sum(c.isalpha() for c in value), sum(c.isdigit() for c in value)
    return letters < 2 or (digits > 0 and concept in {"country", "state"}) or digits > letters


def plainly_valid(value: str) -> bool:
    """Whether it is one of the addresses, nearly all, that need no library's second look: a test holds the two side by side."""
    local, _, domain = value.rpartition("@")
    return (
        len(local) <= 64
        and len(domain) <= 63
        and _PLAIN_ADDRESS.fullmatch(value) is not None
        and domain.rpartition(".")[2].lower() not in _RESERVED
    )


@lru_cache(maxsize=4096)
def valid_email(value: str) -> bool:
    """Whether it is an address that mail could be sent to, as far as syntax tells."""
    if plainly_valid(value):
        return True
    try:
        validate_email(value, check_deliverability=False, test_environment=True)
    except EmailNotValidError:
        return False
    return "." in value.rpartition("@")[2]


def _email(record: Record) -> Iterator[Defect]:
    value = record["email"]
    if not value:
        return
    local = value.partition("@")[0]
    if valid_email(value):
        if (
            PLACEHOLDER.fullmatch(local) and local.casefold() not in {"company", "sample", "bar", "abc"}
        ) or re.fullmatch(r"(?:test|example|none|noemail|no)@.*", value, re.IGNORECASE):
            yield record.defect("email", "malformed", "high", "{label} is a placeholder, not an address")
        return
    yield record.defect("email", "malformed", "high", "{label} is not a valid address", proposed=repaired_email(value))


def repaired_email(value: str) -> str | None:
    """The one address that was meant, or None."""
    tries = re.sub(r"^mailto:|^<|>$", "", value.strip(), flags=re.IGNORECASE)
    tries = re.sub(r"\s*(?:\(at\)|\[at\]|\{at\}|\s+at\s+)\s*", "@", tries, flags=re.IGNORECASE)
    tries = re.sub(r"\s*(?:\(dot\)|\[dot\]|\s+dot\s+)\s*", ".", tries, flags=re.IGNORECASE)
    tries = re.sub(r"@{2,}", "@", re.sub(r"\s+", "", tries)).replace(",", ".").replace(";", ".")
    tries = re.sub(r"\.{2,}", ".", tries).strip(".").replace(".@", "@").replace("@.", "@")
    if "@" not in tries:
        return None
    head, _, tail = tries.rpartition("@")
    if "." not in tail and (match := re.fullmatch(r"(.{2,})(com|net|org|de)", tail)):
        tries = f"{head}@{match[1]}.{match[2]}"
    return tries if tries != value and valid_email(tries) else None


def parsed_phone(value: str, region: str | None) -> phonenumbers.PhoneNumber | None:
    """Libphonenumber's reading; None when it is not a number, or a national one of an unknown country. Not to be changed: others
    are given the same.
    """
    # Whoever writes the country's code means the same number wherever he is, so that one reading serves all who ask.
    if region and value.lstrip().startswith("+") and (found := _parsed_phone(value, None)) is not None:
        return found
    return _parsed_phone(value, region)


@lru_cache(maxsize=4096)
def valid_phone(value: str, region: str | None) -> bool:
    """Whether its country gives out this number."""
    parsed = parsed_phone(value, region)
    return parsed is not None and phonenumbers.is_valid_number(parsed)


@lru_cache(maxsize=4096)
def _parsed_phone(value: str, region: str | None) -> phonenumbers.PhoneNumber | None:
    try:
        return phonenumbers.parse(value, None if value.lstrip().startswith(("+", "00")) and not region else region)
    except phonenumbers.NumberParseException:
        if value.lstrip().startswith("00"):
            try:
                return phonenumbers.parse("+" + value.lstrip()[2:], None)
            except phonenumbers.NumberParseException:
                return None
        return None


def _phone(record: Record, concept: str) -> Iterator[Defect]:
    value = record[concept]
    if not value:
        return
    bare = _EXTENSION.sub("", value)
    digits = _NO_DIGIT.sub("", bare)
    message = None
    if _LETTER.search(bare) or _NO_PHONE.search(bare):
        message = "{label} has characters that phone numbers do not have"
    elif not 6 <= len(digits) <= 15 or bare.count("+") > 1 or "+" in bare.strip()[1:]:
        message = (
            "{label} has too few or too many digits" if not 6 <= len(digits) <= 15 else "{label} is not a phone number"
        )
    elif _REPEATED.search(digits) or digits.lstrip("0") in "1234567890123456789" or digits in "9876543210":
        message = "{label} is a placeholder, not a number"
    if message is None:
        parsed = parsed_phone(bare, record.region)
        international = bare.lstrip().startswith(("+", "00"))
        if (parsed is None and (international or record.region)) or (
            parsed and not phonenumbers.is_possible_number(parsed)
        ):
            message = "{label} has too few or too many digits for its country"
        elif parsed and not valid_phone(bare, record.region):
            message = "{label} is not a number that its country gives out"
    if message:
        repaired = re.sub(r"[oO](?=[\d\s])|(?<=\d)[oO]", "0", bare)
        repaired = re.sub(r"(?<=\d)[lI](?=[\d\s]|$)", "1", repaired)
        again = (
            parsed_phone(repaired, record.region) if repaired != bare and not re.search(r"[^\W\d_]", repaired) else None
        )
        proposed = repaired.strip() if again and phonenumbers.is_valid_number(again) else None
        yield record.defect(concept, "malformed", "medium", message, proposed=proposed)


@lru_cache(maxsize=4096)
def host_of(value: str) -> str | None:
    """The host of a web address as people write it; None when there is none."""
    if not value:
        return None
    bare = re.sub(r"^https?://", "", value.strip(), flags=re.IGNORECASE)
    host = re.split(r"[/?#:]", bare, maxsplit=1)[0].rstrip(".")
    # `www.acme` is a name that lost its ending.
    whole = _HOST.fullmatch(host) and not (host.casefold().startswith("www.") and host.count(".") == 1)
    return host.casefold() if whole and not re.search(r"\s", bare) else None


def _web(record: Record, concept: str) -> Iterator[Defect]:
    value = record[concept]
    if not value:
        return
    if host_of(value) and not (concept == "domain" and re.search(r"[/@]", value.replace("://", ""))):
        if re.fullmatch(
            r"(?:www\.)?(?:test|example|none|website|domain|company|yourcompany|xxx+|asdf)\.(?:com|net|org|de)",
            host_of(value) or "",
        ):
            yield record.defect(concept, "malformed", "medium", "{label} is a placeholder, not an address")
        return
    if re.fullmatch(r"[^@\s]+@[^@\s]+\.[a-z]{2,}", value, re.IGNORECASE):
        yield record.defect(
            concept, "malformed", "medium", "{label} holds an e-mail address", proposed=value.rpartition("@")[2]
        )
        return
    repaired = re.sub(r"^(?:h\w{1,5}s?)?\s*[:;]{0,2}\s*/{1,3}", "", re.sub(r"\s+", "", value), flags=re.IGNORECASE)
    repaired = re.sub(r"^(?:https?)(?=www)", "", repaired, flags=re.IGNORECASE)
    repaired = re.sub(r"^w{2,4}[.,]+", "www.", repaired.replace(",", "."))
    repaired = re.sub(r"\.{2,}", ".", repaired).strip("./:;@")
    yield record.defect(
        concept,
        "malformed",
        "medium",
        "{label} is not a web address",
        proposed=repaired if host_of(repaired) and repaired != value else None,
    )


def _date(record: Record, concept: str) -> Iterator[Defect]:
    value = record[concept]
    if not value:
        return
    found = moment(value)
    if found is None:
        yield record.defect(
            concept, "malformed", "medium", "{label} is not a date that systems can read", proposed=repaired_date(value)
        )
    elif not 1900 <= found.year <= record.today.year + 30 or (concept == "birth_date" and found.date() > record.today):
        yield record.defect(concept, "malformed", "medium", "{label} cannot be right")


def repaired_date(value: str) -> str | None:
    """ISO form of a date in a common notation, where only one reading is possible."""
    match = re.fullmatch(r"\s*(\d{1,4})[./\-\s](\d{1,2})[./\-\s](\d{1,4})\s*", value)
    if match is None:
        return None
    first, second, third = (int(part) for part in match.groups())
    readings: list[tuple[int, int, int]] = []
    if len(match[1]) == 4:
        readings = [(first, second, third)]
    elif len(match[3]) == 4:
        readings = [(third, second, first)] + ([(third, first, second)] if "." not in value else [])
    valid = set()
    for year, month, dom in readings:
        try:
            valid.add(date(year, month, dom))
        except ValueError:
            continue
    return valid.pop().isoformat() if len(valid) == 1 else None


def _number(record: Record, concept: str) -> Iterator[Defect]:
    value = record[concept]
    if not value:
        return
    if concept == "employees" and re.fullmatch(r"\d[\d,.]*\s*(?:[-–]\s*\d[\d,.]*|\+)", value):
        return
    plain = value.strip()
    if not re.fullmatch(r"[-+]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", plain):
        found = number(plain) if re.fullmatch(r"[€$£]?\s*\d[\d.,' ]*\s*(?:[€$£]|EUR|USD|GBP|CHF)?", plain) else None
        yield record.defect(
            concept,
            "malformed",
            "medium",
            "{label} is not a plain number",
            proposed=f"{found:.2f}".rstrip("0").rstrip(".") if found is not None else None,
        )
        return
    amount = float(plain)
    if amount < 0:
        yield record.defect(concept, "malformed", "medium", "{label} is negative", proposed=plain.lstrip("-"))
    elif concept == "probability" and amount > 100:
        yield record.defect(concept, "malformed", "medium", "{label} is over 100 %")
    elif concept == "employees" and (amount != int(amount) or amount > 5_000_000):
        yield record.defect(concept, "malformed", "low", "{label} cannot be right")


def _postal(record: Record) -> Iterator[Defect]:
    value = record["postal_code"]
    if not value:
        return
    wanted = POSTAL.get(record.region or "")
    given = value.upper()
    if (PLACEHOLDER.fullmatch(value) and not re.fullmatch(r"123\d+|0+\d*", value)) or re.fullmatch(
        r"0+|1234567*|9{4,}", value
    ):
        yield record.defect("postal_code", "malformed", "medium", "{label} is a placeholder, not a value")
    elif wanted:
        bare = re.sub(r"^[A-Z]{1,2}-(?=\d)", "", given)
        if not re.fullmatch(wanted, given) and not re.fullmatch(wanted, bare):
            repaired = re.sub(r"[\s.]+", "", given).replace("O", "0") if wanted.startswith(r"\d") else None
            proposed = repaired if repaired and repaired != value and re.fullmatch(wanted, repaired) else None
            yield record.defect(
                "postal_code",
                "malformed",
                "medium",
                "{label} does not fit its country",
                other="country",
                proposed=proposed,
            )
    elif not re.fullmatch(r"[A-Z0-9][A-Z0-9 \-]{1,9}", given) or not any(c.isdigit() for c in given):
        yield record.defect("postal_code", "malformed", "low", "{label} is not a postal code")


def days_between(first: str | None, second: str | None) -> int | None:
    """Whole days from one date to the other; None where one is unreadable."""
    start, end = day(first), day(second)
    return (end - start).days if start and end else None
