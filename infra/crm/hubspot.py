"""HubSpot: records, activities and our own properties, by its CRM API.

Law: batches hold at most 100 rows, of whoever waits for the same call; foreign properties are only read, our own only written. What one round trip can answer
is not asked in two, and what can be asked at once is.
Sources: HubSpot's CRM objects v3, associations v4 and properties v3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, Final

from infra.accounts import Account
from infra.crm import hubspot_changed
from infra.crm import hubspot_listing as listing
from infra.crm import hubspot_shapes as shapes
from infra.crm.batching import Batches, Key, Take
from infra.crm.changed import ChangedPage
from infra.crm.client import Busy, CrmClient, CrmVendor, Gone, Page, Read, Refused, Survey, Written
from infra.crm.concepts import concepts_of
from infra.crm.hubspot_portal import Portals, Rejected
from infra.crm.known_fields import Fields, KnownFields
from infra.crm.late_notes import outdated
from infra.crm.limits import is_bulk
from infra.crm.own_fields import GROUP_LABEL, OWN_FIELDS, OwnField
from infra.crm.recent import Recent
from infra.settings import Settings
from schemas.record import Note, Related

BATCH = 100
FEW = 3
"""Up to so many records are read one by one, with their associations in the same answer: fewer calls and round trips."""
LONGEST_QUERY = 6_000
GROUP = "hookline"

_OBJECTS = "/crm/v3/objects"
_ASSOCIATIONS = "/crm/v4/associations"
_PROPERTIES = "/crm/v3/properties"
_TYPES: Final = {
    "text": ("string", "text"),
    "long_text": ("string", "textarea"),
    "number": ("number", "number"),
    "date": ("date", "date"),
}
_PARENTS: Final = ("contacts", "companies", "deals", "leads", "tickets")


@lru_cache(maxsize=4_096)  # the same for every record of an account's kind; whoever changes the map copies it
def _shown(object_: str, names: tuple[str, ...]) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Of the fields read those that a snapshot shows, and what they mean."""
    visible = shapes.visible(names)
    return visible, MappingProxyType(concepts_of("hubspot", object_, visible))


