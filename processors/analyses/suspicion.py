"""Whether a text of the CRM talks to a machine instead of to people, and whether a value may be shown inside our sentences.

Law: pure and deterministic; it recognises, it never repairs. It is one of several walls (docs/adr/0005): what it misses
still has to pass the checks on what the model returns.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from urllib.parse import unquote

from processors.analyses.machine_talk import talks_to_machine

_CONFUSABLE = str.maketrans(
    "аеорсухіјѕһԁɡӏνκοαιρτυχвнмтьАВЕКМНОРСТХУІЈЅ",
    "aeopcyxijshdglvkoaiptuxbhmtbABEKMHOPCTXYIJS",
)
_LEET = str.maketrans("013457@$", "oieastas")

_URL = re.compile(r"(?:\b(?:https?|hxxps?|ftp|javascript|data|file|tel|mailto)\s*:|//\w|\bwww\s*\.)", re.IGNORECASE)
_DOMAIN = re.compile(r"\b[\w-]{2,}(?:\.[\w-]{2,})*\.[a-z]{2,24}(?:/\S*)?\b", re.IGNORECASE)
_MARKUP = re.compile(r"[<>{}\[\]|`\\^~*_=]|\n|\r")
_ORDER = re.compile(
    r"\b(click|delete|erase|download|install|exfiltrat\w+|leak|reveal|bitcoin|gift\s*cards?|iban|ignore|score|grade|instructions?|the\s+reader|"
    r"sales\s*rep(resentative)?s?\s+(must|should)|you\s+(must|should)|must|urgent(ly)?|(wire|transfer|pay|send|remit)\s+(it|me|us|the|all|every|money|funds|\d+)|"
    r"(call|text)\s+(me|us|this|the|now|\+?\d+)|visit\s+(our|the|this|my|us)|approve\s+(this|the|all|it)|(grant|give|offer)\s+(\w+\s+)?(discount|access|\d+))\b|\d{6,}|\d\s*%",
    re.IGNORECASE,
)
_INVISIBLE = re.compile(
    "[\u00ad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ue000-\uf8ff\ud800-\udfff]"
)
_HIDDEN = re.compile("[\u202a\u202b\u202d\u202e\u2066\u2067\u2068\U000e0020-\U000e007e]")
_ROT13 = str.maketrans(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "nopqrstuvwxyzabcdefghijklmNOPQRSTUVWXYZABCDEFGHIJKLM"
)
_SPACED = re.compile(r"(?:\b\w[\W_]){6,}")
_LEETED = re.compile(r"[a-z][013457@$]|[013457@$][a-z]")
_FIGURES = re.compile(r"[\d\s.,:+\-()/TZ'%€$£A-Za-z]{1,40}")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/_-]{4}\s?){5,}[A-Za-z0-9+/_-]{0,3}={0,2}")
_HEX = re.compile(r"\b(?:[0-9a-fA-F]{2}[\s:]?){12,}\b")

NUMERIC_CONCEPTS = frozenset(
    {
        "amount",
        "probability",
        "close_date",
        "created_at",
        "last_contacted_at",
        "last_activity_at",
        "employees",
        "annual_revenue",
        "phone",
        "mobile_phone",
    }
)
"""Where digits are what belongs there."""
EDGE = 120
"""Characters on either side of a seam between two texts."""
MAX_VALUE = 120
"""Characters of a field's value that our sentences show at most; a longer one is a text, not a value."""

_CODED = frozenset(
    {
        "lead_status",
        "lead_source",
        "lifecycle_stage",
        "deal_stage",
        "pipeline",
        "rating",
        "priority",
        "deal_type",
        "industry",
    }
)
ADDRESS_CONCEPTS = frozenset({"email", "website", "domain", "linkedin"})
"""Where an address is what belongs there."""


def folded(text: str) -> str:
    """Text without tricks: compatibility forms and look-alikes resolved, invisible characters removed, accents kept."""
    if text.isascii():
        return text
    return re.sub(r"[。．｡]", ".", _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)))


def machine_text(subject: str | None, text: str) -> str:
    """A note as it is asked about, the same everywhere, so that it is looked at once."""
    return f"{subject or ''}\n{text}"


