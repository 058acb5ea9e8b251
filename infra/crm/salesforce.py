"""Salesforce: records, activities and our own custom fields, by its REST API.

Law: batches hold at most 200 rows, of whoever waits for the same call; foreign fields are only read, our own only written. What can be asked at once is.
Sources: Salesforce's REST API guide (sObject Collections, Query, Describe), Tooling API (CustomField), Object Reference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from simple_salesforce.api import Salesforce

from infra.accounts import Account
from infra.crm import salesforce_changed
from infra.crm import salesforce_listing as listing
from infra.crm import salesforce_shapes as shapes
from infra.crm.batching import Batches, Take
from infra.crm.changed import ChangedPage
from infra.crm.client import Busy, CrmClient, CrmVendor, Gone, Page, Read, Refused, Survey, Written
from infra.crm.concepts import concepts_of
from infra.crm.known_fields import Fields, KnownFields
from infra.crm.late_notes import outdated
from infra.crm.limits import is_bulk
from infra.crm.own_fields import OWN_FIELDS
from infra.crm.recent import Recent
from infra.crm.salesforce_org import Orgs, Rejected
from infra.settings import Settings
from schemas.record import Note, ObjectType, Related

BATCH = 200
MAX_PAGES = 3
LOCKED_TRIES = 3
LOCKED_WAIT_SECONDS = 0.3
MAX_RELATED_CONTACTS = 20

_COLLECTIONS = "composite/sobjects"
_TASK: Final = (
    "Id, WhoId, WhatId, Subject, Description, TaskSubtype, ActivityDate, OwnerId, CreatedDate, LastModifiedDate"
)
_EMAIL: Final = (
    "Id, RelatedToId, Subject, TextBody, HtmlBody, FromAddress, Incoming, MessageDate, CreatedDate, LastModifiedDate"
)
_NOTE: Final = "Id, ParentId, Title, Body, OwnerId, CreatedDate, LastModifiedDate"
_CONTENT: Final = "Id, Title, TextPreview, OwnerId, CreatedDate, LastModifiedDate"

Found = tuple[str, Note]
"""The record that it hangs on, and the note."""


class SalesforceClient:
    """Implements `infra.crm.client.CrmClient`."""

    name = "salesforce"
    own_prefix = shapes.PREFIX
    own_objects = frozenset({"contact", "company", "deal", "lead"})

    def __init__(self, settings: Settings, *, orgs: Orgs | None = None) -> None:
        self._orgs = orgs if orgs is not None else Orgs(settings)
        self._known = KnownFields()
        self._recent = Recent(ttl_seconds=settings.crm_recent_seconds)
        self._rows: Batches[None, dict[str, Any]] = Batches(BATCH)
        self._queries: Batches[None, tuple[list[dict[str, Any]], bool]] = Batches(BATCH)
        self._writes: Batches[Mapping[str, Any], Written | Gone | Refused | Busy] = Batches(BATCH)
        self._absent: set[tuple[str, str]] = set()
        """(account, object) of which the org says that it has none."""

    async def close(self) -> None:
        """See CrmClient."""
        await asyncio.gather(self._rows.close(), self._queries.close(), self._writes.close())
        await self._orgs.close()

    async def integration_user(self, account: Account) -> str | None:
        """The user that our token belongs to, as `LastModifiedById` shows it; from the account's config, or asked."""
        known = account.config.get("integration_user")
        if known:
            return str(known)
        try:
            found = await self._orgs.call(account, "userinfo", lambda sf: sf.oauth2("userinfo"))
        except Rejected:
            return None
        return str(found["user_id"]) if found and found.get("user_id") else None

    # ---------------------------------------------------------------- looking around

    async def identify(self, account: Account) -> str:
        """See CrmClient."""
        return await listing.identify(self._orgs, account)

    async def survey(self, account: Account, object: str) -> Survey:  # noqa: A002 - our word
        """See CrmClient."""
        return await listing.survey(self._orgs, account, object)

    async def count(self, account: Account, object: str) -> int | None:  # noqa: A002 - our word
        """See CrmClient."""
        return await listing.count(self._orgs, account, object)

    async def page(self, account: Account, object: str, after: str | None) -> Page:  # noqa: A002 - our word
        """See CrmClient."""
        return await listing.page(self._orgs, account, object, after)

    async def changed(
        self,
        account: Account,
        object: str,  # noqa: A002 - our word
        since: datetime,
        until: datetime,
        after: str | None,
    ) -> ChangedPage:
        """See CrmClient."""
        return await salesforce_changed.changed(self._orgs, account, object, since=since, until=until, after=after)

    # ---------------------------------------------------------------- reading

    async def read(self, account: Account, object: str, ids: Sequence[str]) -> dict[str, Read | Gone | Refused]:  # noqa: A002 - our word
        """See CrmClient."""
        sobject = shapes.SOBJECTS.get(object)
        if sobject is None:
            return {one: Refused("UNSUPPORTED_OBJECT", f"Salesforce's {object} is not read by itself") for one in ids}
        full = {one: normal for one in ids if (normal := shapes.normal(one)) is not None}
        wanted = list(dict.fromkeys(full.values()))
        self._recent.forget(account.id, sobject, wanted)
        try:
            (fields, records), (notes, omitted), roles = await asyncio.gather(
                self._records(account, object, sobject, wanted),
                self._notes(account, object, wanted),
                self._contact_roles(account, wanted) if object == "deal" else _nothing(),
            )
            now = datetime.now(UTC)
            late = [
                one
                for one, record in records.items()
                if outdated(shapes.modified_at(record), (note.at for note in notes.get(one, ())), now)
            ]
            if late:
                records |= (await self._records(account, object, sobject, late))[1]
        except Rejected as rejected:
            return dict.fromkeys(ids, rejected.refusal())
        related, merged = await asyncio.gather(
            self._related(account, records, roles),
            self._merged(account, sobject, [one for one in wanted if one not in records]),
        )
        answer: dict[str, Read | Gone | Refused] = {}
        for one in ids:
            identity = full.get(one, "")
            record = records.get(identity)
            if record is None:
                answer[one] = Gone(merged_into=merged.get(identity))
                continue
            mine = sorted(notes.get(identity, ()), key=lambda note: (note.at, note.id))
            left_out = [*fields.omitted, *omitted, *(["older notes"] if len(mine) > shapes.MAX_NOTES else [])]
            visible = shapes.visible(fields.read)
            answer[one] = Read(
                modified_at=shapes.modified_at(record),
                fields=shapes.shown_fields(record),
                known_fields=visible,
                concepts=concepts_of("salesforce", object, visible),
                notes=tuple(mine[-shapes.MAX_NOTES :]),
                related=tuple(related.get(identity, ())),
                owner=record.get("OwnerId") or None,
                edited_by=record.get("LastModifiedById") or None,
                omitted=tuple(dict.fromkeys(left_out)),
                feedback=shapes.feedback(record),
            )
        return answer

    async def _fields(self, account: Account, object_: str, sobject: str) -> Fields:
        async def load() -> Fields:
            found = await self._orgs.call(account, "describe", lambda sf: sf.restful(f"sobjects/{sobject}/describe"))
            return shapes.chosen_fields(object_, (found or {}).get("fields") or ())

        return await self._known.get(account.id, object_, load)

    async def _records(
        self, account: Account, object_: str, sobject: str, ids: Sequence[str]
    ) -> tuple[Fields, dict[str, dict[str, Any]]]:
        fields = await self._fields(account, object_, sobject)
        try:
            return fields, await self._retrieve(account, sobject, ids, fields.read)
        except Rejected as rejected:
            if rejected.code != "INVALID_FIELD":
                raise
        # A field that we knew was deleted or hidden: look again, once.
        self._known.forget(account.id, object_)
        fields = await self._fields(account, object_, sobject)
        return fields, await self._retrieve(account, sobject, ids, fields.read)

    async def _retrieve(
        self, account: Account, sobject: str, ids: Sequence[str], names: Iterable[str]
    ) -> dict[str, dict[str, Any]]:
        """Records by id, as far as they are there."""
        fields = list(dict.fromkeys(("Id", *names)))

        async def retrieve(take: Take[None]) -> dict[str, dict[str, Any]]:
            def ask(sf: Salesforce) -> Any:
                some = list(take())
                body = {"ids": some, "fields": fields}
                return sf.restful(f"{_COLLECTIONS}/{sobject}", method="POST", json=body) if some else ()

            found = await self._orgs.call(account, "retrieve", ask)
            return {str(record["Id"]): record for record in found or () if record}

        key = (account.id, is_bulk(), sobject, tuple(fields))
        return await self._rows.ask(key, dict.fromkeys(ids), retrieve)

    async def _query(
        self, account: Account, source: str, columns: str, condition: str, ids: Sequence[str]
    ) -> tuple[list[dict[str, Any]], bool]:
        """Rows of an object whose reference is one of `ids`, newest first, and whether there are more; none where the org lacks it."""
        if (account.id, source) in self._absent or not ids:
            return [], False

        async def query(take: Take[None]) -> dict[str, tuple[list[dict[str, Any]], bool]]:
            def pages(sf: Salesforce) -> tuple[list[dict[str, Any]], bool]:
                some = take()
                if not some:
                    return [], False
                # Only ids of checked form get here, so nothing can break out of the quotes.
                listed = ", ".join(f"'{one}'" for one in some)
                text = f"SELECT {columns} FROM {source} WHERE {condition} IN ({listed})"  # noqa: S608 - SOQL of our own names and checked ids
                return _pages(sf, f"{text} ORDER BY CreatedDate DESC" if "CreatedDate" in columns else text)

            rows, more = await self._orgs.call(account, f"query {source}", pages)
            by_id: dict[str, tuple[list[dict[str, Any]], bool]] = {one: ([], more) for one in take()}
            for row in rows:
                by_id.setdefault(str(row.get(condition)), ([], more))[0].append(row)
            return by_id

        try:
            key = (account.id, is_bulk(), source, columns, condition)
            answers = await self._queries.ask(key, dict.fromkeys(ids), query)
        except Rejected as rejected:
            if rejected.code not in {*shapes.NO_SUCH, "MALFORMED_QUERY"}:
                raise
            self._absent.add((account.id, source))
            return [], False
        return [row for rows, _ in answers.values() for row in rows], any(more for _, more in answers.values())

    async def _notes(
        self, account: Account, object_: str, ids: Sequence[str]
    ) -> tuple[dict[str, list[Note]], list[str]]:
        """What people wrote on each record, and what was left out."""
        by = "WhoId" if object_ in {"contact", "lead"} else "WhatId"
        (tasks, more), (emails, more_emails), (classic, _), (contents, cut) = await asyncio.gather(
            self._query(account, "Task", _TASK, by, ids),
            # A person's e-mails show up among their tasks.
            self._query(account, "EmailMessage", _EMAIL, "RelatedToId", ids if by == "WhatId" else ()),
            self._query(account, "Note", _NOTE, "ParentId", ids),
            self._content_notes(account, ids),
        )
        found: list[tuple[str, Note | None]] = [
            *((str(row.get(by)), shapes.task(row)) for row in tasks),
            *((str(row.get("RelatedToId")), shapes.email(row)) for row in emails),
            *((str(row.get("ParentId")), shapes.classic_note(row)) for row in classic),
            *contents,
        ]
        hang: dict[str, list[Note]] = {}
        for identity, note in found:
            if note is not None:
                hang.setdefault(identity, []).append(note)
        omitted = [
            *(["older notes"] if more or more_emails else []),
            *(["note text after 255 characters"] if cut else []),
        ]
        return hang, omitted

    async def _content_notes(self, account: Account, ids: Sequence[str]) -> tuple[list[tuple[str, Note | None]], bool]:
        """Notes of the newer kind, by their preview: the whole text would cost one call a note."""
        links, _ = await self._query(
            account, "ContentDocumentLink", "ContentDocumentId, LinkedEntityId", "LinkedEntityId", ids
        )
        documents = list(dict.fromkeys(str(row["ContentDocumentId"]) for row in links))
        rows, _ = await self._query(account, "ContentNote", _CONTENT, "Id", documents)
        by_id = {str(row["Id"]): row for row in rows}
        pairs = [
            (str(row["LinkedEntityId"]), by_id[str(row["ContentDocumentId"])])
            for row in links
            if str(row["ContentDocumentId"]) in by_id
        ]
        cut = any(len(str(row.get("TextPreview") or "")) >= shapes.PREVIEW_CHARACTERS for row in rows)
        return [(one, shapes.content_note(row)) for one, row in pairs], cut

    async def _contact_roles(self, account: Account, ids: Sequence[str]) -> dict[str, list[str]]:
        rows, _ = await self._query(
            account, "OpportunityContactRole", "OpportunityId, ContactId, IsPrimary, CreatedDate", "OpportunityId", ids
        )
        found: dict[str, list[str]] = {}
        for row in sorted(rows, key=lambda row: not row.get("IsPrimary")):
            if row.get("ContactId"):
                found.setdefault(str(row["OpportunityId"]), []).append(str(row["ContactId"]))
        return {one: list(dict.fromkeys(contacts))[:MAX_RELATED_CONTACTS] for one, contacts in found.items()}

    async def _related(
        self, account: Account, records: Mapping[str, Mapping[str, Any]], roles: Mapping[str, list[str]]
    ) -> dict[str, list[Related]]:
        companies = {one: str(record["AccountId"]) for one, record in records.items() if record.get("AccountId")}
        contacts = list(dict.fromkeys(contact for some in roles.values() for contact in some))
        wanted: list[tuple[ObjectType, str, list[str], tuple[str, ...]]] = [
            ("company", "Account", list(dict.fromkeys(companies.values())), shapes.ACCOUNT_FIELDS),
            ("contact", "Contact", contacts, shapes.CONTACT_FIELDS),
        ]

        async def read(object_: ObjectType, sobject: str, ids: list[str], names: tuple[str, ...]) -> dict[str, Related]:
            async def fetch(missing: Sequence[str]) -> dict[str, Related]:
                found = await self._retrieve(account, sobject, missing, names)
                return {one: shapes.related(object_, record) for one, record in found.items()}

            try:
                return await self._recent.through(account.id, sobject, ids, fetch)
            except Rejected:
                return {}

        company_of, contact_of = await asyncio.gather(*(read(*one) for one in wanted))
        found: dict[str, list[Related]] = {}
        for one, company in companies.items():
            if company in company_of:
                found.setdefault(one, []).append(company_of[company])
        for one, some in roles.items():
            found.setdefault(one, []).extend(contact_of[contact] for contact in some if contact in contact_of)
        return found

    async def _merged(self, account: Account, sobject: str, ids: Sequence[str]) -> dict[str, str]:
        """Of records that are gone: the ones that they were merged into."""
        if not ids or sobject not in shapes.MERGEABLE:
            return {}
        listed = ", ".join(f"'{one}'" for one in ids[:BATCH])
        text = f"SELECT Id, MasterRecordId FROM {sobject} WHERE Id IN ({listed})"  # noqa: S608 - SOQL of our own names and checked ids
        try:
            found = await self._orgs.call(account, "query deleted", lambda sf: sf.query(text, include_deleted=True))
        except Rejected:
            return {}
        return {str(row["Id"]): str(row["MasterRecordId"]) for row in found["records"] if row.get("MasterRecordId")}

    async def parents(self, account: Account, object: str, ids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:  # noqa: A002, ARG002 - our word; the id says which object it is
        """See CrmClient."""
        full = {one: normal for one in ids if (normal := shapes.normal(one)) is not None}

        def of(prefix: str) -> list[str]:
            return [one for one in dict.fromkeys(full.values()) if one.startswith(prefix)]

        (tasks, _), (emails, _), (notes, _), (links, _) = await asyncio.gather(
            self._query(account, "Task", "Id, WhoId, WhatId", "Id", of("00T")),
            self._query(account, "EmailMessage", "Id, RelatedToId, ParentId", "Id", of("02s")),
            self._query(account, "Note", "Id, ParentId", "Id", of("002")),
            self._query(
                account, "ContentDocumentLink", "ContentDocumentId, LinkedEntityId", "ContentDocumentId", of("069")
            ),
        )
        pairs: list[tuple[str, Any]] = []
        for row in (*tasks, *emails, *notes):
            pairs += [(str(row["Id"]), row.get(name)) for name in ("WhatId", "RelatedToId", "ParentId", "WhoId")]
        pairs += [(str(row["ContentDocumentId"]), row.get("LinkedEntityId")) for row in links]
        hang: dict[str, list[tuple[str, str]]] = {one: [] for one in full.values()}
        for one, target in dict.fromkeys(pairs):
            kind = shapes.BY_KEY_PREFIX.get(str(target or "")[:3])
            if kind is not None and one in hang:
                hang[one].append((kind, str(target)))
        return {one: hang.get(full.get(one, ""), []) for one in ids}

    # ---------------------------------------------------------------- our own fields

    async def own_fields(self, account: Account, object: str, ids: Sequence[str]) -> dict[str, dict[str, str] | Gone]:  # noqa: A002 - our word
        """See CrmClient."""
        sobject = shapes.SOBJECTS[object]
        full = {one: normal for one in ids if (normal := shapes.normal(one)) is not None}
        try:
            fields = await self._fields(account, object, sobject)
            records = await self._retrieve(account, sobject, list(dict.fromkeys(full.values())), sorted(fields.own))
        except Rejected as rejected:
            self._known.forget(account.id, object)
            raise rejected.as_account_unavailable(account.id) from rejected
        return {one: shapes.own_values(records[full[one]]) if full.get(one) in records else Gone() for one in ids}

    async def write(
        self,
        account: Account,
        object: str,  # noqa: A002 - our word
        rows: Mapping[str, Mapping[str, str]],
    ) -> dict[str, Written | Gone | Refused | Busy]:
        """See CrmClient. Rows that were locked are tried again here, a few times."""
        sobject = shapes.SOBJECTS[object]
        records: dict[str, dict[str, Any]] = {}
        for one, values in rows.items():
            foreign = sorted(set(values) - set(OWN_FIELDS))
            if foreign:
                raise ValueError(f"{', '.join(foreign)}: not fields of ours")
            identity = shapes.normal(one)
            if identity is not None:
                given = {
                    shapes.OWN_NAMES[name]: shapes.json_value(OWN_FIELDS[name], value) for name, value in values.items()
                }
                records[one] = {"attributes": {"type": sobject}, "id": identity, **given}
        answer: dict[str, Written | Gone | Refused | Busy] = {one: Gone() for one in rows}
        waiting = list(records)

        async def update(take: Take[Mapping[str, Any]]) -> dict[str, Written | Gone | Refused | Busy]:
            return await self._update(account, take)

        for attempt in range(LOCKED_TRIES):
            if attempt:
                await asyncio.sleep(LOCKED_WAIT_SECONDS * attempt)
            key = (account.id, is_bulk(), sobject)
            answer.update(await self._writes.ask(key, {one: records[one] for one in waiting}, update))
            waiting = [one for one in waiting if answer[one] == Busy("UNABLE_TO_LOCK_ROW")]
            if not waiting:
                break
        return answer

    async def _update(
        self, account: Account, take: Take[Mapping[str, Any]]
    ) -> dict[str, Written | Gone | Refused | Busy]:
        def send(sf: Salesforce) -> Any:
            body = {"allOrNone": False, "records": list(take().values())}
            return sf.restful(_COLLECTIONS, method="PATCH", json=body) if body["records"] else ()

        try:
            found = await self._orgs.call(account, "update", send, repeatable=False)
        except Rejected as rejected:
            records = take()
            ids = list(records)
            if len(ids) == 1 or rejected.refusal().unknown_fields:
                return dict.fromkeys(ids, shapes.row_outcome(rejected.errors) if len(ids) == 1 else rejected.refusal())
            middle = len(ids) // 2
            halves = [{one: records[one] for one in half} for half in (ids[:middle], ids[middle:])]
            first, second = await asyncio.gather(*(self._update(account, partial(dict, half)) for half in halves))
            return {**first, **second}
        ids = list(take())
        answer: dict[str, Written | Gone | Refused | Busy] = {one: Busy("NO_ANSWER") for one in ids}
        for one, result in zip(ids, found or (), strict=False):
            answer[one] = Written() if result.get("success") else shapes.row_outcome(result.get("errors") or ())
        return answer

    async def provision(self, account: Account) -> list[str]:
        """See CrmClient. The fields alone: who may see them is a permission set's matter, which an admin assigns."""
        made: list[str] = []
        for object_ in sorted(self.own_objects):
            self._known.forget(account.id, object_)
            sobject = shapes.SOBJECTS[object_]
            try:
                have = {name.lower() for name in (await self._fields(account, object_, sobject)).own}
                missing = [name for name in OWN_FIELDS if shapes.OWN_NAMES[name].lower() not in have]
                new = await asyncio.gather(*(self._create(account, sobject, name) for name in missing))
            except Rejected as rejected:
                raise rejected.as_account_unavailable(account.id) from rejected
            made += [
                f"{sobject}.{shapes.OWN_NAMES[name]}" for name, created in zip(missing, new, strict=True) if created
            ]
            self._known.forget(account.id, object_)
        return made

    async def _create(self, account: Account, sobject: str, name: str) -> bool:
        data = {"FullName": f"{sobject}.{shapes.OWN_NAMES[name]}", "Metadata": shapes.metadata(OWN_FIELDS[name])}
        try:
            await self._orgs.call(
                account, "create field", lambda sf: sf.toolingexecute("sobjects/CustomField", method="POST", data=data)
            )
        except Rejected as rejected:
            if rejected.code in {"DUPLICATE_DEVELOPER_NAME", "DUPLICATE_VALUE"}:
                return False  # somebody else was quicker, or our user may not see it
            raise
        return True


def _pages(sf: Salesforce, text: str) -> tuple[list[dict[str, Any]], bool]:
    """A query's rows, and whether there are more than we read."""
    page = sf.query(text)
    rows = list(page["records"])
    for _ in range(MAX_PAGES - 1):
        if page.get("done", True):
            break
        page = sf.query_more(page["nextRecordsUrl"], identifier_is_url=True)
        rows += page["records"]
    return rows, not page.get("done", True)


async def _nothing() -> dict[str, list[str]]:
    return {}


class _Salesforce:
    name = "salesforce"

    def connect(self, settings: Settings) -> CrmClient:
        """See CrmVendor."""
        return SalesforceClient(settings)


PLUGIN: CrmVendor = _Salesforce()