class HubSpotClient:
    """Implements `infra.crm.client.CrmClient`."""

    name = "hubspot"
    own_prefix = shapes.PREFIX
    own_objects = frozenset({"contact", "company", "deal", "lead"})

    def __init__(self, settings: Settings, *, portals: Portals | None = None) -> None:
        self._portals = portals if portals is not None else Portals(settings)
        self._known = KnownFields()
        self._recent = Recent(ttl_seconds=settings.crm_recent_seconds)
        self._searches = hubspot_changed.Pace()
        # Live reads are asked for by those who wait for them. What bulk work reads beside its records is little, and writes come
        # as analyses end, a few at a time: where calls are scarce they wait for others.
        self._records: Batches[None, dict[str, Any]] = Batches(BATCH, worth_waiting=self._worth_waiting_in_bulk)
        self._links: Batches[None, dict[str, Any]] = Batches(BATCH, worth_waiting=self._worth_waiting_in_bulk)
        self._writes: Batches[Mapping[str, str], Written | Gone | Refused | Busy] = Batches(
            BATCH, worth_waiting=lambda key: self._portals.worth_waiting(key[0])
        )

    def _worth_waiting_in_bulk(self, key: Key) -> float:
        account, bulk = key[:2]
        return self._portals.worth_waiting(account) if bulk else 0.0

    async def close(self) -> None:
        """See CrmClient."""
        await asyncio.gather(self._records.close(), self._links.close(), self._writes.close())
        await self._portals.close()

    async def integration_user(self, account: Account) -> str | None:
        """The app's id: HubSpot shows it as `sourceId` on events of our own writes."""
        found = account.config.get("app_id") or account.config.get("integration_user")
        return str(found) if found else None

    # ---------------------------------------------------------------- looking around

    async def identify(self, account: Account) -> str:
        """See CrmClient."""
        return await listing.identify(self._portals, account)

    async def survey(self, account: Account, object: str) -> Survey:  # noqa: A002 - our word
        """See CrmClient."""
        return await listing.survey(self._portals, account, object)

    async def count(self, account: Account, object: str) -> int | None:  # noqa: A002 - our word
        """See CrmClient."""
        return await listing.count(self._portals, account, object)

    async def page(self, account: Account, object: str, after: str | None) -> Page:  # noqa: A002 - our word
        """See CrmClient."""
        return await listing.page(self._portals, account, object, after)

    async def changed(
        self,
        account: Account,
        object: str,  # noqa: A002 - our word
        since: datetime,
        until: datetime,
        after: str | None,
    ) -> ChangedPage:
        """See CrmClient."""
        return await hubspot_changed.changed(
            self._portals, self._searches, account, object, since=since, until=until, after=after
        )

    # ---------------------------------------------------------------- reading

    async def read(self, account: Account, object: str, ids: Sequence[str]) -> dict[str, Read | Gone | Refused]:  # noqa: A002 - our word
        """See CrmClient."""
        plural = shapes.PLURALS.get(object)
        if plural is None:
            return {one: Refused("UNSUPPORTED_OBJECT", f"HubSpot has no {object}") for one in ids}
        wanted = list(dict.fromkeys(one for one in ids if one.isdigit()))
        answer: dict[str, Read | Gone | Refused] = {one: Gone() for one in ids}
        self._recent.forget(account.id, plural, wanted)
        try:
            fields = await self._fields(account, object, plural)
            few = self._few(account, wanted) and len(",".join(fields.read)) <= LONGEST_QUERY
            way = self._read_few if few else self._read_in_batches
            records, links = await way(account, object, plural, wanted, fields)
            beside, noted = await self._read_beside(account, links)
            if late := _outdated(records, links, noted):
                records |= await self._read_many(account, plural, late, fields.read)
        except Rejected as rejected:
            return dict.fromkeys(ids, rejected.refusal())
        for one in wanted:
            record = records.get(one)
            if record is not None:
                answer[one] = self._as_read(object, record, fields, links.get(one, {}), beside)
        for record in records.values():
            for loser in shapes.merged_ids(record):
                if isinstance(answer.get(loser), Gone):
                    answer[loser] = Gone(merged_into=str(record["id"]))
        return answer

    def _few(self, account: Account, ids: Sequence[str]) -> bool:
        """Whether to ask one by one: not where calls are what is scarce."""
        return len(ids) <= FEW and not self._portals.crowded(account)

    def _as_read(
        self,
        object_: str,
        record: Mapping[str, Any],
        fields: Fields,
        links: Mapping[str, list[str]],
        beside: Mapping[tuple[str, str], Note | Related],
    ) -> Read:
        properties = record.get("properties") or {}
        visible, concepts = _shown(object_, fields.read)
        found = [beside[kind, one] for kind, ids in links.items() for one in ids if (kind, one) in beside]
        notes = sorted((one for one in found if isinstance(one, Note)), key=lambda note: (note.at, note.id))
        omitted = [*fields.omitted, *(kind.removeprefix("!") for kind in links if kind.startswith("!"))]
        if len(notes) > shapes.MAX_NOTES:
            omitted.append("older notes")
        editor = properties.get(shapes.EDITOR)
        return Read(
            modified_at=shapes.modified_at(record),
            fields=shapes.shown_fields(properties),
            known_fields=visible,
            concepts=concepts,
            notes=tuple(notes[-shapes.MAX_NOTES :]),
            related=tuple(one for one in found if isinstance(one, Related)),
            owner=properties.get("hubspot_owner_id") or None,
            edited_by=f"userId:{editor}" if editor else None,
            omitted=tuple(dict.fromkeys(omitted)),
            feedback=shapes.feedback(properties),
        )

    async def _fields(self, account: Account, object_: str, plural: str) -> Fields:
        async def load() -> Fields:
            found = await self._portals.call(account, "GET", f"{_PROPERTIES}/{plural}")
            return shapes.chosen_fields(object_, found.get("results") or ())

        return await self._known.get(account.id, object_, load)

    async def _read_few(
        self, account: Account, object_: str, plural: str, ids: Sequence[str], fields: Fields
    ) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, list[str]]]]:
        """Records and their links, one call each."""
        kinds = _linked_kinds(object_)
        query = {"properties": ",".join(fields.read), **({"associations": ",".join(kinds)} if kinds else {})}
        try:
            answers = await asyncio.gather(*(self._get(account, f"{_OBJECTS}/{plural}/{one}", query) for one in ids))
        except Rejected:
            # One kind of association that the app may not see refuses the whole answer; asked kind by kind, only that one is missing.
            return await self._read_in_batches(account, object_, plural, ids, fields)
        records = {one: found for one, found in zip(ids, answers, strict=True) if found is not None}
        links = {}
        for one, found in records.items():
            given = found.get("associations") or {}
            links[one] = _capped(object_, {kind: given.get(kind) or {} for kind in kinds})
        return records, links

    async def _read_in_batches(
        self, account: Account, object_: str, plural: str, ids: Sequence[str], fields: Fields
    ) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, list[str]]]]:
        records, links = await asyncio.gather(
            self._read_many(account, plural, ids, fields.read), self._links_of_many(account, object_, plural, ids)
        )
        return records, links

    async def _get(self, account: Account, path: str, query: Mapping[str, str]) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = await self._portals.call(account, "GET", path, query=query)
        except Rejected as rejected:
            if rejected.status == 404:
                return None
            raise
        return found

    async def _read_many(
        self, account: Account, plural: str, ids: Sequence[str], names: Sequence[str]
    ) -> dict[str, dict[str, Any]]:
        """Records by id, as far as they are there."""
        wanted = list(names)
        path = f"{_OBJECTS}/{plural}/batch/read"

        async def read(take: Take[None]) -> dict[str, dict[str, Any]]:
            def body() -> dict[str, Any]:
                inputs = [{"id": one} for one in take()]
                return {"properties": wanted, "propertiesWithHistory": [], "inputs": inputs} if inputs else {}

            found = await self._portals.call(account, "POST", path, body)
            by_id: dict[str, dict[str, Any]] = {}
            for record in found.get("results") or ():
                # Asked for a record that was merged into another, HubSpot answers with that one.
                for one in (*shapes.merged_ids(record), str(record["id"])):
                    by_id[one] = record
            return by_id

        key = (account.id, is_bulk(), path, tuple(wanted))
        answer = await self._records.ask(key, dict.fromkeys(ids), read)
        return {str(record["id"]): record for record in answer.values()}

    async def _links_of_many(
        self, account: Account, object_: str, plural: str, ids: Sequence[str]
    ) -> dict[str, dict[str, list[str]]]:
        """What hangs on each record: kind → ids."""
        kinds = _linked_kinds(object_)

        async def read(kind: str) -> dict[str, dict[str, Any]]:
            try:
                rows = await self._links_to(account, plural, kind, ids)
            except Rejected:
                # No scope for this kind of object: the record is read without it.
                return {one: {"refused": True} for one in ids}
            return {one: {"results": row.get("to") or [], "paging": row.get("paging")} for one, row in rows.items()}

        found = await asyncio.gather(*(read(kind) for kind in kinds))
        return {
            one: _capped(object_, {kind: rows[one] for kind, rows in zip(kinds, found, strict=True) if one in rows})
            for one in ids
        }

    async def _links_to(
        self, account: Account, plural: str, kind: str, ids: Sequence[str]
    ) -> dict[str, dict[str, Any]]:
        """HubSpot's rows of associations, by the record that they start from."""
        path = f"{_ASSOCIATIONS}/{plural}/{kind}/batch/read"

        async def read(take: Take[None]) -> dict[str, dict[str, Any]]:
            def body() -> dict[str, Any]:
                inputs = [{"id": one} for one in take()]
                return {"inputs": inputs} if inputs else {}

            found = await self._portals.call(account, "POST", path, body)
            return {str((row.get("from") or {}).get("id", "")): row for row in found.get("results") or ()}

        return await self._links.ask((account.id, is_bulk(), path), dict.fromkeys(ids), read)

    async def _read_beside(
        self, account: Account, links: Mapping[str, Mapping[str, list[str]]]
    ) -> tuple[dict[tuple[str, str], Note | Related], dict[tuple[str, str], datetime]]:
        """Activities and related records, each read once; and when activities last changed."""
        noted: dict[tuple[str, str], datetime] = {}
        wanted: dict[str, dict[str, None]] = {}
        for given in links.values():
            for kind, ids in given.items():
                if not kind.startswith("!"):
                    wanted.setdefault(kind, {}).update(dict.fromkeys(ids))

        async def read(kind: str, ids: Sequence[str]) -> Mapping[str, Note | Related | None]:
            async def fetch(missing: Sequence[str]) -> dict[str, Related]:
                found = await self._read_many(account, kind, missing, shapes.RELATED_FIELDS[kind])
                return {one: shapes.related(kind, record) for one, record in found.items()}

            try:
                if kind not in shapes.ACTIVITIES:
                    return await self._recent.through(account.id, kind, ids, fetch)
                records = await self._read_many(account, kind, ids, shapes.ACTIVITIES[kind])
            except Rejected:
                return {}
            noted.update({(kind, one): shapes.modified_at(record) for one, record in records.items()})
            return {one: shapes.note(kind, record) for one, record in records.items()}

        kinds = [kind for kind, ids in wanted.items() if ids]
        answers = await asyncio.gather(*(read(kind, list(wanted[kind])) for kind in kinds))
        found = {
            (kind, one): made
            for kind, answer in zip(kinds, answers, strict=True)
            for one, made in answer.items()
            if made is not None
        }
        return found, noted

    async def parents(self, account: Account, object: str, ids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:  # noqa: A002 - our word
        """See CrmClient."""
        plural = shapes.PLURALS.get(object, "")
        wanted = list(dict.fromkeys(one for one in ids if one.isdigit()))
        hang: dict[str, list[tuple[str, str]]] = {one: [] for one in ids}
        if plural not in shapes.ACTIVITIES:
            return hang
        if self._few(account, wanted):
            found = await asyncio.gather(*(self._parents_of_one(account, plural, one) for one in wanted))
        else:
            found = await asyncio.gather(*(self._parents_of_many(account, plural, kind, wanted) for kind in _PARENTS))
        for one, kind, target in dict.fromkeys(pair for some in found for pair in some):
            if target and one in hang:
                hang[one].append((shapes.SINGULARS[kind], target))
        return hang

    async def _parents_of_one(self, account: Account, plural: str, one: str) -> list[tuple[str, str, str]]:
        path = f"{_OBJECTS}/{plural}/{one}"
        try:
            record = await self._get(account, path, {"associations": ",".join(_PARENTS)})
        except Rejected:
            # Not every portal has leads and tickets.
            record = await self._get(account, path, {"associations": ",".join(_PARENTS[:3])})
        given = (record or {}).get("associations") or {}
        return [
            (one, kind, shapes.linked(target))
            for kind in _PARENTS
            for target in (given.get(kind) or {}).get("results") or ()
        ]

    async def _parents_of_many(
        self, account: Account, plural: str, kind: str, ids: Sequence[str]
    ) -> list[tuple[str, str, str]]:
        try:
            rows = await self._links_to(account, plural, kind, ids)
        except Rejected:
            return []
        return [(one, kind, shapes.linked(target)) for one, row in rows.items() for target in row.get("to") or ()]

    # ---------------------------------------------------------------- our own properties

    async def own_fields(self, account: Account, object: str, ids: Sequence[str]) -> dict[str, dict[str, str] | Gone]:  # noqa: A002 - our word
        """See CrmClient."""
        plural = shapes.PLURALS[object]
        wanted = [one for one in ids if one.isdigit()]
        names = [shapes.PREFIX + name for name in OWN_FIELDS]
        try:
            records = await self._read_many(account, plural, wanted, names)
        except Rejected as rejected:
            raise rejected.as_account_unavailable(account.id) from rejected
        return {
            one: {
                name.removeprefix(shapes.PREFIX): str(value)
                for name, value in (records[one].get("properties") or {}).items()
                if name.startswith(shapes.PREFIX) and value not in {None, ""}
            }
            if one in records
            else Gone()
            for one in ids
        }

    async def write(
        self,
        account: Account,
        object: str,  # noqa: A002 - our word
        rows: Mapping[str, Mapping[str, str]],
    ) -> dict[str, Written | Gone | Refused | Busy]:
        """See CrmClient."""
        plural = shapes.PLURALS[object]
        inputs = {}
        for one, values in rows.items():
            foreign = sorted(set(values) - set(OWN_FIELDS))
            if foreign:
                raise ValueError(f"{', '.join(foreign)}: not fields of ours")
            inputs[one] = {shapes.PREFIX + name: value for name, value in values.items()}
        answer: dict[str, Written | Gone | Refused | Busy] = {one: Gone() for one in rows}
        valid = [one for one in rows if one.isdigit()]

        async def update(take: Take[Mapping[str, str]]) -> dict[str, Written | Gone | Refused | Busy]:
            return await self._update(account, plural, take)

        key = (account.id, is_bulk(), plural)
        answer.update(await self._writes.ask(key, {one: inputs[one] for one in valid}, update))
        return answer

    async def _update(
        self, account: Account, plural: str, take: Take[Mapping[str, str]]
    ) -> dict[str, Written | Gone | Refused | Busy]:
        def body() -> dict[str, Any]:
            rows = [
                {"id": one, "objectWriteTraceId": one, "properties": properties} for one, properties in take().items()
            ]
            return {"inputs": rows} if rows else {}

        try:
            found = await self._portals.call(
                account, "POST", f"{_OBJECTS}/{plural}/batch/update", body, repeatable=False
            )
        except Rejected as rejected:
            inputs = take()
            ids = list(inputs)
            refusal = rejected.refusal()
            if rejected.status == 403 or refusal.unknown_fields:
                return dict.fromkeys(ids, refusal)
            if len(ids) == 1:
                return {ids[0]: Gone() if rejected.status == 404 else refusal}
            # One bad row may refuse the whole batch: halve it until that row stands alone.
            middle = len(ids) // 2
            halves = [{one: inputs[one] for one in half} for half in (ids[:middle], ids[middle:])]
            first, second = await asyncio.gather(
                *(self._update(account, plural, partial(dict, half)) for half in halves)
            )
            return {**first, **second}
        answer: dict[str, Written | Gone | Refused | Busy] = {one: Busy("NO_ANSWER") for one in take()}
        for result in found.get("results") or ():
            one = str(result.get("objectWriteTraceId") or result.get("id"))
            if one in answer:
                answer[one] = Written()
        for error in found.get("errors") or ():
            outcome = shapes.row_outcome(error)
            for one in shapes.failed_rows(error):
                if one in answer:
                    answer[one] = outcome
        return answer

    async def provision(self, account: Account) -> list[str]:
        """See CrmClient. An object that the account's plan or scopes leave out is passed over."""
        made = await asyncio.gather(*(self._provision(account, object_) for object_ in sorted(self.own_objects)))
        self._known.forget(account.id)
        return [name for some in made for name in some]

    async def _provision(self, account: Account, object_: str) -> list[str]:
        plural = shapes.PLURALS[object_]
        path = f"{_PROPERTIES}/{plural}"
        try:
            there = await self._portals.call(account, "GET", path)
        except Rejected as rejected:
            if object_ == "lead" or rejected.status == 404:
                return []
            raise rejected.as_account_unavailable(account.id) from rejected
        have = {str(found.get("name")) for found in there.get("results") or ()}
        missing = [field for name, field in OWN_FIELDS.items() if shapes.PREFIX + name not in have]
        if not missing:
            return []
        try:
            await self._portals.call(
                account, "POST", f"{path}/groups", {"name": GROUP, "label": GROUP_LABEL, "displayOrder": -1}
            )
        except Rejected as rejected:
            if rejected.status != 409:
                raise rejected.as_account_unavailable(account.id) from rejected
        made = await asyncio.gather(*(self._create(account, path, field) for field in missing))
        return [f"{plural}.{shapes.PREFIX}{field.name}" for field, new in zip(missing, made, strict=True) if new]

    async def _create(self, account: Account, path: str, field: OwnField) -> bool:
        kind, widget = _TYPES[field.kind]
        body = {
            "name": shapes.PREFIX + field.name,
            "label": field.label,
            "description": field.description,
            "groupName": GROUP,
            "type": kind,
            "fieldType": widget,
            "formField": False,
        }
        try:
            await self._portals.call(account, "POST", path, body)
        except Rejected as rejected:
            if rejected.status == 409:
                return False
            raise rejected.as_account_unavailable(account.id) from rejected
        return True


def _outdated(
    records: Mapping[str, Mapping[str, Any]],
    links: Mapping[str, Mapping[str, Sequence[str]]],
    noted: Mapping[tuple[str, str], datetime],
) -> list[str]:
    """Records that are from before a note that was read with them."""
    now = datetime.now(UTC)
    return [
        one
        for one, record in records.items()
        if outdated(
            shapes.modified_at(record),
            (noted[kind, each] for kind, ids in links.get(one, {}).items() for each in ids if (kind, each) in noted),
            now,
        )
    ]


def _linked_kinds(object_: str) -> list[str]:
    related = shapes.RELATED.get(object_)
    return [] if related is None else [*shapes.ACTIVITIES, *related]


def _capped(object_: str, given: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Ids per kind within the caps; a key `!name` says what a cap or a missing scope left out."""
    found: dict[str, list[str]] = {}
    for kind, answer in given.items():
        targets = answer.get("results") or []
        if kind in shapes.ACTIVITIES:
            ids, more = shapes.newest_ids((shapes.linked(target) for target in targets), shapes.MAX_NOTES)
            if more or answer.get("paging"):
                found[f"!older {kind}"] = []
        else:
            limit = shapes.RELATED[object_][kind]
            ids = shapes.primary_first(targets, limit)
            if len({shapes.linked(target) for target in targets}) > limit:
                found[f"!more {kind}"] = []
        if answer.get("refused"):
            found[f"!{kind}: no permission"] = []
        found[kind] = ids
    return found


class _HubSpot:
    name = "hubspot"

    def connect(self, settings: Settings) -> CrmClient:
        """See CrmVendor."""
        return HubSpotClient(settings)


PLUGIN: CrmVendor = _HubSpot()
