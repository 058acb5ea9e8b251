"""The headers of a request, as docs/gateway.md lists them; on a real Valkey and PostgreSQL."""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import Any

import httpx
import openai
import pytest

from infra.keyring import Keyring, key_id_of
from infra.local.groq_stand_in import Step
from llm_gateway.core import Core
from llm_gateway.policy import Exceptions
from llm_gateway.question import Question
from llm_gateway.server.door import Door
from schemas.record import RecordRef
from tests.connected.gateway_place import Place, ask

pytestmark = pytest.mark.connected
RECORD = "hubspot:1/contact/7"


async def how(client: openai.AsyncOpenAI, number: int = 0, **headers: str) -> str:
    """Where the answer came from."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    raw = await client.chat.completions.with_raw_response.create(**ask(number), extra_headers=named)
    found: str = raw.headers["x-hookline-cache"]
    return found


async def kept(place: Place) -> dict[bytes, bytes]:
    """The tenant's entries in Redis."""
    await place.server.core.drained()
    redis = place.server._redis
    names = [name async for name in redis.scan_iter(f"hookline:llm:a:{{{place.tenant}}}:*", count=10_000)]
    return {name: await redis.get(name) for name in names}


# x-hookline-record


async def test_an_erased_persons_answers_go_with_it(place: Place) -> None:
    """INVARIANT: if this fails, what a model said of a person can be read after the person was erased."""
    other = await place.another()
    ref = RecordRef.parse(f"{place.tenant}/{RECORD}")
    async with (
        place.openai() as client,
        openai.AsyncOpenAI(base_url=f"{other}/v1", api_key=place.key, max_retries=0) as second,
    ):
        assert [await how(client, x_hookline_record=RECORD) for _ in range(2)] == ["miss", "hit"]
        assert await how(second, x_hookline_record=RECORD) == "hit"
        [(name, entry)] = (await kept(place)).items()
        # As another process erases: the servers must hear of it.
        eraser = Keyring(place.server.engine, place.settings.master_keys)  # type: ignore[arg-type]  # it is set
        assert await eraser.record_key_ids([ref]) == [key_id_of(entry)]
        await eraser.destroy_records([ref])
        await asyncio.sleep(2.0)
        assert place.stand_in.saw.requests == 1
        for each in (client, second):
            await how(each, x_hookline_record=RECORD)
        assert place.stand_in.saw.requests == 2, "asked anew, and the new answer is shared again"
    assert await eraser.by_id([key_id_of(entry)]) == {}, "nobody can open what is still there"
    assert await place.server.keyring.by_id([key_id_of(entry)]) == {}
    assert len(set(await kept(place)) - {name}) == 1
    await eraser.stop()


async def test_two_records_and_the_tenant_itself_never_share_an_answer(place: Place) -> None:
    async with place.openai() as client:
        assert await how(client) == "miss"
        assert await how(client, x_hookline_record=RECORD) == "miss"
        assert await how(client, x_hookline_record="hubspot:1/contact/8") == "miss"
        assert await how(client, x_hookline_record=RECORD) == "hit"
    assert len({key_id_of(entry) for entry in (await kept(place)).values()}) == 3


@pytest.mark.parametrize("record", ["contact/7", "hubspot:1//7", "\xff/contact/7", "hubspot:1/contact/" + "7" * 30_000])
async def test_what_names_no_record_is_refused(place: Place, record: str) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.post(
            f"{place.url}/v1/chat/completions", json=ask(),
            headers=[(b"authorization", f"Bearer {place.key}".encode()), (b"x-hookline-record", record.encode("latin-1"))],
        )  # fmt: skip
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_record")


# x-hookline-priority


