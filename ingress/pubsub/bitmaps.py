"""Which fields a change event means: bitmaps over the fields of its Avro schema.

Law: pure. Bit i from the right is the schema's field i; `1-0x6` are fields inside field 1. A part of a compound field is named as
the REST API names it: `Name.FirstName` is `FirstName`, `MailingAddress.City` is `MailingCity`.
Source: "Change Event Fields" and "Event Deserialization Considerations" of Salesforce's Pub/Sub API guide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ingress.pubsub.avro import Schema

_BITMAP: Final = re.compile(r"(?:([0-9]{1,5})-)?0x([0-9A-Fa-f]{1,4096})")


def names(bitmaps: Iterable[str], schema: Schema) -> list[str]:
    """The names of all fields whose bit is set, in the schema's order; raises ValueError for what is no bitmap of this schema."""
    found: list[str] = []
    for text in bitmaps:
        match = _BITMAP.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError("a bitmap is not written as one")
        parent, fields = schema.fields(int(match[1]) if match[1] else None)
        bits = int(match[2], 16)
        if bits >> len(fields):
            raise ValueError("a bitmap names a field that the schema does not have")
        found += [_rest_name(parent, name) for place, name in enumerate(fields) if bits >> place & 1]
    return list(dict.fromkeys(found))


def _rest_name(parent: str, name: str) -> str:
    if not parent or parent == "Name":
        return name
    if parent.endswith("Address"):
        return f"{parent.removesuffix('Address')}{name}"
    return f"{parent}.{name}"
