"""`hookline serve gateway` on a real Valkey and PostgreSQL, asked by the official clients, in front of the Groq stand-in."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import groq
import openai
import psycopg
import pytest
import sqlalchemy as sa
from pydantic import BaseModel, SecretStr

from infra.accounts import Registry
from infra.database.engine import migrate
from infra.database.tables import llm_usage
from infra.local.groq_stand_in import GroqStandIn, Step
from infra.local.stack import Addresses
from infra.settings import Settings
from llm_gateway.policy import Exceptions
from llm_gateway.server.app import GatewayServer
from llm_gateway.server.keys import VirtualKeys

pytestmark = pytest.mark.connected
MODEL = "openai/gpt-oss-20b"
NOTE = "Ada Lovelace wants a rebate"


@dataclass
class Place:
    settings: Settings
    stand_in: GroqStandIn
    server: GatewayServer
    url: str
    key: str
    keys: VirtualKeys
    tenant: str
    more: list[GatewayServer]

    async def once(self, key: str) -> Any:
        """One question with another key."""
        async with self.openai(key) as client:
            return await client.chat.completions.create(**ask())

    def openai(self, key: str | None = None, **more: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, **{"max_retries": 0, **more})

    def groq(self) -> groq.AsyncGroq:
        return groq.AsyncGroq(base_url=self.url, api_key=self.key, max_retries=0)

    async def another(self) -> str:
        server = GatewayServer(self.settings)
        await server.start()
        self.more.append(server)
        return f"http://127.0.0.1:{server.port}"

    async def rows(self) -> list[Any]:
        await self.server._ledger.flush()
        async with self.server.engine.connect() as connection:
            return list(await connection.execute(sa.select(llm_usage).where(llm_usage.c.tenant == self.tenant)))


@pytest.fixture(scope="module")
def migrated(addresses: Addresses) -> Iterator[Settings]:
    """One database for all of these tests: each has a tenant of its own."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(addresses.database_url, autocommit=True) as connection:
        connection.execute(f'create database "{name}"')
    made = Settings(
        environment="development",
        database_url=SecretStr(urlunsplit(urlsplit(addresses.database_url)._replace(path=f"/{name}"))),
        redis_url=SecretStr(addresses.redis_url),
        master_keys=SecretStr(base64.b64encode(secrets.token_bytes(32)).decode()),
        gateway_port=0,
        ops_port=0,
        _env_file=None,
    )
    migrate(made)
    yield made
    with psycopg.connect(addresses.database_url, autocommit=True) as connection:
        connection.execute(f'drop database "{name}" with (force)')


@pytest.fixture
async def place(migrated: Settings, tenant: str) -> AsyncIterator[Place]:
    stand_in = GroqStandIn(lambda request: f"echo {len(request['messages'])}")
    async with stand_in.serve() as url:
        mine = migrated.model_copy(
            update={
                "provider": "groq",
                # A line of the test's own: what a provider gives is kept in Redis by its key.
                "groq_api_key": SecretStr(secrets.token_hex(8)),
                "groq_base_url": url,
            }
        )
        server = GatewayServer(mine)
        await Registry(server.engine, server.keyring).add_tenant(tenant, tenant)
        await server.start()
        keys = VirtualKeys(server.engine)
        _, text = await keys.create(tenant, scopes=("chat", "batch"))
        place = Place(mine, stand_in, server, f"http://127.0.0.1:{server.port}", text, keys, tenant, [])
        yield place
        for each in (*place.more, server):
            await each.drain(5.0)


