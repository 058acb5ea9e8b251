"""The journal as ground truth: what it holds, and what reconciling it finds."""

import threading

import httpx
import orjson
import pytest

from infra.local.sandbox.journal import Journal, JournalWriter
from infra.local.sandbox.journal_lines import InsightWrite, Save
from infra.local.sandbox.reconciliation import Reconciliation, reconcile

NOW = 1_795_387_410_000


def iso(ms):
    from infra.local.sandbox.identifiers import iso as written

    return written(ms)


class Story:
    """Saves and writes of one or more records, told in order."""

    def __init__(self):
        self.saves, self.writes, self.number = [], [], 0

    def save(self, at, record="1", by="person", cause="edit", properties=None, kind="contact", modified=None):
        self.number += 1
        changed = {"city": str(at)} if properties is None else properties
        self.saves.append(
            Save(self.number, "hubspot:33", kind, record, NOW + at, NOW + (modified or at), by, cause, changed)
        )
        return self

    def write(self, at, as_of, record="1", changed=("hookline_as_of",), kind="contact", **values):
        self.number += 1
        shown = {"hookline_as_of": iso(NOW + as_of), **values}
        self.writes.append(InsightWrite(self.number, "hubspot:33", kind, record, NOW + at, shown, tuple(changed)))
        return self

    def end(self) -> Reconciliation:
        return reconcile(self.saves, self.writes)


def test_a_record_with_an_insight_as_new_as_its_last_save_is_settled_and_each_save_measured():
    found = Story().save(0).save(100).write(300, 100).end()
    assert found.unsettled == []
    assert found.latencies_ms == [200, 300]


def test_an_insight_older_than_the_last_save_leaves_the_record_unsettled():
    """INVARIANT: a lost change is found. Without it a pipeline that drops messages would look whole."""
    found = Story().save(0).write(50, 0).save(100).write(200, 99).end()
    (outcome,) = found.unsettled
    assert (outcome.id, outcome.wanted, outcome.as_of) == ("1", NOW + 100, NOW + 99)
    assert found.latencies_ms == [50]


def test_a_record_without_any_insight_is_unsettled():
    assert [outcome.id for outcome in Story().save(0).save(5, "2").write(9, 5, "2").end().unsettled] == ["1"]


@pytest.mark.parametrize(
    "line",
    [
        {"by": "hookline"},
        {"properties": {}},
        {"properties": {"hookline_score": "1"}},
        {"properties": {"Hookline_Score__c": 1}},
        {"properties": {"last_synced_at": "x", "external_sync_hash": "y", "marketing_touch_count": "3"}},
        {"properties": {"Last_Synced_At__c": "x"}},
        {"cause": "delete", "properties": {}},
        {"cause": "restore", "properties": {}},
        {"kind": "note"},
    ],
)
def test_saves_that_ask_for_no_insight_do_not_count(line):
    assert Story().save(0, **line).end().outcomes == {}


@pytest.mark.parametrize(
    "line", [{"by": "Contact Sync"}, {"cause": "create"}, {"cause": "merge"}, {"properties": {"city": None}}]
)
def test_other_integrations_creations_merges_and_emptied_fields_count(line):
    assert len(Story().save(0, **line).end().unsettled) == 1


def test_a_note_counts_as_a_save_of_its_deal_although_only_counters_changed():
    found = Story().save(0, kind="deal", cause="note", properties={"num_notes": "3"}).end()
    assert len(found.unsettled) == 1


def test_a_record_that_is_gone_is_owed_nothing_until_it_is_restored():
    gone = Story().save(0).save(5, cause="delete", properties={})
    assert gone.end().unsettled == []
    assert gone.end().summary()["gone"] == 1
    assert len(gone.save(9, cause="restore", properties={}).end().unsettled) == 1


def test_a_write_that_changes_nothing_is_a_duplicate_effect():
    """INVARIANT: the same insight written twice is found. Without it "effects happen once" would be untested."""
    found = Story().save(0).write(10, 0).write(20, 0, changed=()).end()
    assert [write.at for write in found.duplicate_effects] == [NOW + 20]


def test_an_as_of_or_version_that_goes_down_is_found():
    """INVARIANT: a late message that overwrites a newer insight is found."""
    story = (
        Story()
        .write(1, 10, hookline_version="0.9.1")
        .write(2, 5, hookline_version="0.10.1")
        .write(3, 11, hookline_version="0.9.2")
    )
    found = [(item.property, item.before, item.after) for item in story.end().backwards]
    assert found == [("hookline_as_of", iso(NOW + 10), iso(NOW + 5)), ("hookline_version", "0.10.1", "0.9.2")]


def test_salesforces_spelling_is_read_too():
    story = Story().save(0)
    story.number += 1
    values = {"Hookline_As_Of__c": "2026-11-22T22:43:30.000+0000"}
    story.writes.append(
        InsightWrite(story.number, "hubspot:33", "contact", "1", NOW + 70, values, ("Hookline_As_Of__c",))
    )
    assert story.end().latencies_ms == [70]


def test_percentiles_are_by_nearest_rank():
    found = Reconciliation(latencies_ms=list(range(1, 101)))
    assert (found.p50_ms, found.p95_ms, found.percentile(1)) == (50, 95, 100)
    assert Reconciliation(latencies_ms=[7]).p95_ms == 7
    assert Reconciliation().p50_ms is None


# -------------------------------------------------------------------- in the running sandbox


