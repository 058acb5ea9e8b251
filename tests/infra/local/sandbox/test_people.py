"""The people who edit records, and the records that an account starts with."""

import re
from itertools import count, pairwise

import pytest

from infra.local.sandbox import texts
from infra.local.sandbox.journal import Journal, JournalWriter
from infra.local.sandbox.limits import Limits
from infra.local.sandbox.people import Mix, People
from infra.local.sandbox.reconciliation import is_ours
from infra.local.sandbox.seeding import seed_hubspot, seed_salesforce
from infra.local.sandbox.state import Account, World


def crowd(folder, seed=1):
    world = World(folder, seed)
    # What is drawn may depend on the time: a clock of its own makes a story repeatable.
    ticks = count(1_795_387_410_000, 7)
    world.clock = lambda: next(ticks)
    hubspot, salesforce = (
        Account("hubspot", "33", "P", Limits()),
        Account("salesforce", "00D5g000004XyzAEAS", "O", Limits()),
    )
    hubspot.users = [("10000001", "Dana Whitfield"), ("10000002", "Sofie Brandt")]
    salesforce.users = [("0055g0000000001AAA", "Dana Whitfield"), ("0055g0000000002AAA", "Sofie Brandt")]
    for account, plant in ((hubspot, seed_hubspot), (salesforce, seed_salesforce)):
        world.accounts[account.key] = account
        plant(world, account, 60, world.random)
    people = People(world, seed)
    people.accounts = [hubspot, salesforce]
    return world, people


def told(folder, seed):
    world, people = crowd(folder, seed)
    for _ in range(200):
        people.one_save()
    world.journal.close()
    return [
        (save.account, save.object, save.id, save.cause, sorted(save.properties)) for save in Journal(folder).saves()
    ]


@pytest.mark.parametrize("index", [0, 1])
def test_an_account_starts_with_sixty_plausible_records_that_nobody_is_told_of(tmp_path, index):
    world, people = crowd(tmp_path)
    world.journal.close()
    account = people.accounts[index]
    rows = [record for kind in account.records for record in account.live(kind)]
    assert len(rows) >= 60
    assert Journal(tmp_path).saves() == []
    for record in rows:
        assert set(record.values) <= set(account.catalogue[record.type]), record.type
        assert not any(is_ours(name) for name in record.values)


def test_starting_data_has_duplicates_missing_and_malformed_values(tmp_path):
    world, people = crowd(tmp_path)
    world.journal.close()
    contacts = people.accounts[0].live("contacts")
    emails = [str(record.values.get("email") or "") for record in contacts]
    good = re.compile(r"[^@\s]+@[^@\s,]+\.[a-z]+")
    assert 0 < sum(1 for email in emails if not good.fullmatch(email)) < len(contacts) / 2
    assert any(not record.values.get("jobtitle") for record in contacts)
    assert any("+1@" in email for email in emails)


def test_the_same_seed_makes_the_same_story_and_another_seed_another(tmp_path):
    assert told(tmp_path / "a", 5) == told(tmp_path / "b", 5)
    assert told(tmp_path / "c", 6) != told(tmp_path / "d", 5)


def test_people_edit_in_bursts_write_notes_and_mails_and_leave_our_properties_alone(tmp_path):
    world, people = crowd(tmp_path)
    for _ in range(600):
        people.one_save()
    world.journal.close()
    saves = Journal(tmp_path).saves()
    edits = [save for save in saves if save.cause == "edit" and save.by == "person"]
    assert {save.object for save in edits} == {"contact", "company", "deal", "lead"}
    assert max(len(save.properties) for save in edits) >= 5
    assert {"edit", "note", "email", "create", "sync"} <= set(people.did.by_kind)
    assert {save.cause for save in saves} >= {"edit", "create", "note", "email"}
    assert any(save.by == "Contact Sync" for save in saves)
    assert not any(is_ours(name) for save in saves for name in save.properties)
    ids = [save.id for save in edits]
    assert any(one == other for one, other in pairwise(ids)), "nobody edits a record twice in a row"


def test_some_texts_try_to_give_orders_to_a_model(tmp_path):
    world, people = crowd(tmp_path)
    people.mix = Mix(edit=0, note=1, email=0, create=0, twin=0, merge=0, delete=0, sync=0)
    for _ in range(200):
        people.one_save()
    world.journal.close()
    bodies = [str(note.values["hs_note_body"]) for note in people.accounts[0].live("notes")]
    heads = tuple(text[:20] for text in texts.INJECTIONS)
    share = sum(1 for body in bodies if body.startswith(heads)) / len(bodies)
    assert 0 < share < 0.25
    assert not any("{" in body for body in bodies)


def test_a_generator_makes_saves_until_it_is_stopped(sandbox, controls, receiver, portal):
    controls.people_start(rate=500, accounts=[portal], mix={"edit": 1}, objects=["deal"])
    receiver.take()
    assert controls.people_status()["running"]
    stopped = controls.people_stop()
    receiver.take_all(sandbox)
    assert not stopped["running"]
    assert controls.people_status()["saves"] == stopped["saves"] > 0
    assert set(stopped["by_kind"]) == {"edit"}
    assert {save.object for save in Journal(sandbox.data).saves()} == {"deal"}


def test_a_journal_writer_counts_its_lines(tmp_path):
    writer = JournalWriter(tmp_path)
    assert [writer.write("given_up", {}) for _ in range(3)] == [1, 2, 3]
    writer.close()
    writer.close()
