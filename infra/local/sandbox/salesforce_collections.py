"""Salesforce's sObject Collections: up to 200 records a call, a result a row.

Law: rows fail one by one unless `allOrNone`; at most ten changes of type within a call.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from infra.local.sandbox.activities import touch_subjects
from infra.local.sandbox.identifiers import with_suffix
from infra.local.sandbox.objects import salesforce_type
from infra.local.sandbox.salesforce_call import Call, existing, kind_of
from infra.local.sandbox.salesforce_values import SalesforceError, accept, show
from infra.local.sandbox.state import Record, Value, World
from infra.local.sandbox.web import Response, Router, answer

MAX_RECORDS = 200
MAX_RETRIEVED = 2_000
MAX_CHUNKS = 10
_ROLLED_BACK = "Record rolled back because not all records were valid and the request was using AllOrNone header"

Planned = tuple[Record | None, str, dict[str, Value]] | SalesforceError


class Collections:
    """`/composite/sobjects`."""

    def __init__(self, world: World) -> None:
        self.world = world

    def register(self, router: Router) -> None:
        """Add the routes."""
        base = "/services/data/{version}/composite/sobjects"
        router.add("PATCH", base, "collections.update", self._update)
        router.add("POST", base, "collections.create", self._create)
        router.add("DELETE", base, "collections.delete", self._delete)
        router.add("POST", base + "/{type}", "collections.retrieve", self._retrieve)
        router.add("GET", base + "/{type}", "collections.retrieve", self._retrieve_by_query)
        router.add("PATCH", base + "/{type}/{field}", "collections.upsert", self._upsert)

    @staticmethod
    def _records(call: Call) -> list[dict[str, Any]]:
        records = call.body.get("records")
        if not isinstance(records, list) or not all(isinstance(row, dict) for row in records):
            raise SalesforceError(400, "JSON_PARSER_ERROR", "The request needs a list of records")
        if len(records) > MAX_RECORDS:
            raise SalesforceError(
                400,
                "EXCEEDED_ID_LIMIT",
                f"record limit reached. cannot submit more than {MAX_RECORDS} records into this call",
            )
        chunks = sum(
            1 for _ in groupby(records, key=lambda row: str((row.get("attributes") or {}).get("type")).lower())
        )
        if chunks > MAX_CHUNKS:
            raise SalesforceError(
                400,
                "EXCEEDED_MAX_TYPES_LIMIT",
                f"the records change type more than {MAX_CHUNKS} times within this call",
            )
        return records

    @staticmethod
    def _kind(row: dict[str, Any]) -> str:
        kind = salesforce_type(str((row.get("attributes") or {}).get("type", "")))
        if kind is None:
            raise SalesforceError(
                400, "INVALID_TYPE", "sObject type is missing or not supported: give attributes.type", []
            )
        return kind.name

    def _perform(self, call: Call, planned: list[Planned]) -> Response:
        """Write the rows that can be written; with `allOrNone` none, if one cannot."""
        for index in range(min(call.failing_rows, len(planned))):
            planned[index] = SalesforceError(
                400, "UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access to this record", []
            )
        failed = any(isinstance(row, SalesforceError) for row in planned)
        roll_back = failed and bool(call.body.get("allOrNone"))
        results: list[dict[str, Any]] = []
        for row in planned:
            if isinstance(row, SalesforceError):
                results.append(row.row())
            elif roll_back:
                results.append(SalesforceError(400, "ALL_OR_NONE_OPERATION_ROLLED_BACK", _ROLLED_BACK, []).row())
            else:
                record, kind, values = row
                created = record is None
                if record is None:
                    record = self.world.create(call.account, kind, values, call.token.actor)
                    touch_subjects(self.world, call.account, record, call.token.actor)
                elif self.world.update(call.account, record, values, call.token.actor):
                    touch_subjects(self.world, call.account, record, call.token.actor)
                results.append({"id": record.id, "success": True, "errors": [], "created": created})
        return answer(results)

    def _update(self, call: Call) -> Response:
        planned: list[Planned] = []
        seen: set[str] = set()
        for row in self._records(call):
            try:
                planned.append(self._planned_update(call, row, seen))
            except SalesforceError as error:
                planned.append(error)
        response = self._perform(call, planned)
        # An update's rows say nothing of creation; an upsert's do.
        response.body = response.body.replace(b',"created":false', b"")
        return response

    def _planned_update(self, call: Call, row: dict[str, Any], seen: set[str]) -> Planned:
        kind = self._kind(row)
        record_id = with_suffix(str(row.get("id") or row.get("Id") or ""))
        if not record_id:
            raise SalesforceError(400, "MISSING_ARGUMENT", "Id not specified in an update call", [])
        if record_id in seen:
            raise SalesforceError(400, "DUPLICATE_VALUE", "Duplicate id specified in the list of records", [])
        seen.add(record_id)
        return existing(call, kind_of(kind), record_id), kind, accept(call.account, kind, row)

    def _create(self, call: Call) -> Response:
        planned: list[Planned] = []
        for row in self._records(call):
            try:
                kind = self._kind(row)
                planned.append((None, kind, accept(call.account, kind, row, creating=True)))
            except SalesforceError as error:
                planned.append(error)
        response = self._perform(call, planned)
        response.body = response.body.replace(b',"created":true', b"")
        return response

    def _upsert(self, call: Call, name: str, field: str) -> Response:
        kind = kind_of(name).name
        if field not in call.account.catalogue[kind]:
            raise SalesforceError(
                404, "NOT_FOUND", f"Provided external ID field does not exist or is not accessible: {field}"
            )
        by_value = {str(record.values.get(field)): record for record in call.account.live(kind)}
        planned: list[Planned] = []
        for row in self._records(call):
            try:
                planned.append(self._planned_upsert(call, kind, field, row, by_value))
            except SalesforceError as error:
                planned.append(error)
        return self._perform(call, planned)

    @staticmethod
    def _planned_upsert(call: Call, kind: str, field: str, row: dict[str, Any], by_value: dict[str, Record]) -> Planned:
        value = str(row.get(field) or "")
        if not value:
            raise SalesforceError(400, "MISSING_ARGUMENT", f"{field} not specified", [])
        record = by_value.get(with_suffix(value) if field == "Id" else value)
        if record is None and field == "Id":
            raise SalesforceError(404, "INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id", [])
        return record, kind, accept(call.account, kind, row, creating=record is None)

    def _delete(self, call: Call) -> Response:
        ids = call.request.names("ids")
        if len(ids) > MAX_RECORDS:
            raise SalesforceError(
                400,
                "EXCEEDED_ID_LIMIT",
                f"record limit reached. cannot submit more than {MAX_RECORDS} records into this call",
            )
        results = []
        for record_id in ids:
            key = with_suffix(record_id)
            record = next(
                (rows[key] for rows in call.account.records.values() if key in rows and not rows[key].archived), None
            )
            if record is None:
                results.append(SalesforceError(404, "ENTITY_IS_DELETED", "entity is deleted", []).row())
            else:
                self.world.archive(call.account, record, call.token.actor)
                results.append({"id": record.id, "success": True, "errors": []})
        return answer(results)

    def _found(self, call: Call, name: str, ids: list[str], fields: list[str]) -> Response:
        kind = kind_of(name).name
        if len(ids) > MAX_RETRIEVED:
            raise SalesforceError(
                400,
                "EXCEEDED_ID_LIMIT",
                f"record limit reached. cannot retrieve more than {MAX_RETRIEVED} records in this call",
            )
        catalogue = call.account.catalogue[kind]
        for field in fields:
            if field not in catalogue:
                raise SalesforceError(400, "INVALID_FIELD", f"No such column '{field}' on entity '{kind}'.")
        rows = call.account.records[kind]
        found = [rows.get(with_suffix(key)) for key in ids]
        return answer(
            [
                show(call.account, row, fields, call.version) if row is not None and not row.archived else None
                for row in found
            ]
        )

    def _retrieve(self, call: Call, name: str) -> Response:
        return self._found(
            call, name, [str(key) for key in call.body.get("ids") or ()], list(call.body.get("fields") or ())
        )

    def _retrieve_by_query(self, call: Call, name: str) -> Response:
        return self._found(call, name, call.request.names("ids"), call.request.names("fields"))
