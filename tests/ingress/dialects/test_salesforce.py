"""Salesforce's outbound messages in our words, from published ones and from bad ones."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress.dialects.salesforce import long_id, translate
from ingress.sources.source import Event, Ignored, Untranslatable
from schemas.dead_letter import Cause
from tests.ingress.fakes import NOW, delivery, endpoint

DATA = Path(__file__).parents[2] / "data" / "salesforce"
ORG = "00D1I000003qqqE"


def read(body: bytes):
    return list(translate(delivery(body, "salesforce"), endpoint("salesforce")))


def sample(name: str):
    return read((DATA / f"outbound_message_{name}.xml").read_bytes())


def message(*notifications: str, org: str = ORG) -> bytes:
    return (
        '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        f'<soapenv:Body><notifications xmlns="http://soap.sforce.com/2005/09/outbound"><OrganizationId>{org}</OrganizationId>'
        f"{''.join(notifications)}</notifications></soapenv:Body></soapenv:Envelope>"
    ).encode()


def notification(kind: str = "Lead", identity: str = "04l1I000000fztEQAQ", **fields: str) -> str:
    given = {"Id": "00Q1I0000081tbPQAQ", **fields}
    inner = "".join(f"<sf:{name}>{value}</sf:{name}>" for name, value in given.items())
    return (
        f"<Notification><Id>{identity}</Id>"
        f'<sObject xsi:type="sf:{kind}" xmlns:sf="urn:sobject.enterprise.soap.sforce.com">{inner}</sObject></Notification>'
    )


def said(found):
    return [(one.object, one.id, one.kind) for one in found]


def test_the_published_message_with_two_contacts():
    found = sample("two_contacts")
    assert said(found) == [("contact", "0031I0000081tbPQAQ", "updated"), ("contact", "0031I0000081tb0QAA", "updated")]
    assert {one.account for one in found} == {"salesforce:012345678901234AAA"}
    assert len({one.key for one in found}) == 2
    assert found[0].properties == ()


def test_a_byte_order_mark_is_no_harm_and_an_empty_message_is_counted():
    assert (DATA / "outbound_message_empty.xml").read_bytes().startswith(b"\xef\xbb\xbf")
    assert sample("empty") == [Ignored("empty")]


def test_objects_that_nothing_reads_are_for_the_admin_who_chose_them():
    found = sample("wrong_org")
    assert {(one.cause, one.account) for one in found} == {(Cause.UNSUPPORTED_EVENT, "salesforce:0123456789ABCDENNN")}
    assert [one.position for one in found] == [0, 1, 2]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("Contact", "contact"),
        ("Account", "company"),
        ("Opportunity", "deal"),
        ("Lead", "lead"),
        ("Case", "ticket"),
        ("Task", "note"),
        ("ContentNote", "note"),
        ("EmailMessage", "email"),
    ],
)
def test_objects_are_ours(kind, name):
    (found,) = read(message(notification(kind)))
    assert (found.object, found.id) == (name, "00Q1I0000081tbPQAQ")


@pytest.mark.parametrize(
    ("short", "long"),
    [
        # Pairs as Salesforce publishes them in its documentation and samples.
        ("0031I0000081tbP", "0031I0000081tbPQAQ"),
        ("04k1I000000bmsH", "04k1I000000bmsHQAQ"),
        ("04l1I000000fzt9", "04l1I000000fzt9QAA"),
        ("001A0000006Vm9r", "001A0000006Vm9rIAC"),
    ],
)
def test_short_ids_become_long_ones(short, long):
    assert long_id(short) == long
    assert long_id(long) == long


@given(st.text(string.ascii_letters + string.digits, min_size=15, max_size=15))
def test_long_ids_differ_even_where_case_is_ignored(short):
    other = short.swapcase()
    assert long_id(short)[:15] == short
    if other != short:
        assert long_id(short).lower() != long_id(other).lower()


@pytest.mark.parametrize(
    "bad", ["", "1", "0031I0000081tb", "0031I0000081tbPQ", "0031I0000081tbPQAQX", "0031I0000081t/P", "0031I0000081tbé"]
)
def test_what_is_no_id_is_none(bad):
    with pytest.raises(ValueError):
        long_id(bad)


def test_what_became_of_the_record_is_read_from_its_fields():
    same = {"CreatedDate": "2026-01-01T00:00:00.000Z", "LastModifiedDate": "2026-01-01T00:00:00.000Z"}
    assert read(message(notification(**same)))[0].kind == "created"
    later = {**same, "LastModifiedDate": "2026-01-02T00:00:00.000Z", "LastModifiedById": "0051I000000bmsH"}
    (found,) = read(message(notification(**later)))
    assert (found.kind, found.occurred_at.day, found.edited_by) == ("updated", 2, long_id("0051I000000bmsH"))
    assert read(message(notification(**later, IsDeleted="true")))[0].kind == "deleted"
    assert read(message(notification()))[0].occurred_at == NOW


def test_a_task_changes_the_records_it_hangs_on():
    found = read(message(notification("Task", Id="00T1I0000081tbP", WhatId="0061I0000081tbP", WhoId="0031I0000081tbP")))
    assert {(one.object, one.kind) for one in found} == {("deal", "associated"), ("contact", "associated")}
    assert len({one.key for one in found}) == 1


def test_a_task_that_names_no_parent_is_looked_up_later():
    assert said(read(message(notification("Task", WhatId="a011I0000081tbP")))) == [
        ("note", "00Q1I0000081tbPQAQ", "updated")
    ]


BAD = {
    "no id": notification().replace("<Id>04l1I000000fztEQAQ</Id>", ""),
    "no sObject": "<Notification><Id>04l1I000000fztEQAQ</Id></Notification>",
    "no type": notification().replace('xsi:type="sf:Lead"', ""),
    "record id of another shape": notification(Id="1"),
    "time that is none": notification(LastModifiedDate="yesterday"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_one_bad_notification_is_laid_aside_alone(bad):
    found = read(message(notification(Id="00Q000000000001"), bad, notification(Id="00Q000000000002")))
    assert [(one.cause, one.position) for one in found if isinstance(one, Untranslatable)] == [
        (Cause.MALFORMED_BODY, 1)
    ]
    assert [one.id[:15] for one in found if isinstance(one, Event)] == ["00Q000000000001", "00Q000000000002"]


ENTITIES = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
BOMBS = {
    "billion laughs": f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "lol">{ENTITIES}]><x>&l9;</x>'.encode(),
    "quadratic blow-up": b'<!DOCTYPE x [<!ENTITY a "' + b"a" * 50_000 + b'">]><x>' + b"&a;" * 10_000 + b"</x>",
    "a file": b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><x>&f;</x>',
    "an address": b'<!DOCTYPE x [<!ENTITY f SYSTEM "http://127.0.0.1:1/">]><x>&f;</x>',
    "a foreign document type": b'<!DOCTYPE x SYSTEM "http://127.0.0.1:1/x.dtd"><x/>',
    "a parameter entity": b'<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]><x/>',
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_entities_are_never_expanded_or_fetched(bomb):
    (found,) = read(bomb)
    assert found.cause is Cause.MALFORMED_BODY
    assert "document type" in found.detail


@pytest.mark.parametrize("body", [
    b"", b"<", b"not xml", b"<a>", b"\xff\xfe\x00", b"<a></b>", b"<a>" * 100_000, b'<?xml version="1.0" encoding="klingon"?><a/>',
    message(notification())[:-40], b"<a>" * 20_000 + b"</a>" * 20_000, message().replace(b"notifications", b"other"), b"<html/>",
    message(notification(), org="1"), message(notification(), org=""),
])  # fmt: skip
def test_what_is_no_outbound_message_is_one_dead_letter(body):
    (found,) = read(body)
    assert (found.cause, found.position) == (Cause.MALFORMED_BODY, None)
