"""Avro schemas of change events: parsed once, kept by who uses them and by the CRM's fingerprint.

Law: pure memory. A schema is known by (endpoint, fingerprint), never by the fingerprint alone: one org must not be able to give
another's events a meaning. A fingerprint names one schema for ever, so nothing here grows stale.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final

import fastavro

MAX_SCHEMAS: Final = 2_000
"""In memory; some 50 KB each at worst. The least used go, and are read again when wanted."""


class Schema:
    """One parsed schema."""

    __slots__ = ("_named", "_parsed")

    def __init__(self, text: str) -> None:
        """Raises ValueError for what is no Avro schema of a record."""
        self._named: dict[str, Any] = {}
        try:
            self._parsed: Any = fastavro.parse_schema(json.loads(text), named_schemas=self._named)
        except Exception:  # noqa: BLE001 - the library raises whatever it stumbles over; the text may hold names of a customer's
            raise ValueError("no Avro schema") from None
        if not isinstance(self._parsed, Mapping) or self._parsed.get("type") != "record":
            raise ValueError("the Avro schema is not a record's")

    def decode(self, payload: bytes) -> dict[str, Any]:
        """The record; raises ValueError, without content, for bytes that do not fit."""
        try:
            # Typed as whatever a schema may describe; `__init__` saw that it is a record's.
            found: Any = fastavro.schemaless_reader(BytesIO(payload), self._parsed, None)
        except Exception as error:  # noqa: BLE001 - as above
            raise ValueError(f"the event does not fit its schema ({type(error).__name__})") from None
        return dict(found)

    def fields(self, parent: int | None = None) -> tuple[str, list[str]]:
        """The record's field names in their order; with `parent`, that field's name and the names inside it (none: it is plain)."""
        fields = self._parsed["fields"]
        if parent is None:
            return "", [each["name"] for each in fields]
        if not 0 <= parent < len(fields):
            raise ValueError("a bitmap names a field that the schema does not have")
        return fields[parent]["name"], [each["name"] for each in self._inside(fields[parent]["type"])]

    def _inside(self, kind: Any) -> list[Any]:
        for each in kind if isinstance(kind, list) else [kind]:
            found = self._named.get(each) if isinstance(each, str) else each
            if isinstance(found, Mapping) and found.get("type") == "record":
                inside: list[Any] = found["fields"]
                return inside
        return []


class Schemas:
    """What this process knows; not for several threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], Schema] = OrderedDict()

    def get(self, endpoint: str, schema_id: str) -> Schema | None:
        """From memory."""
        found = self._known.get((endpoint, schema_id))
        if found is not None:
            self._known.move_to_end((endpoint, schema_id))
        return found

    def put(self, endpoint: str, schema_id: str, text: str) -> Schema:
        """Keep it; raises ValueError as `Schema`."""
        found = self._known[endpoint, schema_id] = Schema(text)
        while len(self._known) > MAX_SCHEMAS:
            self._known.popitem(last=False)
        return found


KNOWN: Final = Schemas()
"""Of this process: a dialect may reach no server, so whoever has events to translate puts their schemas here first."""
