"""The Avro schemas of change events, made from the catalogue of an org's fields as it is now.

Law: pure. The header comes first, then the fields in the catalogue's order, each nullable; parts of a name or an address lie inside a
compound field. A schema's id is a hash of its text, so a new custom field means a new id.
Source: "Change Event Schema" of Salesforce's Change Data Capture guide.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from infra.local.sandbox.catalogue_hubspot import Property
from infra.local.sandbox.identifiers import millis

_STRINGS = [
    {"name": "entityName", "type": "string"},
    {"name": "recordIds", "type": {"type": "array", "items": "string"}},
    {
        "name": "changeType",
        "type": {
            "type": "enum",
            "name": "ChangeType",
            "symbols": [
                "CREATE", "UPDATE", "DELETE", "UNDELETE", "GAP_CREATE", "GAP_UPDATE", "GAP_DELETE", "GAP_UNDELETE",
                "GAP_OVERFLOW", "SNAPSHOT",
            ],
        },
    },
    {"name": "changeOrigin", "type": "string"},
    {"name": "transactionKey", "type": "string"},
    {"name": "sequenceNumber", "type": "int"},
    {"name": "commitTimestamp", "type": "long"},
    {"name": "commitNumber", "type": "long"},
    {"name": "commitUser", "type": "string"},
]  # fmt: skip
_BITMAPS = [
    {"name": name, "type": {"type": "array", "items": "string"}}
    for name in ("nulledFields", "diffFields", "changedFields")
]
HEADER = {"type": "record", "name": "ChangeEventHeader", "fields": [*_STRINGS, *_BITMAPS]}
_TYPES = {"boolean": "boolean", "datetime": "long", "int": "int", "double": "double", "currency": "double", "percent": "double"}  # fmt: skip
_NAME_PARTS = ("Salutation", "FirstName", "LastName")
_ADDRESS_PARTS = ("Street", "City", "State", "PostalCode", "Country")


class EventSchema:
    """The schema of one object's change events, and how a record's values become its bytes."""

    def __init__(self, entity: str, fields: dict[str, Property]) -> None:
        self.entity = entity
        self._kinds = {name: _TYPES.get(each.type, "string") for name, each in fields.items()}
        self._compound: dict[str, dict[str, str]] = {}
        """Compound field → its parts → the REST API's names of them."""
        self._places: list[str] = ["ChangeEventHeader"]
        described: list[dict[str, Any]] = [{"name": "ChangeEventHeader", "type": HEADER}]
        inside: set[str] = set()
        for name in fields:
            parts = self._parts(name, fields)
            if parts:
                self._compound[name] = parts
                inside |= set(parts.values())
        for prefix in ("Mailing", "Billing"):
            if f"{prefix}City" in fields:
                parts = {part: prefix + part for part in _ADDRESS_PARTS if prefix + part in fields}
                self._compound[f"{prefix}Address"] = parts
                inside |= set(parts.values())
        for name in [*(each for each in fields if each not in inside and each != "Id"), *self._compound]:
            if name in self._places:
                continue
            self._places.append(name)
            described.append({"name": name, "type": ["null", self._type(name)], "default": None})
        event = {
            "type": "record",
            "name": f"{entity}ChangeEvent",
            "namespace": "com.sforce.eventbus",
            "fields": described,
        }
        self.text = json.dumps(event, separators=(",", ":"))
        digest = hashlib.sha256(self.text.encode()).digest()[:16]
        self.id = base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def _parts(self, name: str, fields: dict[str, Property]) -> dict[str, str]:
        # Only a person's name has parts.
        if name != "Name" or "LastName" not in fields:
            return {}
        return {part: part for part in _NAME_PARTS if part in fields}

    def _type(self, name: str) -> Any:
        parts = self._compound.get(name)
        if parts is None:
            return self._kinds[name]
        kind = "Switchable_PersonName" if name == "Name" else f"{name}_Address"
        fields = [{"name": part, "type": ["null", "string"], "default": None} for part in parts]
        return {"type": "record", "name": kind, "fields": fields}

    def event(self, values: dict[str, Any]) -> dict[str, Any]:
        """The fields that `values` name, as Avro holds them."""
        given = {name: value for name, value in values.items() if value is not None}
        found: dict[str, Any] = {}
        for name in self._places[1:]:
            parts = self._compound.get(name)
            if parts is not None:
                inner = {part: _text(given[rest]) for part, rest in parts.items() if rest in given}
                found[name] = {part: inner.get(part) for part in parts} if inner else None
            elif name in given:
                found[name] = _typed(self._kinds[name], given[name])
        return found

    def bitmaps(self, names: Iterable[str]) -> list[str]:
        """The bits of these fields, by the REST API's names; those that the schema lacks are left out."""
        own, inner = 0, dict.fromkeys(self._compound, 0)
        wanted = set(names)
        for place, name in enumerate(self._places):
            if name in self._compound:
                for bit, rest in enumerate(self._compound[name].values()):
                    inner[name] |= (rest in wanted) << bit
            elif name in wanted:
                own |= 1 << place
        nested = [f"{self._places.index(name)}-0x{bits:X}" for name, bits in inner.items() if bits]
        return [*([f"0x{own:X}"] if own else []), *nested]


def _text(value: Any) -> str:
    return str(value)


def _typed(kind: str, value: Any) -> Any:
    if kind == "boolean":
        return bool(value)
    if kind == "long":
        return millis(str(value)) or 0
    if kind == "int":
        return int(float(value))
    return float(value) if kind == "double" else str(value)
