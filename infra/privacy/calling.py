"""What a person is called, and where a text calls somebody so.

Law: pure. Values are compared in a normal form, so that `+49 30 1234567` and `030-1234567` are one number; whoever keeps
them keeps HMACs. What is found is replaced, and the text around it stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from infra.crm.client import Read
from schemas.record import Note, RecordSnapshot, Related

PEOPLE = frozenset({"contact", "lead"})
"""Objects that are a person."""
ERASED = "[erased]"
"""What stands where somebody was named."""
MOST_ADDRESSES = 200
"""E-mail addresses of one record that are kept in the index; what else it says can be found by searching alone."""
LONGEST_VALUE = 320

_NAMES = ("first_name", "last_name", "full_name")
_PHONES = ("phone", "mobile_phone")
_MAIL = r"[\w.+'-]+@[\w-]+(?:\.[\w-]+)+"
_PHONE = r"\+?\d[\d \t()./-]{4,}\d"
_WORD = r"[^\W\d_]+(?:['’][^\W\d_]+)*"
_TOKEN = re.compile(f"(?P<mail>{_MAIL})|(?P<phone>{_PHONE})|(?P<word>{_WORD})")
_ADDRESS = re.compile(_MAIL)
_PHONE_DIGITS = 8
"""The last digits of a number: before them stands what country and trunk prefixes make different."""
_SHORTEST_PHONE = 6
_SURE_LETTERS = 5
"""A shorter name in small letters may be a word of the language: `will`, `mark`, `rose`."""

Marked = Callable[[str], bool]
"""Whether a normal form belongs to somebody erased."""


def mail(address: str) -> str:
    """The normal form of an e-mail address."""
    return f"mail:{address.strip().casefold()}"


def note(note_id: str) -> str:
    """The normal form of a note, e-mail or task that was logged with a person."""
    return f"note:{note_id}"


def phone(number: str) -> str:
    """The normal form of a telephone number; empty when it is too short to be one."""
    digits = "".join(c for c in number if c.isdigit())
    return f"phone:{digits[-_PHONE_DIGITS:]}" if len(digits) >= _SHORTEST_PHONE else ""


def word(name: str) -> str:
    """The normal form of one part of a name."""
    return f"word:{name.casefold().replace('’', chr(39))}"


def values_of(snapshot: RecordSnapshot) -> list[str]:
    """Normal forms of all that other records may call this person by; empty for whoever is none."""
    if snapshot.object not in PEOPLE or snapshot.deleted:
        return []
    found: set[str] = set()
    for concept in _NAMES:
        parts = re.findall(_WORD, (snapshot.value(concept) or "")[:LONGEST_VALUE])
        found |= {word(part) for part in parts if len(part) > 1}
    found |= {form for concept in _PHONES if (form := phone(snapshot.value(concept) or ""))}
    for value in snapshot.fields.values():
        if "@" in value:
            found |= {mail(address) for address in _ADDRESS.findall(value[:LONGEST_VALUE])}
    found |= {note(each.id) for each in snapshot.notes if each.id}
    return sorted(found)


def addresses(snapshot: RecordSnapshot) -> list[str]:
    """Normal forms of the e-mail addresses that a record mentions, in any text; at most MOST_ADDRESSES."""
    found: dict[str, None] = {}
    for text in _texts(snapshot):
        if "@" in text:
            for address in _ADDRESS.findall(text):
                found[mail(address)] = None
                if len(found) >= MOST_ADDRESSES:
                    return list(found)
    return list(found)


def related_people(snapshot: RecordSnapshot) -> list[str]:
    """`contact/ID` of everybody whom a record is associated with."""
    return [f"{each.object}/{each.id}" for each in snapshot.related if each.object in PEOPLE]


def names_any(snapshot: RecordSnapshot, wanted: frozenset[str]) -> bool:
    """Whether a record calls somebody by one of `wanted`, which are normal forms; two parts of a name count only together."""
    if any(note(each.id) in wanted for each in snapshot.notes):
        return True
    names = {form for form in wanted if form.startswith("word:")}
    for text in _texts(snapshot):
        forms = {form for _, form in _forms(text)}
        if any(form in wanted and not form.startswith("word:") for form in forms):
            return True
        if len(names) > 1 and names <= forms:
            return True
    return False


def without(object_: str, read: Read, gone: Callable[[Related], bool], marked: Marked | None) -> Read:
    """`read` without the records for which `gone` holds, and, given `marked`, without what it calls the erased by.

    The fields of another person keep their names and numbers, which are that person's: namesakes share the one, colleagues
    the other.
    """
    related = tuple(each for each in read.related if not gone(each))
    if marked is None:
        return read if len(related) == len(read.related) else replace(read, related=related)
    return replace(
        read,
        fields=_clean_fields(object_, read.fields, marked),
        notes=tuple(_clean(each, marked) for each in read.notes if not marked(note(each.id))),
        feedback={name: scrubbed(value, marked) for name, value in read.feedback.items()},
        related=tuple(
            each.model_copy(update={"fields": _clean_fields(each.object, each.fields, marked)}) for each in related
        ),
    )


def _clean_fields(object_: str, fields: Mapping[str, str], marked: Marked) -> dict[str, str]:
    only = (lambda form: form.startswith("mail:") and marked(form)) if object_ in PEOPLE else marked
    return {name: scrubbed(value, only) for name, value in fields.items()}


def scrubbed(text: str, marked: Marked) -> str:
    """`text` with ERASED in place of every value that is marked."""

    def put(match: re.Match[str]) -> str:
        form = _form(match)
        return ERASED if form and marked(form) else match.group()

    return _TOKEN.sub(put, text)


def _clean(each: Note, marked: Marked) -> Note:
    return each.model_copy(
        update={
            "text": scrubbed(each.text, marked),
            "subject": scrubbed(each.subject, marked) if each.subject else each.subject,
            "author": scrubbed(each.author, marked) if each.author else each.author,
        }
    )


def _forms(text: str) -> Iterator[tuple[re.Match[str], str]]:
    for match in _TOKEN.finditer(text):
        form = _form(match)
        if form:
            yield match, form


def _form(match: re.Match[str]) -> str:
    text = match.group()
    if match.lastgroup == "mail":
        return mail(text)
    if match.lastgroup == "phone":
        return phone(text)
    sure = len(text) >= _SURE_LETTERS or text[0].isupper()
    return word(text) if sure else ""


def _texts(snapshot: RecordSnapshot) -> Iterable[str]:
    yield from snapshot.fields.values()
    yield from snapshot.feedback.values()
    for each in snapshot.notes:
        yield each.text
        yield each.subject or ""
        yield each.author or ""
    for related in snapshot.related:
        yield from related.fields.values()