def _latin(text: str) -> str:
    """Look-alikes of other scripts as Latin letters, in words that mix scripts only."""
    return re.sub(
        r"\S+", lambda m: m.group().translate(_CONFUSABLE) if re.search(r"[A-Za-z]", m.group()) else m.group(), text
    )


def readings(text: str) -> Iterator[str]:
    """The text, and what it says to somebody who decodes it: base64, hex, percent, rot13, backwards, leet, spaced letters."""
    plain = folded(text)
    yield plain
    if not plain.isascii():
        yield _latin(plain)
        yield plain.translate(_CONFUSABLE)
        # Mathematical and combining decorations: the letters below them.
        yield "".join(c for c in unicodedata.normalize("NFD", plain) if not unicodedata.combining(c))
    if not text.isascii() and (tags := "".join(chr(ord(c) - 0xE0000) for c in text if 0xE0020 <= ord(c) <= 0xE007E)):
        yield tags
    if _SPACED.search(plain):
        yield re.sub(r"(?<=\b\w)[\W_](?=\w\b)", "", plain)
        yield re.sub(
            r"\s+",
            " ",
            re.sub(r"(?<!\w)((?:\w[ .\-_]){3,}\w)(?!\w)", lambda m: re.sub(r"[ .\-_]", "", m.group()), plain),
        )
    if _LEETED.search(plain):
        yield plain.translate(_LEET)
    yield plain.translate(_ROT13)
    yield plain[::-1]
    if "%" in plain:
        yield unquote(plain)
    if "&" in plain and re.search(r"&#?\w+;", plain):
        yield re.sub(r"&#(x?)([0-9a-fA-F]+);", lambda m: chr(int(m[2], 16 if m[1] else 10) % 0x110000), plain)
    for match in _BASE64.finditer(plain):
        yield from _decoded(match.group())
    for match in _HEX.finditer(plain):
        try:
            yield bytes.fromhex(re.sub(r"[\s:]", "", match.group())).decode("utf-8")
        except (ValueError, UnicodeDecodeError):
            continue


def _decoded(block: str) -> Iterator[str]:
    raw = re.sub(r"\s", "", block).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        text = base64.b64decode(raw + "=" * (-len(raw) % 4)).decode("utf-8")
    except (binascii.Error, ValueError, UnicodeDecodeError):
        return
    if sum(c.isprintable() for c in text) >= 0.9 * len(text):
        yield text


def hides_text(text: str) -> bool:
    """Whether it carries text that a person does not see or read: encoded sentences, invisible characters, right-to-left tricks."""
    if not text.isascii() and _HIDDEN.search(text):
        return True
    return any(" " in word for match in _BASE64.finditer(folded(text)) for word in _decoded(match.group()))


def joined_talks(parts: Sequence[str]) -> bool:
    """Whether two texts talk to a machine only together: the end of one with the beginning of another."""
    ends = [(part[:EDGE], part[-EDGE:]) for part in (folded(part).strip() for part in parts) if part]
    return any(
        talks_to_machine(f"{last}{glue}{first}")
        for i, (_, last) in enumerate(ends)
        for j, (first, _) in enumerate(ends)
        if i != j
        for glue in (" ", "")
    )


@lru_cache(maxsize=4096)
def addresses_machine(text: str) -> bool:
    """Whether a text gives orders to whatever reads it for people: about scores, prompts, records, outputs."""
    return hides_text(text) or talks_to_machine(*dict.fromkeys(readings(text)))


@lru_cache(maxsize=8192)
def presentable(concept: str, value: str) -> bool:
    """Whether a value may be cited and stand inside a sentence of ours: short, one line, no address out of place, no order."""
    plain = folded(value)
    if (
        not plain.strip()
        or len(plain) > MAX_VALUE
        or (_MARKUP.search(plain) and concept not in {*ADDRESS_CONCEPTS, *_CODED})
    ):
        return False
    if plain != value and any(unicodedata.category(c) == "Cf" for c in value):
        return False
    if addresses_machine(value):
        return False
    if concept in ADDRESS_CONCEPTS:
        return len(plain.split()) == 1
    if concept in NUMERIC_CONCEPTS:
        return _FIGURES.fullmatch(plain) is not None and sum(c.isalpha() for c in plain) <= 12
    return not (
        _URL.search(plain)
        or (concept not in {"company_name", "deal_name"} and _DOMAIN.search(plain))
        or "@" in plain
        or _ORDER.search(plain)
    )
