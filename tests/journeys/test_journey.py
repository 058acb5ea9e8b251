"""Whole journeys: from a save in a CRM over every topic to the insight on the record, and what is turned away on the way."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import pytest

from console.status import lags
from schemas.dead_letter import Cause
from schemas.delivery import Refusal
from schemas.topics import ALL, CHANGES, DELIVERIES, INSIGHTS, RECORDS
from tests.journeys.house import until

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

SOAP = Path(__file__).parents[1] / "data" / "salesforce" / "outbound_message_two_contacts.xml"
OTHER_ORG = "salesforce:012345678901234AAA"
QUIET_SECONDS = 3.0
NAMES = {
    "hubspot": {
        "firstname": "Ada",
        "lastname": "Lovelace",
        "email": "ada@engines.example",
        "jobtitle": "Head of Sales",
    },
    "salesforce": {
        "FirstName": "Ada",
        "LastName": "Lovelace",
        "Email": "ada@engines.example",
        "Title": "Head of Sales",
    },
}
DEALS = {
    "hubspot": {"dealname": "Analytical engine", "amount": "42000", "dealstage": "qualifiedtobuy"},
    "salesforce": {
        "Name": "Analytical engine",
        "Amount": 42000,
        "StageName": "Qualification",
        "CloseDate": "2027-03-31",
    },
}
QUOTE = "We must have single sign-on with SAML before the rollout."
MAILED = "The integration with SAP is mandatory for us."


def trace_of(headers) -> str:
    """The trace id of W3C's `traceparent` among a message's headers."""
    return dict(headers)["traceparent"].decode().split("-")[1]


@pytest.mark.parametrize("crm", ["hubspot", "salesforce"])
async def test_one_trace_id_from_the_request_to_the_write(both, crm):
    """INVARIANT: whoever looks for a delivery finds all that came of it. If it breaks, nobody can say where a message is."""
    made = both.controls.create_record(both.account(crm), "contact", NAMES[crm])
    await until("the insight is on the record", both.settled)
    topics = {
        topic.name: {trace_of(raw.headers) for raw in await both.raw(topic)}
        for topic in (DELIVERIES, RECORDS, INSIGHTS)
    }
    (trace,) = topics["crm.records"]
    assert topics["crm.insights"] == {trace}
    assert trace in topics["crm.deliveries"]
    (change,) = [raw for raw in await both.raw(CHANGES) if trace_of(raw.headers) == trace]
    assert (change.key or b"").endswith(f"/contact/{made['id']}".encode())

    steps = ["delivery.receive", "delivery.translate", "hydrate", "analyse", f"write {crm}", "write postgres"]

    def exported() -> bool:
        return {span.name for span in both.house.collector.of_trace(trace)} >= set(steps)

    await until(f"spans of all steps: {steps}", exported, 10)
    spans = both.house.collector.of_trace(trace)
    known = {span.span_id for span in spans}
    (root,) = [span for span in spans if not span.parent_span_id]
    assert root.name == "delivery.receive"
    assert all(span.parent_span_id in known for span in spans if span is not root), "a step hangs on a span of no one"
    written = [span for span in spans if span.name == f"write {crm}"]
    outcomes = {a.value.string_value for span in written for a in span.attributes if a.key == "hookline.outcome"}
    assert "written" in outcomes


@pytest.mark.parametrize("crm", ["hubspot", "salesforce"])
async def test_a_note_on_a_deal_becomes_a_requirement_in_the_customers_words(both, crm):
    account = both.account(crm)
    deal = both.controls.create_record(account, "deal", DEALS[crm])["id"]
    both.controls.note(account, deal, f"Talked to Ada. {QUOTE} She was in a hurry.")
    both.controls.note(account, deal, f"Hello,\n{MAILED}\nBest regards, Ada", kind="email", subject="Our wishes")

    def on_the_record() -> bool:
        said = both.insight(crm, "deal", deal).get("requirements", "")
        return QUOTE in said and MAILED in said

    await until("both quotes are on the record", on_the_record)
    await until("all is settled", both.settled)
    (newest,) = [m.payload for m in (await both.messages(INSIGHTS))[-9:] if m.payload.analysis == "requirements"][-1:]
    cited = {item.quote: item.source.partition(":")[0] for item in newest.payload.items}
    assert {QUOTE, MAILED} <= set(cited)
    assert cited[MAILED] == "email"


async def test_our_own_write_back_starts_no_second_round(both):
    """INVARIANT: our writes come back as webhooks and cause nothing. If it breaks, every insight costs another, for ever."""
    for crm in ("hubspot", "salesforce"):
        both.controls.create_record(both.account(crm), "contact", NAMES[crm])
    await until("the insights are on the records", both.settled)
    echoes = len(await both.raw(DELIVERIES))
    assert echoes > 2, "the sandbox must send our own writes back, or this shows nothing"
    before = await both.stand()
    assert before[0] == 2, "one snapshot a record"
    began = time.monotonic()
    while time.monotonic() - began < QUIET_SECONDS:
        await asyncio.sleep(0.5)
        assert await both.stand() == before
    assert both.reconciled().duplicate_effects == []
    assert await both.dead_letters() == []


async def test_status_sees_every_role_and_nothing_waiting(hubspot):
    hubspot.controls.create_record(hubspot.portal, "contact", NAMES["hubspot"])
    await until("the insight is on the record", hubspot.settled)

    async def caught_up() -> bool:
        return all((lag.members, lag.messages) == (1, 0) for lag in await lags(hubspot.house.settings))

    await until("each group has a member and no lag", caught_up)


async def test_a_forged_delivery_is_refused_by_name_and_leaves_nothing(hubspot):
    made = hubspot.controls.create_record(hubspot.portal, "contact", NAMES["hubspot"])["id"]
    await until("the record's own story is over", hubspot.settled)
    before = len(await hubspot.raw(DELIVERIES))
    assert await hubspot.deliver(hubspot.event(made), secret="somebody else's") == 401
    assert await hubspot.post("hubspot", b"[]") == 401

    async def listed() -> bool:
        return set(await hubspot.refusals()) == {Refusal.VERIFICATION_FAILED, Refusal.SIGNATURE_MISSING}

    await until("the admin can read why", listed)
    assert len(await hubspot.raw(DELIVERIES)) == before


async def test_what_cannot_be_done_is_a_dead_letter_with_its_cause(both):
    """A foreign portal, a foreign org, a record that is gone: the good events beside them still go through."""
    gone = both.controls.create_record(both.portal, "contact", NAMES["hubspot"])["id"]
    both.controls.delete(both.portal, "contact", gone)
    await until("the deletion is through", lambda: both.controls.state()["idle"])
    good = both.controls.create_record(both.portal, "contact", NAMES["hubspot"])["id"]
    old = int(time.time() * 1000) - 3_600_000
    assert (
        await both.deliver(both.event(good, portalId=62515, eventId=1), both.event("999999999", occurredAt=old)) == 202
    )
    assert await both.post("salesforce", SOAP.read_bytes(), {"content-type": "text/xml"}) == 200

    async def laid_aside() -> bool:
        return len(await both.dead_letters()) >= 3

    await until("all are dead letters", laid_aside)
    letters = {(letter.cause, letter.account) for letter in await both.dead_letters()}
    assert letters == {
        (Cause.FOREIGN_ACCOUNT, "hubspot:62515"),
        (Cause.FOREIGN_ACCOUNT, OTHER_ORG),
        (Cause.RECORD_GONE, both.portal),
    }
    await until("the good record has its insight", both.settled)
    assert both.insight("hubspot", "contact", good)["as_of"]


async def test_no_secret_and_no_customers_word_leaks(both):
    """INVARIANT: logs, Kafka's keys and headers are read by people who may not see customers' data; values lie there sealed."""
    marks = {name: f"Zq{name}xW" for name in ("first", "last", "domain", "title", "deal", "note", "mail", "subject")}
    places = {
        "hubspot": {"firstname": marks["first"], "lastname": marks["last"], "email": f"a@{marks['domain']}.example", "jobtitle": marks["title"]},
        "salesforce": {"FirstName": marks["first"], "LastName": marks["last"], "Email": f"a@{marks['domain']}.example", "Title": marks["title"]},
    }  # fmt: skip
    for crm in ("hubspot", "salesforce"):
        account = both.account(crm)
        both.controls.create_record(account, "contact", places[crm])
        name = "dealname" if crm == "hubspot" else "Name"
        deal = both.controls.create_record(account, "deal", {**DEALS[crm], name: marks["deal"]})["id"]
        both.controls.note(account, deal, f"They must have {marks['note']} by May.")
        both.controls.note(account, deal, f"We need {marks['mail']}.", kind="email", subject=marks["subject"])
    # Trouble writes the most into logs: a forged request, garbage that is signed, a CRM that fails.
    await both.deliver(both.event("1", propertyValue=marks["title"]), secret="wrong")
    await both.deliver({"portalId": marks["first"], "objectId": marks["last"], "subscriptionType": marks["title"]})
    await both.post("salesforce", f"<not-soap>{marks['note']}</not-soap>".encode(), {"content-type": "text/xml"})
    both.controls.plant_fault(both.portal, "objects.batch_update", "207", 1)
    both.controls.plant_fault(both.portal, "objects.batch_read", "500", 1)

    async def through() -> bool:
        await both.hurry()
        return both.settled() and len(await both.dead_letters()) >= 2

    await until("everything is delivered", through)
    assert marks["mail"] in str([m.payload.payload for m in await both.messages(INSIGHTS)]), (
        "the markers must have been there to leak"
    )

    forbidden = [*marks.values(), *both.house.secrets]
    log = both.house.log()
    assert len(log.splitlines()) > 20, "a run logs something, or this shows nothing"
    assert [each for each in forbidden if each in log] == []
    spans = "".join(str(span) for span in both.house.collector.spans)
    assert [each for each in forbidden if each in spans] == []
    for topic in ALL:
        for raw in await both.raw(topic):
            clear = (raw.key or b"") + b"".join(name.encode() + value for name, value in raw.headers)
            found = [each for each in forbidden if each.encode() in clear + (raw.value or b"")]
            assert found == [], topic.name
            assert re.search(rb"@|Lovelace", clear) is None