def ask(number: int = 0, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": f"{NOTE} {number}"}], **more}


async def test_openais_client_gets_an_answer_and_the_second_time_it_costs_nothing(place: Place) -> None:
    async with place.openai() as client:
        raw = await client.chat.completions.with_raw_response.create(**ask(user="42"))
        again = await client.chat.completions.with_raw_response.create(**ask(user="42"))
    first, second = raw.parse(), again.parse()
    assert first.choices[0].message.content == "echo 1" == second.choices[0].message.content
    assert (raw.headers["x-hookline-cache"], again.headers["x-hookline-cache"]) == ("miss", "hit")
    assert place.stand_in.saw.requests == 1
    [row] = await place.rows()
    assert first.usage is not None
    assert (row.calls, row.cache_hits, row.user, row.input_tokens) == (1, 1, "42", first.usage.prompt_tokens)


async def test_groqs_client_finds_it_under_its_own_path(place: Place) -> None:
    async with place.groq() as client:
        answer = await client.chat.completions.create(**ask())
        models = await client.models.list()
    assert answer.choices[0].message.content == "echo 1"
    assert [each.id for each in models.data] == ["stand-in"]


async def test_a_stream_comes_chunk_by_chunk_and_what_it_took_is_accounted_unasked(place: Place) -> None:
    async with place.openai() as client:
        chunks = [chunk async for chunk in await client.chat.completions.create(**ask(), stream=True)]
        again = [chunk async for chunk in await client.chat.completions.create(**ask(), stream=True)]
        whole = await client.chat.completions.with_raw_response.create(**ask())
        told = [
            chunk
            async for chunk in await client.chat.completions.create(
                **ask(), stream=True, stream_options={"include_usage": True}
            )
        ]

    def text(found: list[Any]) -> str:
        return "".join(choice.delta.content or "" for chunk in found for choice in chunk.choices)

    assert text(chunks) == text(again) == whole.parse().choices[0].message.content == "echo 1"
    assert all(chunk.choices for chunk in chunks)
    assert whole.headers["x-hookline-cache"] == "hit"
    assert place.stand_in.saw.requests == 1
    [row] = await place.rows()
    assert row.output_tokens == place.stand_in.saw.completion_tokens == told[-1].usage.completion_tokens


async def test_who_hangs_up_on_a_stream_hangs_up_on_the_provider(place: Place) -> None:
    place.stand_in.script.append(Step(text="a long answer " * 50, gap=30.0))
    async with place.openai() as client:
        stream = await client.chat.completions.create(**ask(), stream=True)
        await anext(aiter(stream))
        await stream.close()
    async with asyncio.timeout(10):
        while place.stand_in.cancelled == 0:  # noqa: ASYNC110 -- the stand-in counts, and tells nobody
            await asyncio.sleep(0.01)
        while not (rows := await place.rows()):  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0.01)
    assert rows[0].calls == 1
    assert rows[0].input_tokens > 0


async def test_identical_requests_at_once_in_two_replicas_are_one_call(place: Place) -> None:
    place.stand_in.latency = 0.3
    other = await place.another()
    async with (
        place.openai() as one,
        openai.AsyncOpenAI(base_url=f"{other}/v1", api_key=place.key, max_retries=0) as two,
    ):
        answers = await asyncio.gather(*((one, two)[n % 2].chat.completions.create(**ask()) for n in range(32)))
    assert place.stand_in.saw.requests == 1
    assert {answer.id for answer in answers} == {answers[0].id}


async def test_a_refresh_asks_anew_and_no_store_keeps_nothing(place: Place) -> None:
    async with place.openai() as client:
        await client.chat.completions.create(**ask())
        await client.chat.completions.create(**ask(), extra_headers={"Cache-Control": "no-cache"})
        await client.chat.completions.create(**ask())
        assert place.stand_in.saw.requests == 2
        for _ in range(2):
            await client.chat.completions.create(**ask(1), extra_headers={"Cache-Control": "no-store"})
    assert place.stand_in.saw.requests == 4


async def test_a_tool_call_passes_through(place: Place) -> None:
    tool = {
        "type": "function",
        "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"id": {"type": "string"}}}},
    }
    async with place.openai() as client:
        answer = await client.chat.completions.create(**ask(), tools=[tool], tool_choice="required")
        pieces = [
            choice.delta.tool_calls[0]
            async for chunk in await client.chat.completions.create(
                **ask(), tools=[tool], tool_choice="required", stream=True
            )
            for choice in chunk.choices
            if choice.delta.tool_calls
        ]
    [call] = answer.choices[0].message.tool_calls or []
    assert call.function.name == "look_up"
    assert pieces[0].function.name == "look_up"
    assert "".join(piece.function.arguments or "" for piece in pieces) == call.function.arguments
    assert place.stand_in.asked[0]["tools"] == [tool]


class Verdict(BaseModel):
    grade: str


async def test_a_json_schema_passes_to_a_model_that_knows_it_and_is_put_in_words_for_one_that_does_not(
    place: Place,
) -> None:
    place.stand_in.responder = lambda _: '{"grade": "A"}'
    async with place.openai() as client:
        strict = await client.chat.completions.parse(**ask(), response_format=Verdict)
        other = await client.chat.completions.parse(
            **{**ask(), "model": "llama-3.3-70b-versatile"}, response_format=Verdict
        )
    assert strict.choices[0].message.parsed == other.choices[0].message.parsed == Verdict(grade="A")
    assert place.stand_in.asked[0]["response_format"]["type"] == "json_schema"
    assert place.stand_in.asked[1]["response_format"] == {"type": "json_object"}
    assert '"grade"' in place.stand_in.asked[1]["messages"][0]["content"]


