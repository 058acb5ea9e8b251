"""The server's own way to a provider, over real HTTP, against the stand-in."""

from __future__ import annotations

import orjson

from infra.local.groq_stand_in import GroqStandIn
from llm_gateway.server.upstream import Passed, Passing, Upstream

MODEL = "openai/gpt-oss-120b"
BODY = orjson.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hello"}]})


async def test_the_address_may_be_given_with_groqs_path_with_openais_or_without():
    stand_in = GroqStandIn(requests_per_day=500, tokens_per_minute=10_000)
    async with stand_in.serve() as url:
        for path, day in (("", 500), ("/", 500), ("/openai/v1", 500), ("/v1", None), ("/v1/", None)):
            upstream = Upstream("k", f"{url}{path}", 5.0, "second")
            passed = await upstream.complete(Passing(MODEL, (), {}, 10, 0.0, 5.0, body=BODY))
            listed = await upstream.raw("GET", "models")
            await upstream.close()
            assert isinstance(passed, Passed)
            assert listed.status == 200
            assert passed.headroom is not None
            assert passed.headroom.requests_limit == day, "OpenAI's header speaks of the minute"
            assert passed.headroom.tokens_limit == 10_000
