"""Batches through the server: what quotas hold for them, and what they took; on a real Valkey and PostgreSQL."""

from __future__ import annotations

import asyncio
import io
import json
import time
from typing import Any

import openai
import pytest
import sqlalchemy as sa

from infra.database.tables import llm_provider_objects as objects
from infra.database.tables import llm_usage
from infra.local.groq_stand_in import Step
from llm_gateway import accounting, pricing
from llm_gateway.policy import Exceptions
from llm_gateway.question import pseudonym
from tests.connected.gateway_place import MODEL, Place, ask

pytestmark = pytest.mark.connected

UNDER_WAY = Step(hang=3_600.0)
MOST = 100
"""Tokens of an answer."""


def lines(count: int, **more: Any) -> bytes:
    bodies = [ask(number, **{"max_tokens": MOST, **more}) for number in range(count)]
    return "\n".join(
        json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body})
        for number, body in enumerate(bodies)
    ).encode()


async def batch(client: openai.AsyncOpenAI, content: bytes, **more: Any) -> Any:
    file = await client.files.create(file=("b.jsonl", io.BytesIO(content)), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", **more
    )


def limit(place: Place, **quotas: Any) -> None:
    policies = place.server._policies
    policies._tenants[place.tenant] = policies.merged(Exceptions.model_validate(quotas))
    policies.version += 1


async def used(place: Place, user: str = "") -> list[int]:
    """Requests, tokens and nanodollars of the tenant's day (of one user's), held ones too."""
    await place.server.core.drained()
    name = f"hookline:llm:q:{place.tenant}"
    fields = ["dn", "dt", "dc"]
    if user:
        name, known = f"hookline:llm:qu:{place.tenant}", pseudonym(place.tenant, user)
        fields = [f"{known}:{what}" for what in ("n", "t", "c")]
    return [int(each or 0) for each in await place.server._redis.hmget(name, fields)]


def end_all(place: Place) -> None:
    for each in place.stand_in._batches.values():
        each["_ready"] = 0.0


LISTED = pricing.price_of("groq", MODEL)
assert LISTED is not None
PRICE = LISTED.output / 2 / 1e6


@pytest.mark.parametrize(
    "quota",
    [
        {"day": {"requests": 5}},
        {"month": {"requests": 5}},
        {"day": {"tokens": 5 * MOST}},
        {"day": {"dollars": 5 * MOST * PRICE}},
    ],
)
async def test_of_ten_batches_at_once_one_passes_a_quota_that_fits_one(place: Place, quota: dict[str, Any]) -> None:
    """INVARIANT: if this fails, a hard limit is overspent as many times as a client has batches."""
    limit(place, **quota)
    place.stand_in.script.extend([UNDER_WAY] * 10)
    async with place.openai() as client:
        told = await asyncio.gather(*(batch(client, lines(3)) for _ in range(10)), return_exceptions=True)
    refused = [each for each in told if isinstance(each, openai.RateLimitError)]
    assert (len(refused), {each.code for each in refused}) == (9, {"quota_exceeded"})
    assert len(place.stand_in._batches) == 1


async def test_a_model_without_a_price_is_not_asked_in_a_batch_either_where_dollars_are_limited(place: Place) -> None:
    mixed = lines(2) + b"\n" + lines(1, model="my/own")
    place.stand_in.script.append(UNDER_WAY)
    async with place.openai() as client:
        await batch(client, mixed)
        limit(place, day={"dollars": 10.0})
        with pytest.raises(openai.RateLimitError, match="groq/my/own has no price"):
            await batch(client, mixed)
    assert len(place.stand_in._batches) == 1


async def test_each_line_of_a_batch_counts_as_a_request(place: Place) -> None:
    limit(place, day={"requests": 20})
    async with place.openai() as client:
        with pytest.raises(openai.RateLimitError, match="requests per day of this tenant"):
            await batch(client, lines(50))
        place.stand_in.script.append(UNDER_WAY)
        await batch(client, lines(20))
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(**ask())


