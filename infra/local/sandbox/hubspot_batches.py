"""HubSpot's batch calls on objects: at most 100 inputs, 207 when some of them fail.

Law: an input with `objectWriteTraceId` fails alone and is named by it; without one, a bad value refuses the whole batch.
"""

from __future__ import annotations

from typing import Any

from infra.local.sandbox.activities import touch_subjects
from infra.local.sandbox.hubspot_call import Call, create_one, kind_of
from infra.local.sandbox.hubspot_errors import HubSpotError, bad_request, invalid_properties, invalid_row, row_error
from infra.local.sandbox.hubspot_values import accept, by_property, show
from infra.local.sandbox.identifiers import iso
from infra.local.sandbox.objects import HubSpotType
from infra.local.sandbox.state import Record, World
from infra.local.sandbox.web import Response, Router, answer

MAX_INPUTS = 100
MAX_HISTORY_INPUTS = 50


class HubSpotBatches:
    """read, create, update, upsert and archive, in batches."""

    def __init__(self, world: World) -> None:
        self.world = world

    def register(self, router: Router) -> None:
        """Add the routes."""
        for verb in ("read", "create", "update", "upsert", "archive"):
            router.add(
                "POST", f"/crm/v3/objects/{{type}}/batch/{verb}", f"objects.batch_{verb}", getattr(self, f"_{verb}")
            )

    def _begin(self, call: Call, name: str) -> tuple[HubSpotType, list[dict[str, Any]]]:
        inputs = call.body.get("inputs")
        if not isinstance(inputs, list) or not all(isinstance(row, dict) for row in inputs):
            raise bad_request("Invalid input JSON: 'inputs' must be an array of objects")
        most = MAX_HISTORY_INPUTS if call.body.get("propertiesWithHistory") else MAX_INPUTS
        if len(inputs) > most:
            raise bad_request(f"The maximum number of inputs supported in a batch request is {most}; got {len(inputs)}")
        return kind_of(name), inputs

    def _finish(self, results: list[dict[str, Any]], errors: list[dict[str, Any]], status: int = 200) -> Response:
        now = iso(self.world.clock())
        body: dict[str, Any] = {"status": "COMPLETE", "results": results, "startedAt": now, "completedAt": now}
        if errors:
            body |= {"numErrors": len(errors), "errors": errors}
            status = 207
        return answer(body, status)

    def _read(self, call: Call, name: str) -> Response:
        kind, inputs = self._begin(call, name)
        names, history = call.body.get("properties") or [], call.body.get("propertiesWithHistory") or []
        unique = call.body.get("idProperty")
        archived = call.request.param("archived") == "true"
        rows = call.account.records[kind.plural]
        results: list[dict[str, Any]] = []
        missing: list[str] = []
        seen: set[str] = set()
        for index, row in enumerate(inputs):
            key = str(row.get("id", ""))
            record = by_property(call.account, kind.plural, unique, key) if unique else rows.get(key)
            if record is None or record.archived != archived or record.gone == "erased" or index < call.failing_rows:
                missing.append(key)
            elif record.id not in seen:
                seen.add(record.id)
                results.append(show(record, call.account, names, history))
        errors = []
        if missing:
            message = f"Could not get some {kind.plural.upper()} objects, they may be deleted or not exist. Check that ids are valid."
            errors.append(row_error("OBJECT_NOT_FOUND", message, {"ids": missing}))
        return self._finish(results, errors)

    def _checked(
        self, call: Call, kind: HubSpotType, row: dict[str, Any], errors: list[dict[str, Any]]
    ) -> dict[str, Any] | None:
        """The row's values; None when it fails alone; raises when it fails the batch."""
        values, problems = accept(call.account, kind.plural, row.get("properties") or {})
        if not problems:
            return values
        if not row.get("objectWriteTraceId"):
            raise invalid_properties(problems)
        errors.append(invalid_row(problems, _context(row)))
        return None

    def _update(self, call: Call, name: str) -> Response:
        kind, inputs = self._begin(call, name)
        keys = [str(row.get("id", "")) for row in inputs]
        if len(set(keys)) != len(keys):
            raise bad_request(
                f"Duplicate IDs found in batch input: {sorted({key for key in keys if keys.count(key) > 1})}. IDs must be unique"
            )
        errors: list[dict[str, Any]] = []
        # Values are judged before anything is written, so that a refused batch has changed nothing.
        checked = [self._checked(call, kind, row, errors) for row in inputs]
        results = []
        for index, (row, key, values) in enumerate(zip(inputs, keys, checked, strict=True)):
            if values is None:
                continue
            unique = row.get("idProperty")
            record = (
                by_property(call.account, kind.plural, unique, key) if unique else call.account.find(kind.plural, key)
            )
            if index < call.failing_rows:
                errors.append(row_error("INTERNAL_ERROR", "internal error", _context(row)))
            elif record is None:
                errors.append(row_error("OBJECT_NOT_FOUND", "resource not found", _context(row)))
            else:
                results.append(self._write(call, record, values, row))
        return self._finish(results, errors)

    def _write(self, call: Call, record: Record, values: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
        if self.world.update(call.account, record, values, call.token.actor):
            touch_subjects(self.world, call.account, record, call.token.actor)
        return _traced(show(record, call.account, list(values)), row)

    def _create(self, call: Call, name: str) -> Response:
        kind, inputs = self._begin(call, name)
        errors: list[dict[str, Any]] = []
        checked = [self._checked(call, kind, row, errors) for row in inputs]
        results = []
        for index, (row, values) in enumerate(zip(inputs, checked, strict=True)):
            if values is None:
                continue
            if index < call.failing_rows:
                errors.append(row_error("INTERNAL_ERROR", "internal error", _context(row)))
                continue
            try:
                record = create_one(self.world, call.account, kind, row, call.token)
            except HubSpotError as error:
                if not row.get("objectWriteTraceId"):
                    raise
                errors.append(row_error(error.body["category"], error.body["message"], _context(row)))
            else:
                results.append(_traced(show(record, call.account, list(values)), row))
        return self._finish(results, errors, 201)

    def _upsert(self, call: Call, name: str) -> Response:
        kind, inputs = self._begin(call, name)
        errors: list[dict[str, Any]] = []
        checked = [self._checked(call, kind, row, errors) for row in inputs]
        results = []
        for index, (row, values) in enumerate(zip(inputs, checked, strict=True)):
            if values is None:
                continue
            if index < call.failing_rows:
                errors.append(row_error("INTERNAL_ERROR", "internal error", _context(row)))
                continue
            unique, key = row.get("idProperty") or "hs_object_id", str(row.get("id", ""))
            record = by_property(call.account, kind.plural, unique, key)
            if record is not None:
                results.append({**self._write(call, record, values, row), "new": False})
            elif unique == "hs_object_id":
                errors.append(row_error("OBJECT_NOT_FOUND", "resource not found", _context(row)))
            else:
                record = self.world.create(call.account, kind.plural, {**values, unique: key}, call.token.actor)
                results.append({**_traced(show(record, call.account, list(values)), row), "new": True})
        return self._finish(results, errors)

    def _archive(self, call: Call, name: str) -> Response:
        kind, inputs = self._begin(call, name)
        for row in inputs:
            record = call.account.find(kind.plural, str(row.get("id", "")))
            if record is not None:
                self.world.archive(call.account, record, call.token.actor)
        return Response(204)


def _context(row: dict[str, Any]) -> dict[str, list[str]]:
    """What tells a caller which of its rows an error is about."""
    context: dict[str, list[str]] = {}
    if row.get("id"):
        context["ids"] = [str(row["id"])]
    if row.get("objectWriteTraceId"):
        context["objectWriteTraceId"] = [str(row["objectWriteTraceId"])]
    return context


def _traced(shown: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    if row.get("objectWriteTraceId"):
        shown["objectWriteTraceId"] = str(row["objectWriteTraceId"])
    return shown
