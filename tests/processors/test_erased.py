"""An insight made from a snapshot whose key was destroyed meanwhile is never published."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from infra.keyring import DataKey
from schemas.record import RecordRef
from schemas.topics import INSIGHTS
from tests.processors.test_analyst import Stage
from tests.processors.world import keys, snapshot


async def test_what_was_made_from_a_snapshot_whose_key_is_gone_is_left_out() -> None:
    """INVARIANT: a deal that mentioned somebody who was erased while it was analysed is not sealed, with the name, under the
    deal's next key. If it fails, the erased can be read for good.
    """
    stage = Stage()
    asked = 0

    async def destroyed_meanwhile(refs: Collection[RecordRef]) -> dict[RecordRef, DataKey]:
        nonlocal asked
        asked += 1
        found = await keys(refs)
        return found if asked == 1 else {ref: replace(key, id="ab" * 16) for ref, key in found.items()}

    stage.analyst._keys = destroyed_meanwhile
    assert await stage.see(snapshot()) == []
    assert asked > 1
    assert stage.state.rows == {}
    # The record is read again by whoever destroyed the key, and then everything is said.
    stage.analyst._keys = keys
    assert {each.analysis for each in await stage.see(snapshot(when=5))} == {"data_quality", "lead_intel"}
    assert len(stage.log.of(INSIGHTS)) == 2
