"""INVARIANT: what yesterday's release wrote, today's reads. If this fails, a running system dead-letters its backlog.

A golden file is one message of one version as it lay on the topic. Files are added, never edited: to change a schema,
add a field with a default, and a new golden file beside the old one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from schemas.delivery import Delivery
from schemas.topics import ALL, BY_NAME

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*.json"))


def read(topic: str, text: bytes) -> BaseModel:
    if topic == "crm.deliveries":
        return Delivery.unpack(bytes.fromhex(json.loads(text)["packed"]))
    return BY_NAME[topic].payload.model_validate_json(text)


def expected(topic: str, text: bytes) -> dict:
    if topic == "crm.deliveries":
        return json.loads(text)["reads_as"]
    return json.loads(text)


def assert_kept(before: object, after: object, path: str = "") -> None:
    """Everything that was said then is still said; today may say more."""
    if isinstance(before, dict):
        for name, value in before.items():
            assert name in after, f"{path}.{name} is gone"
            assert_kept(value, after[name], f"{path}.{name}")
    elif isinstance(before, list):
        assert len(before) == len(after), path
        for index, value in enumerate(before):
            assert_kept(value, after[index], f"{path}[{index}]")
    else:
        assert before == after, f"{path}: {before!r} became {after!r}"


def test_every_topic_has_a_golden_file():
    assert {path.name.split("@")[0] for path in FILES} >= {topic.name for topic in ALL}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_message_of_an_earlier_version_is_still_read_in_full(path):
    topic = path.name.split("@")[0]
    payload = read(topic, path.read_bytes())
    assert_kept(expected(topic, path.read_bytes()), json.loads(payload.model_dump_json()))


def test_golden_files_are_never_edited():
    sums = dict(line.split()[::-1] for line in (GOLDEN / "SHA256SUMS").read_text().splitlines())
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FILES}
    assert found == sums, "add a new golden file instead of changing one; then add its line to SHA256SUMS"


@pytest.mark.parametrize("topic", ALL, ids=lambda topic: topic.name)
def test_no_field_may_become_required_later(topic):
    """A field that a v1 message lacks must have a default: the set of required fields is frozen per version."""
    frozen = json.loads((GOLDEN / "required.v1.txt").read_text())
    assert (
        sorted(name for name, field in topic.payload.model_fields.items() if field.is_required()) == frozen[topic.name]
    )


def test_a_field_that_is_not_known_yet_is_left_out_and_not_refused():
    for path in FILES:
        topic = path.name.split("@")[0]
        if topic != "crm.deliveries":
            newer = json.dumps({**json.loads(path.read_bytes()), "from_the_future": 1}).encode()
            assert read(topic, newer) == read(topic, path.read_bytes())


def test_the_files_cover_every_insight_payload():
    kinds = {json.loads(path.read_bytes())["analysis"] for path in FILES if path.name.startswith("crm.insights@")}
    assert kinds == {"lead_intel", "requirements", "data_quality"}
