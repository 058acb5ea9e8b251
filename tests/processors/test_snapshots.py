"""Snapshots: what is foreign, what differs, what fits."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors import snapshots
from processors.snapshots import SnapshotTooLargeError
from schemas.record import MAX_SNAPSHOT_BYTES, Note, RecordSnapshot, Related
from tests.processors.world import at, read, ref, snapshot

KEY = b"k" * 32


def note(number: int, text: str) -> Note:
    return Note(id=str(number), kind="note", at=at(number), text=text)


def size(made: RecordSnapshot) -> int:
    return len(made.model_dump_json())


@pytest.mark.parametrize(
    "name",
    [
        "hookline_score",
        "Hookline_Score__c",
        "lastmodifieddate",
        "LastModifiedDate",
        "last_synced_at__c",
        "Last_Synced_At__c",
        "SystemModstamp",
    ],
)
def test_our_own_and_volatile_fields_are_not_foreign(name):
    assert not snapshots.is_foreign(name, "hookline_")


@pytest.mark.parametrize("name", ["jobtitle", "Amount", "hooklines", "my_hookline_score"])
def test_everything_else_is(name):
    assert snapshots.is_foreign(name, "Hookline_")


@given(
    st.dictionaries(st.sampled_from("abcde"), st.text(max_size=3)),
    st.dictionaries(st.sampled_from("abcde"), st.text(max_size=3)),
)
def test_content_is_equal_exactly_where_fields_are(one, two):
    first, second = (snapshots.digest(KEY, read(0, **fields), "hookline_") for fields in (one, two))
    assert (first.whole == second.whole) == (one == two)
    difference = snapshots.compare(second, snapshots.compare(first, None, {}, at(0)).marks, {}, at(1))
    assert set(difference.changed) == {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}


def test_a_value_does_not_pass_for_another_fields_value():
    one, two = (snapshots.digest(KEY, read(0, **fields), "x_") for fields in ({"a": "1"}, {"b": "1"}))
    assert one.digests["a"] != two.digests["b"]


def test_notes_and_relations_count_whatever_their_order():
    notes = [note(1, "one"), note(2, "two")]
    related = (
        Related(object="company", id="5", fields={"name": "ACME", "hookline_score": "1"}),
        Related(object="contact", id="6"),
    )
    base = replace(read(0, notes=notes), related=related)
    turned = replace(base, notes=tuple(reversed(notes)), related=tuple(reversed(related)))
    ours = replace(
        base, related=(Related(object="company", id="5", fields={"name": "ACME", "hookline_score": "2"}), related[1])
    )
    edited = replace(base, notes=(note(1, "one"), note(2, "three")))
    renamed = replace(base, related=(Related(object="company", id="5", fields={"name": "ACME Inc"}), related[1]))
    whole = snapshots.digest(KEY, base, "hookline_").whole
    assert snapshots.digest(KEY, turned, "hookline_").whole == whole
    assert snapshots.digest(KEY, ours, "hookline_").whole == whole
    assert snapshots.digest(KEY, edited, "hookline_").whole != whole
    assert snapshots.digest(KEY, renamed, "hookline_").whole != whole


def test_a_field_that_is_named_notes_is_not_the_notes():
    of_field = snapshots.digest(KEY, replace(read(0), fields={"notes": "x"}), "h_")
    of_notes = snapshots.digest(KEY, read(0, notes=[note(1, "x")]), "h_")
    assert set(of_field.digests).isdisjoint(of_notes.digests)


def test_a_small_snapshot_is_left_as_it_is():
    made = snapshot(notes=(note(1, "hello"),))
    assert snapshots.fit(made) is made


def test_the_oldest_notes_go_first_and_are_named():
    made = snapshots.fit(snapshot(notes=tuple(note(number, "x" * 30_000) for number in range(12))))
    assert size(made) <= MAX_SNAPSHOT_BYTES
    kept = [each.id for each in made.notes]
    assert kept == [str(number) for number in range(12 - len(kept), 12)], "the newest stay"
    assert len(kept) >= 6
    assert made.omitted == tuple(f"note:{number}" for number in range(12 - len(kept)))


def test_one_enormous_note_loses_its_end_and_not_its_place():
    made = snapshots.fit(snapshot(notes=(note(1, "hello"), note(2, "x" * 400_000))))
    assert [each.id for each in made.notes] == ["1", "2"]
    assert made.omitted == ("note:2 (its end)",)


def test_the_largest_fields_go_last_and_are_named():
    made = snapshots.fit(
        snapshot(fields={"small": "1", "essay": "x" * 400_000}, since={"essay": at(-5), "small": at(-9)})
    )
    assert (made.fields, made.omitted) == ({"small": "1"}, ("essay",))
    assert set(made.since) == {"small"}
    assert size(made) <= MAX_SNAPSHOT_BYTES


def test_a_thousand_cut_notes_are_counted_rather_than_named():
    made = snapshots.fit(snapshot(notes=tuple(note(number, "x" * 1_000) for number in range(1_000))))
    assert size(made) <= MAX_SNAPSHOT_BYTES
    assert made.omitted[-1].startswith("and ")


@given(
    st.lists(st.text(max_size=400), max_size=30),
    st.dictionaries(st.text(min_size=1, max_size=9), st.text(max_size=900), max_size=8),
)
def test_whatever_comes_fits_or_is_refused_by_name(texts, fields):
    limit = 6_000
    made = snapshot(notes=tuple(note(number, text) for number, text in enumerate(texts)), fields=fields)
    cut = snapshots.fit(made, limit)
    assert size(cut) <= limit
    if size(made) <= limit:
        assert cut is made
    else:
        assert cut.omitted


def test_what_cannot_be_made_to_fit_is_refused():
    with pytest.raises(SnapshotTooLargeError):
        snapshots.fit(snapshot(known_fields=tuple(f"field_{number}" for number in range(40_000))))


def test_what_is_in_the_snapshot_is_what_was_compared_whether_or_not_it_fitted():
    state = read(0, essay="x" * 400_000)
    difference = snapshots.compare(snapshots.digest(KEY, state, "h_"), None, {}, at(0))
    made = snapshots.build(
        ref(),
        "hubspot",
        state,
        difference,
        own_prefix="h_",
        read_at=at(1) + timedelta(milliseconds=5),
        edited_by=None,
        reason="webhook",
    )
    assert made.fields == {}
    assert "essay" in difference.marks, "a change in what was left out is still a change"
