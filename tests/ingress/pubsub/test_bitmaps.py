"""Bitmaps against what the vendor's guide says of them, and against the sandbox, which writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local.sandbox.catalogue_salesforce import standard_fields
from infra.local.sandbox.change_schemas import EventSchema
from ingress.pubsub.avro import Schema
from ingress.pubsub.bitmaps import names
from tests.ingress.pubsub.events import FIELDS, SCHEMA

PARSED = Schema(SCHEMA)


def test_bit_i_from_the_right_is_field_i():
    assert names(["0x1"], PARSED) == ["ChangeEventHeader"]
    assert names(["0x4"], PARSED) == ["Title"]
    assert names(["0x84"], PARSED) == ["Title", "Hookline_Score__c"]
    assert names(["0x000000000084"], PARSED) == ["Title", "Hookline_Score__c"]


def test_a_number_before_it_means_inside_that_field():
    assert names(["1-0x6"], PARSED) == ["FirstName", "LastName"]
    assert names(["3-0x2", "4-0x2"], PARSED) == ["MailingCity", "OtherCity"]


@given(st.sets(st.integers(0, len(FIELDS) - 1)))
def test_every_set_of_fields_is_found_again(places):
    found = names([hex(sum(1 << place for place in places))], PARSED)
    assert found == [FIELDS[place] for place in sorted(places)]


@pytest.mark.parametrize(
    "text", ["", "6", "0x", "x6", "-0x6", "1-6", "1-0x8", "2-0x1", "0x800", "1--0x6", "0x6\n", "٣-0x1"]
)
def test_what_is_no_bitmap_of_the_schema_is_refused(text):
    with pytest.raises(ValueError, match="bitmap"):
        names([text], PARSED)


@pytest.mark.parametrize("entity", ["Lead", "Contact", "Account", "Opportunity"])
@given(data=st.data())
def test_what_the_sandbox_writes_is_read_as_the_same_fields(entity, data):
    fields = standard_fields()[entity]
    written = EventSchema(entity, fields)
    chosen = data.draw(st.sets(st.sampled_from(sorted(set(fields) - {"Id", "Name"}))))
    assert set(names(written.bitmaps(chosen), Schema(written.text))) == chosen
