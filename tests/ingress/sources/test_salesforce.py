"""Outbound messages at the door: no signature, and an answer that Salesforce understands."""

from __future__ import annotations

from pathlib import Path

import pytest
from defusedxml.ElementTree import fromstring

from ingress import answers
from ingress.sources.salesforce import PLUGIN
from schemas.delivery import Refusal
from tests.ingress.fakes import endpoint
from tests.ingress.signers import refusal_of, request

DATA = Path(__file__).parents[2] / "data" / "salesforce"


def test_the_acknowledgement_is_the_published_one_to_the_byte():
    status, headers, body = PLUGIN.accepted()
    assert status == 200
    assert dict(headers)[b"content-type"].startswith(b"text/xml")
    assert body == (DATA / "outbound_message_ack_response.xml").read_bytes()


@pytest.mark.parametrize("refusal", [each for each in Refusal if each is not Refusal.REPLAYED])  # that one is accepted
def test_a_refusal_is_the_published_fault_with_the_cause_in_it(refusal):
    """INVARIANT: a refusal is never an Ack. If this fails, Salesforce forgets a message that we do not have."""
    status, headers, body = PLUGIN.refused(refusal, answers.STATUS[refusal])
    published = (DATA / "outbound_message_fault_response.xml").read_text("utf-8-sig").replace("{0}", refusal.value)
    side = "Server" if answers.STATUS[refusal] >= 500 else "Client"
    assert body.decode() == published.replace("soapenv:Client", f"soapenv:{side}")
    assert status in {500, 503}
    assert dict(headers)[b"content-type"].startswith(b"text/xml")
    assert fromstring(body).find(".//{http://soap.sforce.com/2005/09/outbound}Ack") is None


def test_whoever_knows_the_address_may_send():
    assert PLUGIN.id_is_secret
    assert refusal_of(PLUGIN, request(b"<x/>", {})) is None


def test_an_address_that_could_be_guessed_is_none():
    assert refusal_of(PLUGIN, request(b"<x/>", {}), endpoint("salesforce", id="acme")) is Refusal.ENDPOINT_DISABLED
