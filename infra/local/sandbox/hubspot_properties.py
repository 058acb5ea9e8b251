"""HubSpot's properties and their groups: read, create, change and archive, alone and in batches.

Law: a property's name is given once and never changes; standard properties cannot be changed or archived.
"""

from __future__ import annotations

import re
from typing import Any

from infra.local.sandbox.catalogue_hubspot import Property
from infra.local.sandbox.hubspot_call import Call, kind_of
from infra.local.sandbox.hubspot_errors import HubSpotError, bad_request, not_found, row_error
from infra.local.sandbox.identifiers import iso
from infra.local.sandbox.state import Account, World
from infra.local.sandbox.web import Response, Router, answer

_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")
TYPES = frozenset({"string", "number", "date", "datetime", "enumeration", "bool", "phone_number"})


def create_property(account: Account, plural: str, given: dict[str, Any], now: int) -> Property:
    """Add a property, or raise HubSpot's error for what is wrong with its definition."""
    missing = [key for key in ("name", "label", "type", "fieldType", "groupName") if not given.get(key)]
    if missing:
        raise bad_request(f"Invalid input JSON: missing required fields {missing}")
    name, kind, group = str(given["name"]), str(given["type"]), str(given["groupName"])
    if not _NAME.fullmatch(name):
        raise bad_request(
            f"{name!r} is not a valid property name: lower-case letters, digits and underscores, a letter first"
        )
    if kind not in TYPES:
        raise bad_request(f"{kind!r} is not a valid property type")
    if name in account.catalogue[plural]:
        raise HubSpotError(
            409,
            "OBJECT_ALREADY_EXISTS",
            f"A property named '{name}' already exists.",
            subCategory="Properties.PROPERTY_EXISTS",
        )
    if group not in account.groups[plural]:
        raise HubSpotError(
            404,
            "OBJECT_NOT_FOUND",
            f"property group '{group}' does not exist",
            subCategory="Properties.PROPERTY_GROUP_DOES_NOT_EXIST",
        )
    made = Property(
        name=name,
        label=str(given["label"]),
        type=kind,
        field_type=str(given["fieldType"]),
        group=group,
        options=_options(given),
        description=str(given.get("description") or ""),
        custom=True,
        unique=bool(given.get("hasUniqueValue")),
        created=now,
        extra={key: given[key] for key in ("displayOrder", "hidden", "formField") if key in given},
    )
    account.catalogue[plural][name] = made
    return made


