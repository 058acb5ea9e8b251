"""What every CRM adapter has to do, against the sandbox over HTTP. A vendor's test module subclasses `CrmSuite`."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import pytest

from infra.accounts import Account
from infra.crm.calls import Calls
from infra.crm.client import AccountUnavailable, AnswerLost, Busy, CrmUnavailable, Gone, Read, Refused, Written
from infra.crm.own_fields import MAX_REP_CHARACTERS, OWN_FIELDS
from infra.local.sandbox.server import Sandbox
from infra.settings import Settings

_ports = itertools.count()


def settings_for(sandbox, **more) -> Settings:
    return Settings(_env_file=None, environment="development", sandbox_url=sandbox.base, **more)


def calls(name: str, **more) -> Calls:
    """As in production, but impatient."""
    return Calls(name, **{"concurrency": 4, "attempts": 3, "budget_seconds": 5.0, "first_wait_seconds": 0.01, **more})


class CrmSuite:
    objects: tuple[str, ...]
    batch: int
    batch_read: str
    batch_write: str
    reads: str
    """Pattern of the operations that a read makes."""

    def make(self, sandbox, **more):
        raise NotImplementedError

    def account_of(self, sandbox) -> Account:
        raise NotImplementedError

    def with_credentials(self, account: Account, credentials) -> Account:
        return Account(
            id=account.id, tenant="acme", crm=account.crm, name="", config=account.config, credentials=credentials
        )

    @pytest.fixture
    async def sandbox(self, tmp_path):
        async with Sandbox(tmp_path) as sandbox:
            yield sandbox

    @pytest.fixture
    async def account(self, sandbox):
        return self.account_of(sandbox)

    @pytest.fixture
    async def client(self, sandbox):
        client = self.make(sandbox)
        yield client
        await client.close()

    @pytest.fixture
    async def ready(self, client, account):
        await client.provision(account)
        return client

    async def test_provisioning_twice_makes_nothing_the_second_time(self, client, account):
        made = await client.provision(account)
        assert len(made) == len(set(made)) == len(OWN_FIELDS) * len(client.own_objects)
        assert await client.provision(account) == []

    async def test_reading_one_and_reading_many_agree(self, sandbox, ready, account):
        for object_ in self.objects:
            ids = sandbox.controls.records(account.id, object_)
            assert len(ids) > 3
            many = await ready.read(account, object_, ids)
            assert set(many) == set(ids)
            for one in ids[:2]:
                assert (await ready.read(account, object_, [one]))[one] == many[one]

    async def test_a_read_shows_what_the_record_holds(self, sandbox, ready, account):
        contact = sandbox.controls.records(account.id, "contact")[0]
        found = (await ready.read(account, "contact", [contact]))[contact]
        assert isinstance(found, Read)
        held = sandbox.controls.record(account.id, "contact", contact)
        email = found.concepts["email"]
        assert found.fields.get(email, "") == (held["properties"].get(email) or "")
        assert set(found.fields) <= set(found.known_fields)
        assert set(found.concepts.values()) <= set(found.known_fields)
        assert "last_synced_at" in {name.lower().removesuffix("__c") for name in found.known_fields}, (
            "custom fields are read"
        )
        assert found.owner
        assert [one.object for one in found.related] == ["company"]
        assert found.related[0].fields

    async def test_our_own_fields_are_never_read(self, sandbox, ready, account):
        """INVARIANT: a snapshot holds no field of ours. If it fails, our write-backs start rounds without end."""
        contact = sandbox.controls.records(account.id, "contact")[0]
        before = (await ready.read(account, "contact", [contact]))[contact]
        assert await ready.write(account, "contact", {contact: {"score": "77", "summary": "text"}}) == {
            contact: Written()
        }
        after = (await ready.read(account, "contact", [contact]))[contact]
        assert after.fields == before.fields
        assert after.known_fields == before.known_fields
        assert not [
            name for name in (*after.fields, *after.known_fields) if name.lower().startswith(ready.own_prefix.lower())
        ]

    @pytest.mark.parametrize("many", [False, True])
    async def test_what_a_rep_wrote_into_our_fields_is_read_apart_from_the_crms_own(
        self, sandbox, ready, account, many
    ):
        ids = sandbox.controls.records(account.id, "contact")[: 8 if many else 1]
        vendor = {
            "feedback": "hookline_feedback" if ready.name == "hubspot" else "Hookline_Feedback__c",
            "feedback_note": "hookline_feedback_note" if ready.name == "hubspot" else "Hookline_Feedback_Note__c",
        }
        said = {"feedback": "down", "feedback_note": "wrong title " * 500}
        sandbox.controls.save(account.id, "contact", ids[0], {vendor[name]: text for name, text in said.items()})
        found = await ready.read(account, "contact", ids)
        read = found[ids[0]]
        assert read.feedback == {**said, "feedback_note": read.feedback["feedback_note"]}
        assert said["feedback_note"].startswith(read.feedback["feedback_note"][:100])
        assert len(read.feedback["feedback_note"]) <= MAX_REP_CHARACTERS + 20
        assert not [name for name in (*read.fields, *read.known_fields) if "feedback" in name.lower()]
        assert all(found[one].feedback == {} for one in ids[1:])

    async def test_what_was_changed_since_a_moment_comes_with_its_time_notes_and_deletions_too(
        self, sandbox, ready, account
    ):
        since = datetime.now(UTC)
        contact, *_ = sandbox.controls.records(account.id, "contact")
        deal, gone, *_ = sandbox.controls.records(account.id, "deal")
        sandbox.controls.save(
            account.id, "contact", contact, {"city" if ready.name == "hubspot" else "MailingCity": "X"}
        )
        note = sandbox.controls.note(account.id, deal, "They need it by March.")["id"]
        if ready.name == "salesforce":
            sandbox.controls.delete(account.id, "deal", gone)
        until = datetime.now(UTC) + timedelta(minutes=1)
        found = {}
        for object_ in ("contact", "deal", "note", "email"):
            after, pages = None, 0
            while after is not None or not pages:
                page = await ready.changed(account, object_, since - timedelta(milliseconds=1), until, after)
                found |= {(object_, row.id): row for row in page.records}
                after, pages = page.next, pages + 1
            assert pages <= 3
        wanted = {("contact", contact), ("note", note), ("deal", deal)}
        assert wanted <= set(found)
        assert found["contact", contact].modified_at >= since - timedelta(milliseconds=1)
        assert [one for one, row in found.items() if row.deleted] == (
            [("deal", gone)] if ready.name == "salesforce" else []
        )

    async def test_notes_and_emails_of_a_deal_come_as_plain_text_oldest_first(self, sandbox, ready, account):
        deal = sandbox.controls.records(account.id, "deal")[0]
        sandbox.controls.note(
            account.id, deal, "<p>They <b>must</b> have SSO &amp; SCIM<br>soon</p><script>steal()</script>"
        )
        sandbox.controls.note(account.id, deal, "Send the offer", kind="email", subject="Re: offer")
        notes = (await ready.read(account, "deal", [deal]))[deal].notes
        texts = [note.text for note in notes]
        assert any("They must have SSO & SCIM\nsoon" in text for text in texts)
        assert not any("steal" in text or "<" in text for text in texts)
        assert any(note.kind == "email" and note.subject == "Re: offer" for note in notes)
        assert [note.at for note in notes] == sorted(note.at for note in notes)

    async def test_a_note_that_comes_after_its_record_was_read_has_the_record_read_again(
        self, sandbox, ready, account, monkeypatch
    ):
        """INVARIANT: what people see says how new it is. A note that is in an insight is not newer than the insight's as-of."""
        deal = sandbox.controls.records(account.id, "deal")[0]
        before = (await ready.read(account, "deal", [deal]))[deal].modified_at
        name, position = self.reads_records
        original = getattr(ready, name)
        record_is_read = asyncio.Event()

        async def first(*given):
            found = await original(*given)
            if given[position] in {"deals", "Opportunity"} and not record_is_read.is_set():
                sandbox.controls.note(account.id, deal, "came in between")
                record_is_read.set()
            return found

        links = getattr(ready, self.reads_notes)

        async def then(*given):
            await record_is_read.wait()
            return await links(*given)

        monkeypatch.setattr(ready, name, first)
        monkeypatch.setattr(ready, self.reads_notes, then)
        monkeypatch.setattr(type(ready), "_few", lambda *_: False, raising=False)
        read = (await ready.read(account, "deal", [deal]))[deal]
        monkeypatch.undo()
        assert "came in between" in [note.text for note in read.notes]
        assert before < read.modified_at == (await ready.read(account, "deal", [deal]))[deal].modified_at

    async def test_only_the_newest_notes_are_read_and_the_rest_is_named(self, sandbox, ready, account):
        deal = sandbox.controls.records(account.id, "deal")[0]
        for number in range(60):
            sandbox.controls.note(account.id, deal, f"note number {number}")
        found = (await ready.read(account, "deal", [deal]))[deal]
        assert len(found.notes) == 50
        assert any(note.text == "note number 59" for note in found.notes)
        assert not any(note.text == "note number 0" for note in found.notes)
        assert any("older" in name for name in found.omitted)

    async def test_a_note_leads_to_its_deal(self, sandbox, ready, account):
        deals = sandbox.controls.records(account.id, "deal")[:5]
        made = [sandbox.controls.note(account.id, deal, "text") for deal in deals]
        ids = [one["id"] if isinstance(one, dict) else one for one in made]
        for some in (ids[:1], ids):
            found = await ready.parents(account, "note", [*some, "404"])
            assert found["404"] == []
            for note, deal in zip(some, deals, strict=False):
                assert ("deal", deal) in found[note]

    async def test_what_is_not_there_is_gone(self, sandbox, ready, account):
        ids = sandbox.controls.records(account.id, "contact")
        sandbox.controls.delete(account.id, "contact", ids[0])
        wrong = ["1", "", "'; DROP", "../../x", "003000000000000AAA"]
        for given in ([ids[0], *wrong], [*ids, *wrong]):
            found = await ready.read(account, "contact", given)
            assert isinstance(found[ids[0]], Gone)
            assert all(isinstance(found[one], Gone) for one in wrong)
        written = await ready.write(
            account, "contact", {ids[0]: {"score": "1"}, ids[1]: {"score": "2"}, "1": {"score": "3"}}
        )
        assert isinstance(written[ids[0]], Gone)
        assert isinstance(written["1"], Gone)
        assert written[ids[1]] == Written()

    async def test_what_was_written_is_read_back(self, sandbox, ready, account):
        for object_ in self.objects:
            one = sandbox.controls.records(account.id, object_)[0]
            values = {
                "score": "42",
                "grade": "B",
                "next_step_due": "2026-12-01",
                "summary": "ä\n“b”",
                "as_of": "2026-11-22T10:00:00.123Z",
            }
            assert await ready.write(account, object_, {one: values}) == {one: Written()}
            assert await ready.own_fields(account, object_, [one, "404"]) == {one: values, "404": Gone()}
            assert await ready.write(account, object_, {one: {"score": "", "grade": ""}}) == {one: Written()}
            assert set((await ready.own_fields(account, object_, [one]))[one]) == {"next_step_due", "summary", "as_of"}

    async def test_a_foreign_field_is_never_written(self, ready, account):
        with pytest.raises(ValueError, match="not fields of ours"):
            await ready.write(account, "contact", {"1": {"email": "x"}})

    async def test_more_rows_than_a_call_takes_are_split(self, sandbox, ready, account):
        prefix = sandbox.controls.records(account.id, "contact")[0]
        values = dict(sandbox.controls.record(account.id, "contact", prefix)["properties"])
        person = {
            name: value for name, value in values.items() if name in {"firstname", "lastname", "FirstName", "LastName"}
        }
        for _ in range(self.batch + 5):
            sandbox.controls.create_record(account.id, "contact", person)
        ids = sandbox.controls.records(account.id, "contact")
        assert len(ids) > self.batch
        found = await ready.read(account, "contact", ids)
        assert all(isinstance(one, Read) for one in found.values())
        assert set((await ready.write(account, "contact", {one: {"score": "5"} for one in ids})).values()) == {
            Written()
        }

    async def test_a_field_that_an_admin_deleted_is_named(self, sandbox, client, account):
        one = sandbox.controls.records(account.id, "contact")[0]
        found = (await client.write(account, "contact", {one: {"score": "5"}}))[one]
        assert isinstance(found, Refused)
        assert len(found.unknown_fields) == 1
        assert "score" in found.unknown_fields[0].lower()
        await client.provision(account)
        assert await client.write(account, "contact", {one: {"score": "5"}}) == {one: Written()}

    async def test_one_failed_row_fails_no_other(self, sandbox, ready, account):
        ids = sandbox.controls.records(account.id, "contact")[:4]
        sandbox.controls.plant_fault(account.id, self.batch_write, "207", count=10, rows=1)
        found = await ready.write(account, "contact", {one: {"score": "5"} for one in ids})
        assert isinstance(found[ids[0]], Busy)
        assert [found[one] for one in ids[1:]] == [Written()] * 3

    @pytest.mark.parametrize("kind", ["500", "502", "503"])
    async def test_a_short_failure_is_not_noticed(self, sandbox, ready, account, kind):
        one = sandbox.controls.records(account.id, "contact")[0]
        sandbox.controls.plant_fault(account.id, self.reads, kind, count=1)
        assert isinstance((await ready.read(account, "contact", [one]))[one], Read)

    @pytest.mark.parametrize("kind", ["500", "502", "503"])
    async def test_a_write_that_may_have_arrived_is_not_sent_again_unasked(self, sandbox, ready, account, kind):
        one = sandbox.controls.records(account.id, "contact")[0]
        sandbox.controls.plant_fault(account.id, self.batch_write, kind, count=1)
        with pytest.raises(AnswerLost):
            await ready.write(account, "contact", {one: {"score": "5"}})
        assert await ready.write(account, "contact", {one: {"score": "5"}}) == {one: Written()}

    async def test_a_long_failure_is_the_crm_being_away(self, sandbox, ready, account):
        one = sandbox.controls.records(account.id, "contact")[0]
        sandbox.controls.plant_fault(account.id, "*", "503", count=1000)
        with pytest.raises(CrmUnavailable):
            await ready.read(account, "contact", [one])
        with pytest.raises(CrmUnavailable):
            await ready.write(account, "contact", {one: {"score": "5"}})

    async def test_a_crm_that_does_not_answer_in_time_is_away(self, sandbox, account):
        one = sandbox.controls.records(account.id, "contact")[0]
        client = self.make(sandbox, crm_timeout_seconds=0.2)
        sandbox.controls.plant_fault(account.id, "*", "timeout", count=1000, ms=2_000)
        try:
            with pytest.raises(CrmUnavailable):
                await client.read(account, "contact", [one])
        finally:
            await client.close()

    async def test_a_crm_that_is_down_is_away(self, tmp_path):
        async with Sandbox(tmp_path) as sandbox:
            account = self.account_of(sandbox)
            client = self.make(sandbox)
            one = sandbox.controls.records(account.id, "contact")[0]
            await client.read(account, "contact", [one])
        with pytest.raises(CrmUnavailable):
            await client.read(account, "contact", [one])
        await client.close()

    async def test_a_revoked_token_concerns_the_account_alone(self, sandbox, ready, account):
        one = sandbox.controls.records(account.id, "contact")[0]
        broken = self.with_credentials(account, {"access_token": "not-a-token"})
        for _ in range(2):
            with pytest.raises(AccountUnavailable) as caught:
                await ready.read(broken, "contact", [one])
            assert caught.value.cause == "TOKEN_REVOKED"
            assert "not-a-token" not in str(caught.value)
        with pytest.raises(AccountUnavailable):
            await ready.write(self.with_credentials(account, None), "contact", {one: {"score": "1"}})

    async def test_errors_hold_no_value_of_a_customer(self, sandbox, ready, account):
        """INVARIANT: what a person wrote is in no error. If it fails, names and notes end up in logs and dead letters."""
        one = sandbox.controls.records(account.id, "contact")[0]
        found = (
            (await ready.write(account, "contact", {one: {"score": "PRIVATE"}}))[one]
            if self.refuses_text_numbers
            else None
        )
        if found is not None:
            assert isinstance(found, Refused)
            assert "PRIVATE" not in repr(found)

    refuses_text_numbers = True

    async def test_many_at_once(self, sandbox, ready, account):
        ids = sandbox.controls.records(account.id, "contact")
        answers = await asyncio.gather(*(ready.read(account, "contact", [one]) for one in ids))
        assert all(isinstance(found, Read) for answer in answers for found in answer.values())
