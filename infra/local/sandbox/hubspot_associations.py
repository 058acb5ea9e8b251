"""HubSpot's associations v4: read in batches, list, create and archive.

Law: association types are HubSpot's own; labels that a user defines are not known here.
"""

from __future__ import annotations

from typing import Any

from infra.local.sandbox.activities import associate, dissociate, link_types
from infra.local.sandbox.hubspot_call import Call, kind_of
from infra.local.sandbox.hubspot_errors import bad_request, not_found, row_error
from infra.local.sandbox.identifiers import iso
from infra.local.sandbox.objects import PRIMARY_TYPES
from infra.local.sandbox.state import Record, World
from infra.local.sandbox.web import Response, Router, answer

MAX_READ, MAX_WRITE = 1_000, 2_000
_PRIMARY = frozenset(PRIMARY_TYPES.values())


class HubSpotAssociations:
    """`/crm/v4/associations/...` and `/crm/v4/objects/.../associations/...`."""

    def __init__(self, world: World) -> None:
        self.world = world

    def register(self, router: Router) -> None:
        """Add the routes."""
        batch = "/crm/v4/associations/{from}/{to}/batch"
        one = "/crm/v4/objects/{from}/{id}/associations"
        router.add("POST", batch + "/read", "associations.batch_read", self._read)
        router.add("POST", batch + "/create", "associations.batch_create", self._create)
        router.add("POST", batch + "/associate/default", "associations.batch_create", self._create_default)
        router.add("POST", batch + "/archive", "associations.batch_archive", self._archive)
        router.add("GET", one + "/{to}", "associations.list", self._list)
        router.add("PUT", one + "/{to}/{other}", "associations.create", self._put)
        router.add("PUT", one + "/default/{to}/{other}", "associations.create", self._put_default)
        router.add("DELETE", one + "/{to}/{other}", "associations.archive", self._delete)

    @staticmethod
    def _shown(call: Call, record: Record, plural: str) -> list[dict[str, Any]]:
        rows = call.account.records[plural]
        return [
            {
                "toObjectId": key,
                "associationTypes": [
                    {
                        "category": "HUBSPOT_DEFINED",
                        "typeId": type_id,
                        **({"label": "Primary"} if type_id in _PRIMARY else {}),
                    }
                    for type_id in types
                ],
            }
            for key, types in record.links.get(plural, {}).items()
            if key in rows and not rows[key].archived
        ]

    def _done(self, results: list[dict[str, Any]], errors: list[dict[str, Any]], status: int = 200) -> Response:
        now = iso(self.world.clock())
        body: dict[str, Any] = {"status": "COMPLETE", "results": results, "startedAt": now, "completedAt": now}
        if errors:
            body |= {"numErrors": len(errors), "errors": errors}
        return answer(body, 207 if errors else status)

    @staticmethod
    def _inputs(call: Call, most: int) -> list[dict[str, Any]]:
        inputs = call.body.get("inputs")
        if not isinstance(inputs, list):
            raise bad_request("Invalid input JSON: 'inputs' must be an array of objects")
        if len(inputs) > most:
            raise bad_request(f"The maximum number of inputs supported in a batch request is {most}; got {len(inputs)}")
        return inputs

    def _read(self, call: Call, from_name: str, to_name: str) -> Response:
        from_kind, to_kind = kind_of(from_name), kind_of(to_name)
        results, errors = [], []
        for row in self._inputs(call, MAX_READ):
            key = str(row.get("id", ""))
            record = call.account.find(from_kind.plural, key)
            found = self._shown(call, record, to_kind.plural) if record is not None else []
            if found:
                results.append({"from": {"id": key}, "to": found})
            else:
                message = f"No {to_kind.canonical} is associated with {from_kind.canonical} {key}."
                errors.append(
                    row_error("OBJECT_NOT_FOUND", message, {"fromObjectId": [key], "toObjectType": [to_kind.type_id]})
                )
                # HubSpot's way of saying "none". The OpenAPI document says object; the wire has a string.
                errors[-1]["subCategory"] = "crm.associations.NO_ASSOCIATIONS_FOUND"
        return self._done(results, errors)

    def _pair(self, call: Call, from_name: str, one: str, to_name: str, other: str) -> tuple[Record, Record]:
        first = call.account.find(kind_of(from_name).plural, one)
        second = call.account.find(kind_of(to_name).plural, other)
        if first is None or second is None:
            raise not_found("One or more associations are not valid: an object does not exist")
        return first, second

    @staticmethod
    def _labels(first: Record, second: Record) -> dict[str, Any]:
        return {
            "fromObjectTypeId": kind_of(first.type).type_id,
            "fromObjectId": first.id,
            "toObjectTypeId": kind_of(second.type).type_id,
            "toObjectId": second.id,
            "labels": [],
        }

    @staticmethod
    def _default(first: Record, second: Record) -> list[dict[str, Any]]:
        return [
            {
                "from": {"id": one.id},
                "to": {"id": other.id},
                "associationSpec": {
                    "associationCategory": "HUBSPOT_DEFINED",
                    "associationTypeId": link_types(one.type, other.type)[0],
                },
            }
            for one, other in ((first, second), (second, first))
        ]

    def _create(self, call: Call, from_name: str, to_name: str) -> Response:
        results = []
        for row in self._inputs(call, MAX_WRITE):
            first, second = self._pair(call, from_name, str(row["from"]["id"]), to_name, str(row["to"]["id"]))
            associate(self.world, call.account, first, second, call.token.actor)
            results.append(self._labels(first, second))
        return self._done(results, [], 201)

    def _create_default(self, call: Call, from_name: str, to_name: str) -> Response:
        results: list[dict[str, Any]] = []
        for row in self._inputs(call, MAX_WRITE):
            first, second = self._pair(call, from_name, str(row["from"]["id"]), to_name, str(row["to"]["id"]))
            associate(self.world, call.account, first, second, call.token.actor)
            results += self._default(first, second)
        return self._done(results, [])

    def _archive(self, call: Call, from_name: str, to_name: str) -> Response:
        for row in self._inputs(call, MAX_WRITE):
            for target in row.get("to") or ():
                first, second = self._pair(call, from_name, str(row["from"]["id"]), to_name, str(target["id"]))
                dissociate(self.world, call.account, first, second, call.token.actor)
        return Response(204)

    def _list(self, call: Call, from_name: str, record_id: str, to_name: str) -> Response:
        record = call.account.find(kind_of(from_name).plural, record_id)
        if record is None:
            raise not_found()
        limit = min(int(call.request.param("limit", "500") or 500), 500)
        rows = self._shown(call, record, kind_of(to_name).plural)
        start = int(call.request.param("after", "0") or 0)
        body: dict[str, Any] = {"results": rows[start : start + limit]}
        if start + limit < len(rows):
            body["paging"] = {"next": {"after": str(start + limit)}}
        return answer(body)

    def _put(self, call: Call, from_name: str, record_id: str, to_name: str, other: str) -> Response:
        first, second = self._pair(call, from_name, record_id, to_name, other)
        associate(self.world, call.account, first, second, call.token.actor)
        return answer(self._labels(first, second), 201)

    def _put_default(self, call: Call, from_name: str, record_id: str, to_name: str, other: str) -> Response:
        first, second = self._pair(call, from_name, record_id, to_name, other)
        associate(self.world, call.account, first, second, call.token.actor)
        return self._done(self._default(first, second), [])

    def _delete(self, call: Call, from_name: str, record_id: str, to_name: str, other: str) -> Response:
        first, second = self._pair(call, from_name, record_id, to_name, other)
        dissociate(self.world, call.account, first, second, call.token.actor)
        return Response(204)
