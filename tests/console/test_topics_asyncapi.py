"""The AsyncAPI document is valid, complete, and says what the roles do.

`tests/data/asyncapi/3.0.0.json` is the specification's own JSON schema (AsyncAPI Initiative, npm `@asyncapi/specs` 6.11.1,
Apache License 2.0).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft7Validator
from pydantic import SecretStr

from console.roles import build
from console.status_lag import groups
from console.topics_asyncapi import RECEIVES, SENDS, document
from infra.kafka.codec import Codec
from infra.keyring import Keyring, MemoryKeys, new_master_key
from infra.role import Parts
from infra.settings import ROLES, Settings
from schemas.change import Change
from schemas.topics import ALL, CHANGES

DATA = Path(__file__).parents[1] / "data" / "asyncapi"


@pytest.fixture(scope="module")
def found():
    return document()


def test_it_fits_the_specifications_schema(found):
    schema = json.loads((DATA / "3.0.0.json").read_text())
    errors = [f"{'/'.join(map(str, error.path))}: {error.message[:200]}" for error in Draft7Validator(schema).iter_errors(found)]  # fmt: skip
    assert errors == []
    broken = {**found, "channels": {"a": {"address": 7}}}
    assert list(Draft7Validator(schema).iter_errors(broken)), "the schema would notice"


def test_every_topic_is_a_channel_with_a_payload_a_key_and_headers(found):
    assert {channel["address"] for channel in found["channels"].values()} == {topic.name for topic in ALL}
    for message in found["components"]["messages"].values():
        assert message["payload"]["$ref"].rsplit("/", 1)[1] in found["components"]["schemas"]
        assert message["bindings"]["kafka"]["key"]["pattern"]


def test_every_reference_leads_somewhere(found):
    def references(value):
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for each in value.values():
                yield from references(each)
        elif isinstance(value, list):
            for each in value:
                yield from references(each)

    for reference in references(found):
        at = found
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]


@pytest.mark.parametrize("role", ROLES)
def test_each_role_says_the_topics_that_it_checks_at_its_start(role):
    """INVARIANT: the document follows the code. Else a reader looks for messages where none are sent."""
    settings = Settings(
        kafka_url="127.0.0.1:1",
        database_url=SecretStr("postgresql://nobody@127.0.0.1:1/none"),
        redis_url=SecretStr("redis://127.0.0.1:1"),
        master_keys=SecretStr(new_master_key()),
        public_url="https://hooks.test",
        _env_file=None,
    )
    said = {topic.name for topic in (*SENDS.get(role, ()), *RECEIVES.get(role, ()))}
    assert said == {topic.name for topic in build(settings, role, Parts(settings)).topics}


def test_what_is_received_is_what_the_groups_of_the_status_read():
    read = {}
    for role, topics in groups(Settings(_env_file=None)).values():
        read.setdefault(role, set()).update(topics)
    assert read == {role: {topic.name for topic in topics} for role, topics in RECEIVES.items() if role != "console"}


async def test_a_real_message_has_the_headers_and_the_key_that_are_promised(found):
    keyring = Keyring(MemoryKeys(), SecretStr(new_master_key()))
    change = Change.model_validate(
        {
            "tenant": "acme", "account": "hubspot:1", "object": "deal", "id": "1", "kind": "updated",
            "occurred_at": "2026-11-23T10:00:00Z",
        }
    )  # fmt: skip
    (sealed,) = await Codec(keyring, "hookline/translator").seal(CHANGES, [change], traceparents=["00-a-b-01"])
    message = found["components"]["messages"]["crm_changes"]
    headers = {name: value.decode() for name, value in sealed.headers}
    assert set(headers) <= set(message["headers"]["properties"])
    Draft7Validator(message["headers"]).validate(headers)
    Draft7Validator(message["bindings"]["kafka"]["key"]).validate(sealed.key.decode())
    payload = {"$ref": message["payload"]["$ref"], "components": found["components"]}
    Draft7Validator(payload).validate(json.loads(change.model_dump_json()))