async def test_a_users_quota_bears_a_users_batch(place: Place) -> None:
    limit(place, user_day={"requests": 5})
    place.stand_in.script.extend([UNDER_WAY] * 3)
    async with place.openai() as client:
        await batch(client, lines(3), extra_headers={"X-Hookline-User": "42"})
        with pytest.raises(openai.RateLimitError, match="of this user"):
            await batch(client, lines(3), extra_headers={"X-Hookline-User": "42"})
        made = await batch(client, lines(3), extra_headers={"X-Hookline-User": "43"})
        assert [(await used(place, user))[0] for user in ("42", "43")] == [3, 3]
        end_all(place)
        await client.batches.retrieve(made.id)
    [row] = await place.rows()
    assert (row.user, row.calls) == ("43", 3)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"max_tokens": -1_000_000_000}, "max_tokens"),
        ({"max_tokens": "abc"}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 10**18}, "max_tokens"),
        ({"n": -5}, "n"),
        ({"messages": ["hello"]}, "messages"),
    ],
)
async def test_a_line_that_nobody_can_ask_is_refused_with_its_number_and_field(
    place: Place, more: dict[str, Any], param: str
) -> None:
    async with place.openai() as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await batch(client, lines(2) + b"\n\n" + lines(1, **more))
    assert (refused.value.param, refused.value.code is not None) == (param, True)
    assert "line 4: " in refused.value.message
    assert place.stand_in._batches == {}
    assert await used(place) == [0, 0, 0]


async def test_several_answers_to_a_line_are_held_for(place: Place) -> None:
    place.stand_in.script.append(UNDER_WAY)
    async with place.openai() as client:
        await batch(client, lines(2, n=4))
    requests, tokens, _ = await used(place)
    assert requests == 2
    assert 8 * MOST < tokens < 9 * MOST


async def test_what_is_held_becomes_what_it_took_when_the_batch_has_ended(place: Place) -> None:
    limit(place, day={"requests": 5})
    place.stand_in.script.append(UNDER_WAY)
    async with place.openai() as client:
        made = await batch(client, lines(4))
        before = await used(place)
        end_all(place)
        # One of four came to nothing.
        output = place.stand_in._batches[made.id]["output_file_id"]
        place.stand_in._files[output] = b"\n".join(place.stand_in._files[output].splitlines()[:3])
        await client.batches.retrieve(made.id)
        after = await used(place)
        assert before[0] == 4
        assert after[0] == 3
        assert after[1] < before[1]
        [row] = await place.rows()
        assert after[1:] == [row.input_tokens + row.output_tokens, round(float(row.cost_usd) * 1e9)]
        place.stand_in.script.append(UNDER_WAY)
        await batch(client, lines(2))


@pytest.mark.parametrize("status", ["cancelled", "failed", "expired"])
async def test_what_is_held_comes_back_when_a_batch_comes_to_nothing(place: Place, status: str) -> None:
    place.stand_in.script.append(UNDER_WAY)
    async with place.openai() as client:
        made = await batch(client, lines(4))
        assert (await used(place))[0] == 4
        if status == "cancelled":
            await client.batches.cancel(made.id)
        else:
            place.stand_in._batches[made.id]["status"] = status
            await place.server._batches._account(made.id)
    assert await used(place) == [0, 0, 0]
    assert await place.rows() == []


async def test_a_batch_that_the_provider_does_not_make_holds_nothing(place: Place) -> None:
    place.stand_in.script.append(Step(status=400))
    async with place.openai() as client:
        with pytest.raises(openai.BadRequestError):
            await batch(client, lines(4))
    assert await used(place) == [0, 0, 0]


async def test_what_a_killed_process_held_comes_back_in_full(place: Place) -> None:
    place.stand_in.script.append(UNDER_WAY)
    async with place.openai() as client:
        await batch(client, lines(4))
        held = f"hookline:llm:qr:{place.tenant}"
        redis = place.server._redis
        assert await redis.ttl(held) > 8 * 86_400, "a batch may take a week"
        [(member, until)] = await redis.zrange(held, 0, -1, withscores=True)
        assert 24.9 < (until / 1_000 - (await redis.time())[0]) / 3_600 < 25.2
        await redis.zadd(held, {member: 1})
        await client.chat.completions.create(**ask())
    assert (await used(place))[0] == 1


async def test_what_a_batch_took_is_booked_as_the_librarys_batches_are(place: Place) -> None:
    async with place.openai() as client:
        made = await batch(client, lines(3))
        await client.batches.retrieve(made.id)
    [row] = await place.rows()
    full = pricing.most_usd("groq", MODEL, row.input_tokens, row.output_tokens)
    assert (row.calls, row.batched) == (3, 3)
    assert float(row.cost_usd) == pytest.approx(full / 2, rel=1e-3)
    assert float(row.batch_saved_usd) == pytest.approx(full / 2, rel=1e-3)