def test_a_save_is_in_the_file_before_its_webhook_is_sent(sandbox, controls, receiver, portal):
    """INVARIANT: the journal is written first. Without it a crash could send what the ground truth does not know."""
    seen = []
    answered = threading.Event()
    receiver.gate.clear()
    contact = controls.records(portal, "contact")[0]
    controls.save(portal, "contact", contact, {"city": "Turku"})
    receiver.take()
    seen.extend(Journal(sandbox.data).saves())
    answered.set()
    receiver.gate.set()
    assert [(save.id, save.properties) for save in seen] == [(contact, {"city": "Turku"})]


def settle(hubspot, controls, portal, kind, record):
    """What the product does: read the record, write an insight as of its last-modified time."""
    api = hubspot.crm.objects.batch_api
    found = api.read(
        kind, {"inputs": [{"id": record}], "properties": ["hs_object_id"], "propertiesWithHistory": []}
    ).results[0]
    name = "lastmodifieddate" if kind == "contacts" else "hs_lastmodifieddate"
    values = {"hookline_score": "80", "hookline_as_of": found.properties[name]}
    api.update(kind, {"inputs": [{"id": record, "properties": values}]})
    return values


@pytest.fixture
def properties(controls, portal):
    rows = [
        {"name": "hookline_score", "label": "Score", "type": "number", "fieldType": "number", "groupName": "hookline"},
        {"name": "hookline_as_of", "label": "As of", "type": "datetime", "fieldType": "date", "groupName": "hookline"},
    ]
    for kind in ("contact", "deal"):
        assert controls.create_properties(portal, kind, rows)["created"] == ["hookline_score", "hookline_as_of"]


def summary(sandbox):
    return httpx.get(f"{sandbox.base}/sandbox/journal/summary").json()


@pytest.mark.usefixtures("properties")
def test_saves_and_insights_through_the_api_reconcile(sandbox, controls, hubspot, portal):
    contact, deal = controls.records(portal, "contact")[0], controls.records(portal, "deal")[0]
    controls.save(portal, "contact", contact, {"city": "Turku"})
    controls.note(portal, deal, "They must have single sign-on.")
    assert summary(sandbox)["unsettled"] == 2
    settle(hubspot, controls, portal, "contacts", contact)
    settle(hubspot, controls, portal, "deals", deal)
    found = summary(sandbox)
    assert (found["settled"], found["unsettled"], found["measured"], found["duplicate_effects"]) == (2, 0, 2, 0)
    controls.save(portal, "contact", contact, {"city": "Oulu"})
    assert [row["id"] for row in summary(sandbox)["unsettled_records"]] == [contact]


@pytest.mark.usefixtures("properties")
def test_our_own_write_is_no_save_and_writing_it_twice_is_found(sandbox, controls, hubspot, portal):
    contact = controls.records(portal, "contact")[0]
    values = settle(hubspot, controls, portal, "contacts", contact)
    hubspot.crm.objects.batch_api.update("contacts", {"inputs": [{"id": contact, "properties": values}]})
    journal = Journal(sandbox.data)
    assert summary(sandbox)["duplicate_effects"] == 1
    assert journal.saves() == []
    first, second = journal.insight_writes()
    assert first.changed == ("hookline_score", "hookline_as_of")
    assert (second.changed, second.by) == ((), "hookline")


def test_a_salesforce_write_of_a_custom_field_is_an_insight_write(sandbox, controls, salesforce, org):
    metadata = {"label": "As of", "type": "DateTime"}
    controls.create_properties(org, "lead", [{"FullName": "Lead.Hookline_As_Of__c", "Metadata": metadata}])
    lead = controls.records(org, "lead")[0]
    controls.save(org, "lead", lead, {"City": "Turku"})
    salesforce.Lead.update(lead, {"Hookline_As_Of__c": salesforce.Lead.get(lead)["LastModifiedDate"]})
    found = summary(sandbox)
    assert (found["settled"], found["insight_writes"]) == (1, 1)


def test_another_integrations_write_through_the_api_counts(sandbox, controls, hubspot, portal):
    controls.add_token(portal, "token-of-another", "Contact Sync")
    hubspot.access_token = "token-of-another"
    contact = controls.records(portal, "contact")[0]
    hubspot.crm.contacts.basic_api.update(contact, {"properties": {"city": "Turku"}})
    hubspot.crm.contacts.basic_api.update(contact, {"properties": {"external_sync_hash": "x"}})
    found = summary(sandbox)
    assert (found["saves"], found["unsettled"]) == (1, 1)
    assert {save.by for save in Journal(sandbox.data).saves()} == {"Contact Sync"}


def test_a_half_written_last_line_is_left_out(tmp_path):
    writer = JournalWriter(tmp_path)
    writer.write("given_up", {"events": 1})
    writer.close()
    with writer.path.open("ab") as file:
        file.write(b'{"kind":"sa')
    assert [line["kind"] for line in Journal(tmp_path).lines()] == ["given_up"]


def test_a_run_begins_with_an_empty_journal_and_keeps_the_earlier_one(tmp_path):
    first = JournalWriter(tmp_path)
    first.write("given_up", {"events": 1})
    first.close()
    JournalWriter(tmp_path).close()
    (kept,) = tmp_path.glob("journal.*.jsonl")
    assert orjson.loads(kept.read_bytes())["kind"] == "given_up"
    assert list(Journal(tmp_path).lines()) == []


def test_a_missing_journal_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="start the sandbox"):
        Journal(tmp_path / "nothing.jsonl").saves()
