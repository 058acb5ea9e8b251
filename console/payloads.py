"""Payloads as people and files have them: JSON with nothing lost, and back.

Law: what is written here holds customers' data in the clear. A body that is no text is kept in base64, so that every byte of
it comes back.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from schemas.delivery import Delivery
from schemas.topics import Topic

BODY_BASE64 = "body_base64"


def plain(payload: BaseModel) -> dict[str, Any]:
    """The payload as a JSON object."""
    if not isinstance(payload, Delivery):
        return payload.model_dump(mode="json")
    shown: dict[str, Any] = payload.model_dump(mode="json", exclude={"body"})
    try:
        shown["body"] = payload.body.decode()
    except UnicodeDecodeError:
        shown[BODY_BASE64] = base64.b64encode(payload.body).decode()
    return shown


def from_plain(topic: Topic[Any], given: Mapping[str, Any]) -> BaseModel:
    """What `plain` wrote; raises ValueError (pydantic's ValidationError is one) when it is no payload of this topic."""
    if topic.payload is not Delivery:
        found: BaseModel = topic.payload.model_validate(dict(given))
        return found
    fields = dict(given)
    if BODY_BASE64 in fields:
        fields["body"] = base64.b64decode(fields.pop(BODY_BASE64), validate=True)
    elif isinstance(fields.get("body"), str):
        fields["body"] = fields["body"].encode()
    made: BaseModel = topic.payload.model_validate(fields)
    return made
