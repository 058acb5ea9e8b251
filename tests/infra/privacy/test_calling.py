"""What a person is called, found in texts and taken out of them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.crm.client import Read
from infra.privacy.calling import ERASED, addresses, mail, names_any, note, phone, scrubbed, values_of, without
from schemas.record import Note, RecordSnapshot, Related

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
FIELDS = {
    "firstname": "Zoë Maria",
    "lastname": "O’Neil-Berg",
    "email": "Zoe@Berg.example",
    "phone": "+49 (0)30 1234-5678",
}
CONCEPTS = {"first_name": "firstname", "last_name": "lastname", "email": "email", "phone": "phone"}


def person(**more: object) -> RecordSnapshot:
    given_fields = {
        "tenant": "t", "account": "hubspot:1", "object": "contact", "id": "1", "crm": "hubspot", "fields": FIELDS,
        "concepts": CONCEPTS, "modified_at": NOON, "read_at": NOON, "notes": (Note(id="7", kind="note", at=NOON, text="hello"),),
        **more,
    }  # fmt: skip
    return RecordSnapshot.model_validate(given_fields)


def read(text: str = "", **more: object) -> Read:
    notes = (Note(id="8", kind="email", at=NOON, text=text, subject=text, author=text),)
    return Read(**{"modified_at": NOON, "notes": notes, **more})  # type: ignore[arg-type]


MARKED = frozenset(values_of(person()))


def test_a_person_is_called_by_names_addresses_numbers_and_what_was_logged() -> None:
    assert {
        "word:zoë", "word:maria", "word:o'neil", "word:berg", mail("zoe@berg.example"), "phone:12345678", note("7"),
    } == MARKED  # fmt: skip
    assert values_of(person(object="deal")) == []
    assert values_of(person(deleted=True)) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Zoë asked", f"{ERASED} asked"),
        ("ask Ms O'Neil-Berg", f"ask Ms {ERASED}-{ERASED}"),
        ("write to <ZOE@berg.example>!", f"write to <{ERASED}>!"),
        ("call 030 12345678 or 0049-30-1234 5678", f"call {ERASED} or {ERASED}"),
        ("maria came", f"{ERASED} came"),
        ("an ice berg", "an ice berg"),
        ("Bergamo, 12345678901 and zoe@bergen.example", "Bergamo, 12345678901 and zoe@bergen.example"),
        ("on 2026-11-23 10:00 for 48000", "on 2026-11-23 10:00 for 48000"),
    ],
)
def test_a_text_loses_what_calls_the_person_and_nothing_else(before: str, after: str) -> None:
    assert scrubbed(before, MARKED.__contains__) == after


@given(
    st.text(max_size=80), st.sampled_from(["Zoë", "Maria", "zoe@berg.example", "+49 30 12345678"]), st.text(max_size=80)
)
def test_wherever_a_value_stands_by_itself_it_is_found(before: str, value: str, after: str) -> None:
    assert value not in scrubbed(f"{before}\n\n{value}\n\n{after}", MARKED.__contains__).split("\n\n")


@given(st.text(max_size=300))
def test_without_anybody_erased_a_text_stays_as_it_is(text: str) -> None:
    assert scrubbed(text, lambda _: False) == text


def test_relations_notes_and_fields_go_and_another_person_keeps_name_and_number() -> None:
    related = (
        Related(object="contact", id="1", fields=FIELDS),
        Related(object="contact", id="2", fields={"firstname": "Maria", "email": "maria@berg.example"}),
        Related(object="company", id="3", fields={"name": "Zoë & Sons"}),
    )
    given_read = read("Zoë said yes", fields={"dealname": "Maria: renewal"}, related=related)
    found = without("deal", given_read, lambda each: each.id == "1", MARKED.__contains__)
    assert [each.id for each in found.related] == ["2", "3"]
    assert found.related[0].fields["firstname"] == "Maria"
    assert found.related[1].fields["name"] == f"{ERASED} & Sons"
    assert found.fields == {"dealname": f"{ERASED}: renewal"}
    assert (found.notes[0].text, found.notes[0].subject, found.notes[0].author) == (f"{ERASED} said yes",) * 3
    assert without("contact", given_read, lambda _: False, MARKED.__contains__).fields == {"dealname": "Maria: renewal"}
    # What was logged with the person goes with it, whoever else it was logged with.
    logged = read(notes=(Note(id="7", kind="note", at=NOON, text="hello"),))
    assert without("deal", logged, lambda _: False, MARKED.__contains__).notes == ()
    assert without("deal", logged, lambda _: False, None) is logged


def test_addresses_are_found_in_every_text_and_are_bounded() -> None:
    snapshot = person(
        fields={"a": "x@a.example, Y@b.example"}, related=(Related(object="deal", id="1", fields={"b": "z@c.example"}),)
    )
    assert addresses(snapshot) == [mail("x@a.example"), mail("y@b.example"), mail("z@c.example")]
    assert len(addresses(person(fields={"a": " ".join(f"n{n}@a.example" for n in range(999))}))) == 200


def test_one_half_of_a_name_names_nobody() -> None:
    wanted = frozenset({"word:zoë", "word:berg", mail("zoe@berg.example")})
    assert names_any(person(fields={"a": "Zoë and Mr Berg"}, notes=()), wanted)
    assert names_any(person(fields={"a": "zoe@berg.example"}, notes=()), wanted)
    assert not names_any(person(fields={"a": "Zoë Smith"}, notes=()), wanted)
    assert phone("12-34") == ""