async def test_errors_are_openais_and_say_what_to_do(place: Place) -> None:
    async with place.openai() as client:
        with pytest.raises(openai.AuthenticationError, match="hookline gateway keys create"):
            await place.once("hgk_AAAAAAAAAAAA_" + "x" * 43)
        with pytest.raises(openai.BadRequestError) as long:
            await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 150_000}])
        place.stand_in.script.append(Step(status=400, code="some_code"))
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(**ask())
        place.stand_in.script.extend(Step(status=500) for _ in range(4))
        with pytest.raises(openai.APIStatusError) as broken:
            # A model of this test's own: circuits are shared by all who ask the same.
            await client.chat.completions.create(**{**ask(), "model": f"m-{place.tenant}"})
        with pytest.raises(openai.BadRequestError, match="messages"):
            await client.chat.completions.create(model=MODEL, messages=[])
    assert long.value.code == "context_length_exceeded"
    assert "187" in long.value.message
    assert refused.value.code == "some_code"
    assert (broken.value.status_code, broken.value.body["code"]) == (502, "provider_error")  # type: ignore[index]
    assert NOTE not in broken.value.message


async def test_a_timeout_is_told_in_time(place: Place) -> None:
    place.stand_in.script.extend(Step(hang=30.0) for _ in range(4))
    began = asyncio.get_running_loop().time()
    async with place.openai() as client:
        with pytest.raises(openai.InternalServerError) as late:
            await client.chat.completions.create(
                **{**ask(), "model": f"m-{place.tenant}"}, extra_headers={"X-Hookline-Timeout": "0.5"}
            )
    assert late.value.status_code == 504
    assert late.value.code == "model_timeout"
    assert asyncio.get_running_loop().time() - began < 10


async def test_a_spent_quota_is_429_says_until_when_and_is_not_tried_again(place: Place) -> None:
    policy = Exceptions.model_validate({"day": {"requests": 1}})
    policies = place.server._policies
    policies._tenants[place.tenant] = policies.merged(policy)
    policies.version += 1
    async with place.openai(max_retries=5) as client:
        await client.chat.completions.create(**ask())
        with pytest.raises(openai.RateLimitError) as spent:
            await client.chat.completions.create(**ask(1))
        await client.chat.completions.create(**ask())
    assert spent.value.code == "quota_exceeded"
    assert 0 < int(spent.value.response.headers["retry-after"]) <= 86_400
    assert place.stand_in.saw.requests == 1


async def test_keys_hold_what_they_allow_and_end_when_they_should(place: Place) -> None:
    _, batch_only = await place.keys.create(place.tenant, scopes=("batch",))
    _, one_model = await place.keys.create(place.tenant, models=("other",))
    _, brief = await place.keys.create(place.tenant, expires_at=datetime.now(UTC) + timedelta(seconds=1.0))
    old, old_text = await place.keys.create(place.tenant, lane="bulk")
    with pytest.raises(openai.PermissionDeniedError, match="scope"):
        await place.once(batch_only)
    with pytest.raises(openai.PermissionDeniedError, match="may not ask"):
        await place.once(one_model)
    await place.once(old_text)
    new, new_text = await place.keys.rotate(old.id, grace=timedelta(0))
    assert new.lane == "bulk"
    await place.once(new_text)
    await place.keys.revoke(new.id)
    for ended in (old_text, new_text, brief):
        async with asyncio.timeout(4):
            while True:
                try:
                    await place.once(ended)
                except openai.AuthenticationError:
                    break
                await asyncio.sleep(0.05)


async def test_a_batch_passes_through_and_its_results_are_accounted_once(place: Place) -> None:
    lines = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": ask(number)}
        for number in range(3)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    async with place.openai() as client:
        file = await client.files.create(file=("b.jsonl", io.BytesIO(content)), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        done = await client.batches.retrieve(batch.id)
        assert done.output_file_id is not None
        results = (await client.files.content(done.output_file_id)).text
        listed = await client.batches.list()
    assert [json.loads(line)["custom_id"] for line in results.splitlines()] == ["0", "1", "2"]
    assert [each.id for each in listed.data] == [batch.id]
    [row] = await place.rows()
    assert (row.analysis, row.calls, row.output_tokens) == ("batch", 3, place.stand_in.saw.completion_tokens)


async def test_another_tenants_files_do_not_exist(place: Place) -> None:
    other = f"{place.tenant}b"
    await Registry(place.server.engine, place.server.keyring).add_tenant(other, other)
    _, theirs = await place.keys.create(other, scopes=("batch",))
    async with place.openai() as client:
        file = await client.files.create(file=("b.jsonl", io.BytesIO(b"{}")), purpose="batch")
    async with place.openai(theirs) as client:
        with pytest.raises(openai.NotFoundError):
            await client.files.content(file.id)
        with pytest.raises(openai.NotFoundError):
            await client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")


async def test_health_needs_no_key_and_everything_else_does(place: Place) -> None:
    found = {}
    async with aiohttp.ClientSession() as session:
        for path in ("/health/live", "/health/ready", "/v1/models", "/v1/nothing", "/"):
            async with session.get(place.url + path) as answer:
                found[path] = answer.status
    assert found == {"/health/live": 200, "/health/ready": 200, "/v1/models": 401, "/v1/nothing": 401, "/": 401}
