"""The bare loops of the backlog do not win by writing less than Hookline does."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from bench.backlog import feed, floor, portal, shapes
from infra.keyring.cipher import OVERHEAD

ACCOUNT, TENANT, PORTAL = "hubspot:73000001", "backlog", "73000001"


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    return shapes.told(ACCOUNT, TENANT)


async def test_a_change_an_event_with_all_that_ours_says(told: dict[str, Any]):
    body = next(feed.bodies(100, 100, PORTAL, PORTAL, int(time.time() * 1000)))
    found = await floor.Translate(told["key"], told["change"])([SimpleNamespace(value=body)])
    assert len(found) == len(orjson.loads(body))
    assert len({key for key, _ in found}) == len(found)
    for _, value in found:
        assert orjson.loads(value).keys() == told["change"].keys()
        assert len(floor.SEALING) == OVERHEAD


async def test_as_many_insights_as_the_analyses_make_of_each_kind_of_record(told: dict[str, Any]):
    analyse = floor.Analyse(told["insights"])
    for plural in shapes.PLURALS:
        snapshot = {**told["snapshots"][plural], "object": plural}
        record = SimpleNamespace(key=b"k", offset=7, value=orjson.dumps(snapshot) + floor.SEALING)
        found = await analyse([record])
        ours = await shapes.Judge().insights(shapes.snapshot(ACCOUNT, TENANT, plural, 1))
        assert [key for key, _ in found] == [b"k/" + each.analysis.encode() for each in ours]
        for (_, value), each in zip(found, ours, strict=True):
            assert orjson.loads(value)["version"] == [1, 7, 1]
            assert len(value) >= 0.9 * (len(each.model_dump_json()) + OVERHEAD)


def test_a_snapshot_holds_what_the_stand_in_says(told: dict[str, Any]):
    for plural, kind in shapes.PLURALS.items():
        given = told["snapshots"][plural]
        assert given["object"] == kind
        assert given["fields"].items() & portal.fields_of(plural, 1).items()
        assert given["fields"].keys() <= portal.fields_of(plural, 1).keys() | {"createdate"}
