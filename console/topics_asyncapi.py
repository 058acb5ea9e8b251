"""`hookline topics asyncapi`: what lies on the topics, as an AsyncAPI 3.0 document.

Law: made from `schemas/topics.py`, where topic, payload and key are bound once, and from what each role reads and writes. The
roles consume with the pump and publish with the publisher (docs/adr/0003), so FastStream's own generation knows no channel of
theirs: what it would print is empty.

Source: AsyncAPI 3.0.0 specification; Kafka bindings 0.5.0; CloudEvents 1.0 Kafka binding for the headers.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import typer
from pydantic.json_schema import models_json_schema

from console.status_lag import GROUPS
from infra.kafka.letters import ATTEMPT, DESTINATION, LETTER
from schemas.delivery import Delivery
from schemas.envelope import CONTENT_TYPE, SIZE
from schemas.topics import (
    ALL,
    CHANGES,
    CHANGES_BULK,
    DEAD_LETTERS,
    DELIVERIES,
    INSIGHTS,
    INSIGHTS_REDRIVEN,
    RECORDS,
    Topic,
)

SENDS: dict[str, tuple[Topic[Any], ...]] = {
    "ingress": (DELIVERIES,),
    "translator": (CHANGES, CHANGES_BULK, DEAD_LETTERS),
    "hydrator": (RECORDS, CHANGES, CHANGES_BULK, DEAD_LETTERS),
    "analyst": (INSIGHTS, CHANGES, DEAD_LETTERS),
    "sinks": (DEAD_LETTERS,),
    "reconciler": (CHANGES_BULK,),
    "console": (DELIVERIES, CHANGES_BULK, INSIGHTS_REDRIVEN),
}
"""Role → topics that it writes; the console redrives, imports and replays."""
RECEIVES: dict[str, tuple[Topic[Any], ...]] = {
    "translator": (DELIVERIES,),
    "hydrator": (CHANGES, CHANGES_BULK),
    "analyst": (RECORDS,),
    "sinks": (INSIGHTS, INSIGHTS_REDRIVEN),
    "console": (DEAD_LETTERS,),
}
"""Role → topics that it reads."""
KEYS = {
    DELIVERIES.name: ("tenant/request_id", r"^[^/]+/[^/]+$"),
    INSIGHTS.name: ("tenant/account/object/id/analysis", r"^[^/]+(/[^/]+){4}$"),
    INSIGHTS_REDRIVEN.name: ("tenant/account/object/id/analysis", r"^[^/]+(/[^/]+){4}$"),
    DEAD_LETTERS.name: ("tenant/account/object/id, with `-` for what is unknown", r"^[^/]*(/[^/]+){3}$"),
}
RECORD_KEY = ("tenant/account/object/id", r"^[^/]+(/[^/]+){3}$")
_BINDING = "0.5.0"


def asyncapi() -> None:
    """Print the AsyncAPI 3.0 document of all topics: payloads, headers, keys, and who sends and receives."""
    typer.echo(json.dumps(document(), indent=2))


def document() -> dict[str, Any]:
    """The document. Pure; the same for every installation of a release."""
    payloads = list(dict.fromkeys(topic.payload for topic in ALL))
    _, made = models_json_schema(
        [(payload, "serialization") for payload in payloads], ref_template="#/components/schemas/{model}"
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Hookline",
            "version": version("hookline"),
            "description": "What the stages of Hookline promise one another. Keys and headers are in the clear and hold no "
            "personal data. Payloads are sealed (AES-256-GCM); the schemas are those of what was sealed.",
        },
        "defaultContentType": CONTENT_TYPE.decode(),
        "channels": {_name(topic): _channel(topic) for topic in ALL},
        "operations": {
            **{f"{role}.sends.{_name(topic)}": _operation("send", role, topic) for role, topic in _pairs(SENDS)},
            **{f"{role}.receives.{_name(topic)}": _operation("receive", role, topic) for role, topic in _pairs(RECEIVES)},
        },
        "components": {"messages": {_name(topic): _message(topic) for topic in ALL}, "schemas": _schemas(made["$defs"])},
    }  # fmt: skip


def _schemas(given: Any) -> Any:
    """JSON schemas as AsyncAPI has them: its discriminator is the name of the property alone."""
    if isinstance(given, list):
        return [_schemas(each) for each in given]
    if not isinstance(given, dict):
        return given
    made = {name: _schemas(each) for name, each in given.items()}
    if isinstance(found := given.get("discriminator"), dict):
        made["discriminator"] = found["propertyName"]
    return made


def _name(topic: Topic[Any]) -> str:
    return topic.name.replace(".", "_")


def _pairs(given: dict[str, tuple[Topic[Any], ...]]) -> list[tuple[str, Topic[Any]]]:
    return [(role, topic) for role, topics in given.items() for topic in topics]


def _channel(topic: Topic[Any]) -> dict[str, Any]:
    settings = topic.config()
    configured: dict[str, Any] = {"cleanup.policy": [settings["cleanup.policy"]]}
    for name in ("retention.ms", "delete.retention.ms"):
        if name in settings:
            configured[name] = int(settings[name])
    return {
        "address": topic.name,
        "messages": {topic.payload.__name__: {"$ref": f"#/components/messages/{_name(topic)}"}},
        "bindings": {
            "kafka": {"topic": topic.name, "topicConfiguration": configured, "bindingVersion": _BINDING},
        },
    }


def _operation(action: str, role: str, topic: Topic[Any]) -> dict[str, Any]:
    channel = f"#/channels/{_name(topic)}"
    made: dict[str, Any] = {
        "action": action,
        "title": f"{role} {action}s",
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{topic.payload.__name__}"}],
    }
    if action == "receive" and (group := _group(role, topic)):
        made["bindings"] = {"kafka": {"groupId": group, "bindingVersion": _BINDING}}
    return made


def _group(role: str, topic: Topic[Any]) -> dict[str, Any] | None:
    if role == "sinks":
        return {"type": "string", "pattern": r"^hookline\.sink\..+$"}
    found = [group for group, (of, topics) in GROUPS.items() if of == role and topic.name in topics]
    return {"type": "string", "enum": found} if found else None


def _message(topic: Topic[Any]) -> dict[str, Any]:
    description, pattern = KEYS.get(topic.name, RECORD_KEY)
    packed = " Sealed is a big-endian length of 4 bytes, so much JSON, and then the body as it came."
    return {
        "name": topic.type,
        "title": topic.payload.__name__,
        "summary": (topic.payload.__doc__ or "").split("\n")[0],
        "description": f"Sealed with a key per {_SCOPES[topic.scope]}." + (packed if topic.payload is Delivery else ""),
        "contentType": CONTENT_TYPE.decode(),
        "headers": _headers(topic),
        "payload": {"$ref": f"#/components/schemas/{topic.payload.__name__}"},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": description, "pattern": pattern},
                "bindingVersion": _BINDING,
            }
        },
    }


_SCOPES = {"delivery": "endpoint and hour", "record": "CRM record", "tenant": "tenant"}


def _headers(topic: Topic[Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": {"type": "string"},
        "ce_type": {"type": "string", "const": topic.type},
        "ce_source": {"type": "string", "description": "The role that wrote it, e.g. hookline/translator."},
        "ce_time": {"type": "string", "format": "date-time"},
        "content-type": {"type": "string", "const": CONTENT_TYPE.decode()},
        "hl_tenant": {"type": "string"},
        "hl_key": {"type": "string", "pattern": "^[0-9a-f]{32}$", "description": "The data key that seals the payload."},
        "traceparent": {"type": "string", "description": "W3C Trace Context."},
        SIZE: {"type": "string", "pattern": "^[0-9]+$", "description": "Of a compressed payload: its bytes once opened."},
    }  # fmt: skip
    required = ["ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "content-type", "hl_tenant", "hl_key"]
    if topic is not DELIVERIES:
        properties["hl_account"] = {"type": "string", "description": "hubspot:145883449 or salesforce:00D..."}
    if topic.name in {DELIVERIES.name, CHANGES_BULK.name, INSIGHTS_REDRIVEN.name}:
        properties[LETTER] = {"type": "string", "description": "Redriven: the dead letter that it was."}
        properties[ATTEMPT] = {"type": "string", "pattern": "^[0-9]+$", "description": "Redriven: the attempt."}
    if topic is INSIGHTS_REDRIVEN:
        properties[DESTINATION] = {"type": "string", "description": "For this destination alone."}
    return {"type": "object", "properties": properties, "required": required}
