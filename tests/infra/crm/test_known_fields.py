import asyncio

import pytest

from infra.crm.known_fields import Fields, KnownFields

SOME = Fields(("email",), frozenset())


async def test_many_ask_and_one_call_is_made():
    known, asked = KnownFields(), []

    async def load():
        asked.append(1)
        await asyncio.sleep(0)
        return SOME

    assert await asyncio.gather(*(known.get("a", "contact", load) for _ in range(5))) == [SOME] * 5
    assert len(asked) == 1


async def test_it_is_asked_again_when_old_or_forgotten_or_failed():
    now, asked = [0.0], []
    known = KnownFields(ttl_seconds=10, clock=lambda: now[0])

    async def load():
        asked.append(1)
        if len(asked) == 1:
            raise OSError("away")
        return SOME

    with pytest.raises(OSError, match="away"):
        await known.get("a", "contact", load)
    await known.get("a", "contact", load)
    await known.get("a", "contact", load)
    assert len(asked) == 2
    now[0] = 11
    await known.get("a", "contact", load)
    assert len(asked) == 3
    known.forget("a", "contact")
    await known.get("a", "contact", load)
    assert len(asked) == 4
    known.forget("b")
    await known.get("a", "contact", load)
    assert len(asked) == 4