def _options(given: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((str(option["value"]), str(option["label"])) for option in given.get("options") or ())


def show_property(definition: Property) -> dict[str, Any]:
    """A definition as the properties API answers it."""
    editable = definition.custom
    shown: dict[str, Any] = {
        "name": definition.name,
        "label": definition.label,
        "type": definition.type,
        "fieldType": definition.field_type,
        "groupName": definition.group,
        "description": definition.description,
        "options": [
            {"label": label, "value": value, "displayOrder": place, "hidden": False}
            for place, (value, label) in enumerate(definition.options)
        ],
        "displayOrder": -1,
        "hasUniqueValue": definition.unique and definition.custom,
        "hidden": False,
        "hubspotDefined": not editable,
        "formField": False,
        "calculated": False,
        "externalOptions": False,
        "archived": False,
        "modificationMetadata": {
            "archivable": editable,
            "readOnlyDefinition": not editable,
            "readOnlyValue": definition.read_only,
        },
        **definition.extra,
    }
    if definition.created:
        shown |= {"createdAt": iso(definition.created), "updatedAt": iso(definition.created)}
    return shown


class HubSpotProperties:
    """`/crm/v3/properties/...`."""

    def __init__(self, world: World) -> None:
        self.world = world

    def register(self, router: Router) -> None:
        """Add the routes."""
        base = "/crm/v3/properties/{type}"
        router.add("GET", base, "properties.list", self._list)
        router.add("POST", base, "properties.create", self._create)
        router.add("GET", base + "/groups", "properties.groups", self._groups)
        router.add("POST", base + "/groups", "properties.create_group", self._create_group)
        router.add("GET", base + "/groups/{name}", "properties.group", self._group)
        router.add("PATCH", base + "/groups/{name}", "properties.update_group", self._update_group)
        router.add("DELETE", base + "/groups/{name}", "properties.archive_group", self._archive_group)
        router.add("POST", base + "/batch/create", "properties.batch_create", self._batch_create)
        router.add("POST", base + "/batch/read", "properties.batch_read", self._batch_read)
        router.add("POST", base + "/batch/archive", "properties.batch_archive", self._batch_archive)
        router.add("GET", base + "/{name}", "properties.get", self._get)
        router.add("PATCH", base + "/{name}", "properties.update", self._update)
        router.add("DELETE", base + "/{name}", "properties.archive", self._archive)

    @staticmethod
    def _find(call: Call, kind: str, name: str) -> Property:
        found = call.account.catalogue[kind_of(kind).plural].get(name)
        if found is None:
            raise not_found(f"Property {name!r} does not exist")
        return found

    @staticmethod
    def _list(call: Call, kind: str) -> Response:
        return answer(
            {"results": [show_property(found) for found in call.account.catalogue[kind_of(kind).plural].values()]}
        )

    def _create(self, call: Call, kind: str) -> Response:
        return answer(
            show_property(create_property(call.account, kind_of(kind).plural, call.body, self.world.clock())), 201
        )

    def _get(self, call: Call, kind: str, name: str) -> Response:
        return answer(show_property(self._find(call, kind, name)))

    def _update(self, call: Call, kind: str, name: str) -> Response:
        found = self._find(call, kind, name)
        if not found.custom:
            raise bad_request(f"Property {name!r} is defined by HubSpot and cannot be changed")
        if "groupName" in call.body and call.body["groupName"] not in call.account.groups[kind_of(kind).plural]:
            raise not_found("property group does not exist")
        found.label = str(call.body.get("label", found.label))
        found.description = str(call.body.get("description", found.description))
        found.group = str(call.body.get("groupName", found.group))
        found.field_type = str(call.body.get("fieldType", found.field_type))
        if "options" in call.body:
            found.options = _options(call.body)
        return answer(show_property(found))

    def _archive(self, call: Call, kind: str, name: str) -> Response:
        if not self._find(call, kind, name).custom:
            raise bad_request(f"Property {name!r} is defined by HubSpot and cannot be archived")
        del call.account.catalogue[kind_of(kind).plural][name]
        return Response(204)

    def _done(self, results: list[dict[str, Any]], errors: list[dict[str, Any]], status: int) -> Response:
        now = iso(self.world.clock())
        body: dict[str, Any] = {"status": "COMPLETE", "results": results, "startedAt": now, "completedAt": now}
        if errors:
            body |= {"numErrors": len(errors), "errors": errors}
        return answer(body, 207 if errors else status)

    def _batch_create(self, call: Call, kind: str) -> Response:
        plural = kind_of(kind).plural
        rows = self._inputs(call)
        results, errors = [], []
        for row in rows:
            try:
                results.append(show_property(create_property(call.account, plural, row, self.world.clock())))
            except HubSpotError as error:
                errors.append(
                    row_error(error.body["category"], error.body["message"], {"name": [str(row.get("name", ""))]})
                )
        return self._done(results, errors, 201)

    def _batch_read(self, call: Call, kind: str) -> Response:
        catalogue = call.account.catalogue[kind_of(kind).plural]
        names = [str(row.get("name", "")) for row in self._inputs(call)]
        missing = [name for name in names if name not in catalogue]
        errors = [row_error("OBJECT_NOT_FOUND", "Some properties do not exist", {"name": missing})] if missing else []
        return self._done([show_property(catalogue[name]) for name in names if name in catalogue], errors, 200)

    def _batch_archive(self, call: Call, kind: str) -> Response:
        catalogue = call.account.catalogue[kind_of(kind).plural]
        for row in self._inputs(call):
            found = catalogue.get(str(row.get("name", "")))
            if found is not None and found.custom:
                del catalogue[found.name]
        return Response(204)

    @staticmethod
    def _inputs(call: Call) -> list[dict[str, Any]]:
        inputs = call.body.get("inputs")
        if not isinstance(inputs, list):
            raise bad_request("Invalid input JSON: 'inputs' must be an array of objects")
        if len(inputs) > 100:
            raise bad_request(f"The maximum number of inputs supported in a batch request is 100; got {len(inputs)}")
        return inputs

    # ---------------------------------------------------------------- groups

    @staticmethod
    def _shown_group(groups: dict[str, str], name: str) -> dict[str, Any]:
        if name not in groups:
            raise not_found(f"property group {name!r} does not exist")
        return {"name": name, "label": groups[name], "displayOrder": list(groups).index(name), "archived": False}

    def _groups(self, call: Call, kind: str) -> Response:
        groups = call.account.groups[kind_of(kind).plural]
        return answer({"results": [self._shown_group(groups, name) for name in groups]})

    def _group(self, call: Call, kind: str, name: str) -> Response:
        return answer(self._shown_group(call.account.groups[kind_of(kind).plural], name))

    def _create_group(self, call: Call, kind: str) -> Response:
        groups = call.account.groups[kind_of(kind).plural]
        name, label = str(call.body.get("name") or ""), str(call.body.get("label") or "")
        if not name or not label:
            raise bad_request("Invalid input JSON: a group needs a name and a label")
        if name in groups:
            raise HubSpotError(409, "OBJECT_ALREADY_EXISTS", f"A property group named '{name}' already exists.")
        groups[name] = label
        return answer(self._shown_group(groups, name), 201)

    def _update_group(self, call: Call, kind: str, name: str) -> Response:
        groups = call.account.groups[kind_of(kind).plural]
        self._shown_group(groups, name)
        groups[name] = str(call.body.get("label", groups[name]))
        return answer(self._shown_group(groups, name))

    def _archive_group(self, call: Call, kind: str, name: str) -> Response:
        plural = kind_of(kind).plural
        self._shown_group(call.account.groups[plural], name)
        if any(found.group == name for found in call.account.catalogue[plural].values()):
            raise bad_request(f"property group {name!r} still has properties")
        del call.account.groups[plural][name]
        return Response(204)