@pytest.mark.parametrize("deleted", [False, True])
async def test_answers_under_a_name_without_a_price_cost_what_the_model_costs_that_was_asked(
    place: Place, *, deleted: bool
) -> None:
    """INVARIANT: if this fails, a model that answers under a dated name is free in batches, whatever quotas say."""
    place.stand_in.script.append(UNDER_WAY)
    async with place.openai() as client:
        made = await batch(client, lines(3))
        files, seen = place.stand_in._files, place.stand_in._batches[made.id]
        files[seen["output_file_id"]] = files[seen["output_file_id"]].replace(MODEL.encode(), b"dated-2024-07-18")
        if deleted:
            del files[seen["input_file_id"]]
        end_all(place)
        await client.batches.retrieve(made.id)
    [row] = await place.rows()
    full = pricing.most_usd("groq", MODEL, row.input_tokens, row.output_tokens)
    assert (row.model, row.calls) == ("dated-2024-07-18", 3)
    assert float(row.cost_usd) == (0 if deleted else pytest.approx(full / 2, rel=1e-3))
    assert (await used(place))[2] == round(float(row.cost_usd) * 1e9)


async def test_a_crash_loses_no_batchs_account_and_books_none_twice(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INVARIANT: if this fails, a process that is killed right after a batch ended leaves it unpaid for ever."""

    async def written() -> tuple[list[int], bool]:
        async with place.server.engine.connect() as connection:
            calls = await connection.scalars(sa.select(llm_usage.c.calls).where(llm_usage.c.tenant == place.tenant))
            at = await connection.scalar(sa.select(objects.c.accounted_at).where(objects.c.id == made.id))
        return list(calls), at is not None

    async def killed(*_: Any) -> None:
        raise OSError("killed")

    batches = place.server._batches
    async with place.openai() as client:
        made = await batch(client, lines(3))
        with monkeypatch.context() as patch:
            patch.setattr(accounting, "add", killed)
            with pytest.raises(OSError, match="killed"):
                await batches._account(made.id)
        assert await written() == ([], False)
        held = await used(place)
        # Without a flush: nothing of it is in memory alone.
        await asyncio.gather(*(batches._account(made.id) for _ in range(3)))
        assert await written() == ([3], True)
        assert (await used(place))[1] < held[1]
        await client.batches.retrieve(made.id)
        assert await written() == ([3], True)
        assert (await used(place))[0] == 3


async def forgotten(place: Place) -> None:
    """Redis has lost what it knew of the tenant."""
    await place.server.core.drained()
    redis = place.server._redis
    await redis.delete(*[key async for key in redis.scan_iter(match=f"hookline:llm:*{place.tenant}*", count=1000)])


async def told_again(place: Place, id_: str) -> None:
    """As if the process had died before it noted that quotas have heard of a batch, a while ago."""
    await settled(place, id_)
    async with place.server.engine.begin() as connection:
        long_ago = sa.func.now() - sa.text("interval '2 minutes'")
        await connection.execute(
            objects.update().where(objects.c.id == id_).values(accounted_at=long_ago, settled_at=None)
        )
    await place.server._batches._settling.look()


async def settled(place: Place, id_: str) -> bool:
    await place.server.core.drained()
    await place.server._batches._settling.look()
    async with place.server.engine.connect() as connection:
        at = await connection.scalar(sa.select(objects.c.settled_at).where(objects.c.id == id_))
    return at is not None


async def test_quotas_hear_of_a_batch_though_the_process_died_once_it_was_accounted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INVARIANT: if this fails, a process that is killed between the accounts and the quotas makes a batch free for the month."""
    place.stand_in.script.append(UNDER_WAY)
    async with place.openai() as client:
        made = await batch(client, lines(3), extra_headers={"X-Hookline-User": "42"})
        before = await used(place, "42")
        end_all(place)
        with monkeypatch.context() as patch:
            patch.setattr(place.server.core, "settle", lambda *_, **__: None)
            await place.server._batches._account(made.id)
        assert await used(place, "42") == before
        assert not await settled(place, made.id)
    [row] = await place.rows()
    took = [3, row.input_tokens + row.output_tokens, round(float(row.cost_usd) * 1e9)]
    await told_again(place, made.id)
    assert [await used(place, "42"), await used(place)] == [took, took]
    assert await settled(place, made.id)
    # It was told, and only the note was lost.
    for _ in range(2):
        await told_again(place, made.id)
        assert await used(place) == took
    assert await settled(place, made.id)


async def test_a_batch_whose_place_had_come_back_is_counted_once_however_often_it_is_told(place: Place) -> None:
    place.stand_in.script.append(UNDER_WAY)
    async with place.openai() as client:
        made = await batch(client, lines(3))
        await place.server._redis.zadd(f"hookline:llm:qr:{place.tenant}", {
            (await place.server._redis.zrange(f"hookline:llm:qr:{place.tenant}", 0, -1))[0]: 1
        })  # fmt: skip
        await client.chat.completions.create(**ask())
        assert (await used(place))[0] == 1
        end_all(place)
        await client.batches.retrieve(made.id)
        assert (await used(place))[0] == 4
        await told_again(place, made.id)
        assert (await used(place))[0] == 4
        assert await settled(place, made.id)


async def test_a_redis_that_was_counted_anew_with_a_batch_does_not_count_it_again(place: Place) -> None:
    async with place.openai() as client:
        made = await batch(client, lines(3), extra_headers={"X-Hookline-User": "42"})
        await client.batches.retrieve(made.id)
        await forgotten(place)
        # Nobody has noted yet that quotas heard of it.
        await client.chat.completions.create(**ask(7))
        for _ in range(2):
            assert [(await used(place))[0], (await used(place, "42"))[0]] == [4, 3]
            await told_again(place, made.id)
        assert [(await used(place))[0], (await used(place, "42"))[0]] == [4, 3]
        assert await settled(place, made.id)


@pytest.mark.parametrize("accounted", ["after", "before"])
async def test_a_redis_that_lost_what_a_batch_holds_holds_it_again(place: Place, accounted: str) -> None:
    """INVARIANT: if this fails, an empty Redis lets a batch that is under way be spent a second time."""
    limit(place, day={"requests": 5}, user_day={"requests": 5})
    place.stand_in.script.extend([UNDER_WAY] * 2)
    async with place.openai() as client:
        made = await batch(client, lines(3), extra_headers={"X-Hookline-User": "42"})
        before = [await used(place), await used(place, "42")]
        held = f"hookline:llm:qr:{place.tenant}"
        [(member, until)] = await place.server._redis.zrange(held, 0, -1, withscores=True)
        await forgotten(place)
        if accounted == "before":
            # Who counts the tenant has looked into the accounts, and is slow.
            found = await place.server._ledger.counted(place.tenant)
            end_all(place)
            await client.batches.retrieve(made.id)
            place.server.core._settling._counted = lambda _tenant: asyncio.sleep(0, found)
        with pytest.raises(openai.RateLimitError, match="requests per day"):
            await batch(client, lines(3), extra_headers={"X-Hookline-User": "42"})
        assert [await used(place), await used(place, "42")] == before
        [(again, as_long)] = await place.server._redis.zrange(held, 0, -1, withscores=True)
        assert again == member
        assert abs(as_long - until) < 60_000
        if accounted == "before":
            assert not await settled(place, made.id), "an empty Redis has heard nothing"
            await told_again(place, made.id)
        end_all(place)
        await client.batches.retrieve(made.id)
        [row] = await place.rows()
        took = [3, row.input_tokens + row.output_tokens, round(float(row.cost_usd) * 1e9)]
        assert [await used(place), await used(place, "42")] == [took, took]
        assert await settled(place, made.id)


async def test_a_batch_from_before_quotas_held_any_is_counted_whole(place: Place) -> None:
    async with place.openai() as client:
        made = await batch(client, lines(3))
        async with place.server.engine.begin() as connection:
            await connection.execute(
                objects.update()
                .where(objects.c.id == made.id)
                .values(requests=0, most_tokens=0, most_nano=0, grant_id="", day="", month="")
            )
        before = await used(place)
        await client.batches.retrieve(made.id)
    [row] = await place.rows()
    after = await used(place)
    assert after[0] - before[0] == row.calls == 3
    assert after[1] - before[1] == row.input_tokens + row.output_tokens


async def test_a_batch_whose_making_nobody_noted_is_found_by_its_file(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INVARIANT: if this fails, a process that dies while the provider makes a batch leaves it unpaid for ever."""

    async def killed(*_: Any, **__: Any) -> None:
        raise sa.exc.InterfaceError("", {}, OSError("killed"))

    batches = place.server._batches
    async with place.openai() as client:
        file = await client.files.create(file=("b.jsonl", io.BytesIO(lines(3))), purpose="batch")
        with monkeypatch.context() as patch:
            patch.setattr("llm_gateway.server.batches._own", killed)
            with pytest.raises(openai.InternalServerError):
                await client.batches.create(
                    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
                )
        [made] = place.stand_in._batches.values()
        place.stand_in._batches["other"] = {**made, "id": "other", "input_file_id": "of_nobody_here", "created_at": 1}
        await batches._find()
        assert (await client.batches.list()).data == [], "it may be noted this moment"
        for each in place.stand_in._batches.values():
            each["created_at"] = int(time.time()) - 120
        for _ in range(2):
            await batches._find()
        assert [each.id for each in (await client.batches.list()).data] == [made["id"]]
        await batches._account(made["id"])
    [row] = await place.rows()
    assert (row.calls, row.batched) == (3, 3)