async def test_nobody_asks_with_more_urgency_than_the_key_may(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """INVARIANT: if this fails, a backfill that calls itself urgent holds up people who wait."""
    lanes: list[str] = []
    enter = Core.enter

    async def entered(core: Core, question: Question, *rest: Any, **more: Any) -> Any:
        lanes.append(question.lane)
        return await enter(core, question, *rest, **more)

    monkeypatch.setattr(Core, "enter", entered)
    found = {}
    for lane in ("interactive", "live", "bulk"):
        _, text = await place.keys.create(place.tenant, lane=lane)
        async with place.openai(text) as client:
            await how(client, cache_control="no-store")
            for said in ("interactive", "live", "bulk"):
                await how(client, cache_control="no-store", x_hookline_priority=said)
            with pytest.raises(openai.BadRequestError) as refused:
                await how(client, x_hookline_priority="urgent")
            assert refused.value.code == "invalid_priority"
        found[lane], lanes = lanes, []
    assert found == {
        "interactive": ["interactive", "interactive", "live", "bulk"],
        "live": ["live", "live", "live", "bulk"],
        "bulk": ["bulk"] * 4,
    }


# x-hookline-user


async def test_the_header_bears_the_users_quota_where_the_body_names_nobody(place: Place) -> None:
    policies = place.server._policies
    policies._tenants[place.tenant] = policies.merged(Exceptions.model_validate({"user_day": {"requests": 1}}))
    policies.version += 1
    async with place.openai() as client:
        await how(client, 0, x_hookline_user="42")
        with pytest.raises(openai.RateLimitError, match="of this user"):
            await how(client, 1, x_hookline_user="42")
        await how(client, 1, x_hookline_user="43")
        raw = await client.chat.completions.with_raw_response.create(
            **ask(2, user="44"), extra_headers={"x-hookline-user": "42"}
        )
        assert raw.headers["x-hookline-cache"] == "miss"
        await how(client, 3)
    assert {row.user: row.calls for row in await place.rows()} == {"42": 1, "43": 1, "44": 1, "": 1}


async def test_a_users_name_of_any_kind_and_length_is_accounted(place: Place) -> None:
    """INVARIANT: if this fails, one request keeps the accounts of everybody from being written."""
    async with place.openai() as client:
        await client.chat.completions.create(**ask(0, user="a\0b"))
        await client.chat.completions.create(**ask(1, user="".join(chr(0x4E00 + n) for n in range(9_000))))
        await how(client, 2, x_hookline_user="7" * 9_000)
    rows = await place.rows()
    assert sorted(row.calls for row in rows) == [1, 1, 1]
    assert {len(row.user) for row in rows} == {2, 256}


# cache-control: max-age


async def test_an_answer_is_kept_no_longer_than_max_age_says_nor_than_the_gateway_does(place: Place) -> None:
    async with place.openai() as client:
        assert await how(client, 0, cache_control="max-age=1") == "miss"
        assert await how(client, 0) == "hit"
        await asyncio.sleep(1.2)
        assert await how(client, 0, cache_control="max-age=0") == "miss"
        assert await how(client, 0) == "miss", "max-age=0 keeps nothing"
        await place.server._redis.delete(*await kept(place))
        for number, said in enumerate(("9999999999", "9" * 5_000, "soon")):
            assert await how(client, number, cache_control=f"max-age={said}") == "miss"
    lives = [await place.server._redis.ttl(name) for name in await kept(place)]
    assert len(lives) == 3
    assert all(place.settings.cache_ttl_seconds - 60 < life <= place.settings.cache_ttl_seconds for life in lives)


# x-hookline-timeout, x-stainless-read-timeout


async def test_the_clients_own_read_timeout_counts(place: Place) -> None:
    place.stand_in.script.extend(Step(hang=30.0) for _ in range(4))
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with place.openai() as client:
        with pytest.raises(openai.InternalServerError) as late:
            await client.chat.completions.create(
                **{**ask(), "model": f"m-{place.tenant}"}, extra_headers={"X-Stainless-Read-Timeout": "0.5"}
            )
    assert (late.value.status_code, late.value.code) == (504, "model_timeout")
    assert loop.time() - began < 10


async def test_both_clients_tell_how_long_they_wait_and_our_own_header_goes_before(
    place: Place, official: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets: list[float] = []
    budget = Door._budget

    def told(door: Door, headers: dict[bytes, bytes]) -> float:
        budgets.append(budget(door, headers))
        return budgets[-1]

    monkeypatch.setattr(Door, "_budget", told)
    async with place.client(official, timeout=17.0) as client:
        for header in ("", "9", "0", "-3", "nan", "inf", "soon"):
            await client.chat.completions.create(
                **ask(), extra_headers={"X-Hookline-Timeout": header} if header else {}
            )
    most = place.settings.gateway_timeout_seconds
    assert budgets[:2] == [17.0, 9.0]
    assert all(0.1 <= each <= most for each in budgets)
    assert budgets[-2:] == [most, most]
