"""Property values as HubSpot takes, keeps and shows them.

Law: values are strings, or absent; what HubSpot would refuse is named with its own error code.
"""

from __future__ import annotations

from typing import Any

from infra.local.sandbox.catalogue_hubspot import MAX_TEXT, Property
from infra.local.sandbox.hubspot_errors import PropertyProblem, bad_request
from infra.local.sandbox.identifiers import iso, millis
from infra.local.sandbox.objects import HUBSPOT
from infra.local.sandbox.state import Account, Record, Value


def accept(account: Account, kind: str, given: dict[str, Any]) -> tuple[dict[str, Value], list[PropertyProblem]]:
    """What to store, and what is wrong with the rest."""
    catalogue = account.catalogue[kind]
    values: dict[str, Value] = {}
    problems: list[PropertyProblem] = []
    for raw_name, raw in given.items():
        name = raw_name.lower()
        definition = catalogue.get(name)
        if definition is None:
            problems.append(
                PropertyProblem(
                    "PROPERTY_DOESNT_EXIST", raw_name, f'Property "{raw_name}" does not exist', account.number
                )
            )
            continue
        if definition.read_only:
            problems.append(
                PropertyProblem(
                    "READ_ONLY_VALUE",
                    name,
                    f'"{name}" is a read only property; its value cannot be set.',
                    account.number,
                )
            )
            continue
        text = _text(raw)
        code, fixed = _check(definition, text)
        if code:
            problems.append(
                PropertyProblem(
                    code, name, f"{text[:80]!r} was not a valid {definition.type} for {name}.", account.number
                )
            )
        else:
            values[name] = fixed
    return values, problems


def _text(raw: Any) -> str:
    if raw is None:
        return ""
    if isinstance(raw, bool):
        return "true" if raw else "false"
    return raw if isinstance(raw, str) else str(raw)


def _check(definition: Property, text: str) -> tuple[str, str]:
    """An error code, or the value as it is stored."""
    code, fixed = "", text
    if text == "":
        return code, fixed
    if len(text) > MAX_TEXT:
        code = "INVALID_STRING_TOO_LONG"
    elif definition.type == "number":
        try:
            float(text)
        except ValueError:
            code = "INVALID_LONG"
    elif definition.type in {"datetime", "date"}:
        moment = millis(text)
        if moment is None:
            code = "INVALID_DATE"
        else:
            fixed = iso(moment) if definition.type == "datetime" else iso(moment)[:10]
    elif definition.type == "bool":
        code = "" if text in {"true", "false"} else "INVALID_BOOLEAN"
    elif definition.type == "enumeration" and definition.options:
        known = {value for value, _ in definition.options}
        # A multiple-checkbox property holds several options with semicolons between them.
        chosen = text.split(";") if definition.field_type == "checkbox" else [text]
        code = "" if all(value in known for value in chosen) else "INVALID_OPTION"
    return code, fixed


def show(record: Record, account: Account, names: list[str], history: list[str] | None = None) -> dict[str, Any]:
    """A record as the objects API answers it: the properties asked for, those without a value as null."""
    kind = HUBSPOT[record.type]
    catalogue = account.catalogue[record.type]
    values = record.values
    properties: dict[str, Any] = {name: values.get(name) for name in (names or kind.defaults) if name in catalogue}
    for name in (kind.created, kind.modified, "hs_object_id"):
        properties[name] = values.get(name)
    shown: dict[str, Any] = {
        "id": record.id,
        "properties": properties,
        "createdAt": iso(record.created),
        "updatedAt": iso(record.modified),
        "archived": record.archived,
    }
    if record.archived:
        shown["archivedAt"] = iso(record.modified)
    if history:
        shown["propertiesWithHistory"] = {
            name: [
                {"value": value or "", "timestamp": iso(at), "sourceType": source, "sourceId": source_id}
                for value, at, source, source_id in record.history.get(name, ())
            ]
            for name in history
            if name in catalogue
        }
    return shown


def by_property(account: Account, kind: str, name: str, value: str) -> Record | None:
    """The record whose unique property has this value (compared without case, as HubSpot compares e-mail addresses)."""
    definition = account.catalogue[kind].get(name)
    if definition is None or not definition.unique:
        raise bad_request(f"Property {name!r} is not a unique identifier property of {kind}.")
    if name == "hs_object_id":
        return account.find(kind, value)
    wanted = value.lower()
    for record in account.records[kind].values():
        if not record.archived and str(record.values.get(name) or "").lower() == wanted:
            return record
    return None
