"""`hookline gateway` on a real Valkey and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from console.main import app
from infra.accounts import Registry
from infra.database.engine import build_engine
from infra.keyring import DataKey, Keyring
from infra.redis import build_redis
from infra.settings import ModelLimits, Settings
from llm_gateway import cache, pricing
from llm_gateway.accounting import Ledger
from llm_gateway.core import Core
from llm_gateway.policy import Policies
from llm_gateway.question import Grant, Line, Question, Usage

pytestmark = pytest.mark.connected


async def _asked(settings: Settings, tenant: str) -> None:
    """A tenant that asked twice, the second time beyond its soft limit."""
    assert settings.master_keys is not None
    redis, engine = build_redis(settings), build_engine(settings)
    await Registry(engine, Keyring(engine, settings.master_keys)).add_tenant(tenant, "Acme")
    ledger, policies = Ledger(engine), Policies(settings, engine)
    core = Core(settings, redis, policies, ledger.counted)
    key = DataKey(id=secrets.token_hex(16), tenant=tenant, scope="record", name="r", material=secrets.token_bytes(32))
    for number in range(2):
        digest = cache.named(key, b"%d" % number)
        question = Question(
            tenant, "42", "lead_intel", Line("groq", "openai/gpt-oss-20b", "k"), 10, 10, 1_000, digest=digest, key=key, ttl=60
        )  # fmt: skip
        held = await core.enter(question, asyncio.get_running_loop().time() + 5)
        assert isinstance(held, Grant)
        usage = Usage("openai/gpt-oss-20b", 700, 30, 500, 0.25, 0.05, 1.5, 2, 3, 0.125)
        ledger.call(question, usage, day=held.day)
        core.settle(held, usage, sealed=cache.sealed(key, digest, cache.Entry("{}", "m", "groq", 0.25)))
    ledger.hit(question, "openai/gpt-oss-20b", 0.25)
    await core.drained()
    await ledger.flush()
    await core.close()
    await redis.aclose()
    await engine.dispose()


@pytest.mark.parametrize("model", ["a\0name", "".join(f"{number:x}" for number in range(9_000))])
async def test_a_row_that_postgres_refuses_holds_up_no_other(settings, capsys, model):
    engine = build_engine(settings)
    tenant, ledger = secrets.token_hex(8), Ledger(engine)
    for each in ("openai/gpt-oss-20b", model, "openai/gpt-oss-120b"):
        question = Question(tenant, "42", "lead_intel", Line("groq", each, "k"), 10, 10, 1_000)
        ledger.call(question, Usage(each, 700, 30, 0, 0.25), day="")
    await ledger.flush()
    await ledger.flush()
    async with engine.connect() as connection:
        query = sa.text("SELECT model, calls FROM llm_usage WHERE tenant = :tenant ORDER BY model")
        assert (await connection.execute(query, {"tenant": tenant})).all() == [
            ("openai/gpt-oss-120b", 1),
            ("openai/gpt-oss-20b", 1),
        ]
    await engine.dispose()
    assert capsys.readouterr().out.count("usage_refused") == 1


async def _of_yesterday(settings: Settings, line: str) -> None:
    redis = build_redis(settings)
    await redis.hset(f"hookline:llm:w:{line}", "day", int(time.time() // 86_400) - 1)
    await redis.aclose()


def test_the_console_shows_what_was_asked_what_is_left_and_what_is_kept(
    settings: Settings, tenant: str, monkeypatch: pytest.MonkeyPatch
):
    mine = settings.model_copy(
        update={
            "model_requests_per_day": 2,
            "model_dollars_per_month": 100.0,
            "user_dollars_per_day": 3.0,
            "model_requests_per_minute": 600,
            "provider_limits": {
                "openai/gpt-oss-20b": ModelLimits(tokens_per_day=5_000),
                "groq:*": ModelLimits(requests_per_day=1_000),
            },
        }
    )
    asyncio.run(_asked(mine, tenant))
    for module in ("console.runtime", "console.gateway.cached", "console.gateway.models"):
        monkeypatch.setattr(f"{module}.local_settings", lambda: mine)
    run = CliRunner()

    def said(*arguments: str) -> str:
        result = run.invoke(app, ["gateway", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    [row] = [
        json.loads(line)
        for line in said("usage", "--tenant", tenant, "--by", "tenant,user,model,day", "--json").splitlines()
    ]
    assert (row["calls"], row["cache_hits"], row["input_tokens"], row["cached_input_tokens"]) == (2, 1, 1_400, 1_000)
    assert (row["cost_usd"], row["cache_saved_usd"], row["prompt_cache_saved_usd"]) == (0.5, 0.25, 0.1)
    assert (row["attempts"], row["packed"], row["packed_saved_usd"], row["model_seconds"]) == (4, 6, 0.25, 3.0)
    assert row["day"] == datetime.now(UTC).date().isoformat()
    assert "1.50" in said("usage", "--tenant", tenant), "seconds an answer"

    shown = json.loads(said("limits", "show", tenant, "--json"))
    quotas = shown["tenant"]["quotas"]
    assert (quotas["requests per day"]["taken"], quotas["requests per day"]["warning"]) == (2, True)
    assert (quotas["dollars per month"]["taken"], quotas["dollars per month"]["warning"]) == (0.5, False)
    assert quotas["tokens per day"]["taken"] == 1_460, "a hit counts no tokens"
    assert any(line["line"] == "groq:k:openai/gpt-oss-20b" for line in shown["lines"])
    said("limits", "show", tenant)
    by_user = json.loads(said("limits", "show", tenant, "--user", "42", "--json"))["tenant"]["quotas"]
    assert by_user["tokens per day of the user"]["taken"] == 1_460
    assert by_user["dollars per day of the user"] == {
        **by_user["dollars per day of the user"],
        "taken": 0.5,
        "limit": 3.0,
    }
    assert (shown["tenant"]["window"]["requests"], shown["tenant"]["window"]["requests_limit"]) == (2, 600)
    assert "the user" in said("limits", "show", tenant, "--user", "42")
    [whole] = [line for line in shown["lines"] if line["line"] == "groq:k:*"]
    assert (whole["day_requests"], whole["day_requests_limit"]) == (2, 1_000)
    # The clock is not turned here; the day that Redis wrote is.
    asyncio.run(_of_yesterday(mine, "groq:k:openai/gpt-oss-20b"))
    [over] = [
        line
        for line in json.loads(said("limits", "show", "--json"))["lines"]
        if line["line"] == "groq:k:openai/gpt-oss-20b"
    ]
    assert (over["day_requests"], over["day_tokens"], over["day_tokens_limit"]) == (0, 0, 5_000)

    said("limits", "set", tenant, '{"day": {"requests": 9}, "weight": 2}')
    shown = json.loads(said("limits", "show", tenant, "--json"))["tenant"]
    assert (shown["weight"], shown["quotas"]["requests per day"]["limit"]) == (2.0, 9)
    assert isinstance(run.invoke(app, ["gateway", "limits", "set", tenant, '{"nonsense": 1}']).exception, Exception)

    assert json.loads(said("cache", "show", "--json"))[tenant] == 2
    assert "2 answers forgotten" in said("cache", "forget", tenant)
    assert tenant not in json.loads(said("cache", "show", "--json"))

    models = {row["model"]: row for row in map(json.loads, said("models", "--json").splitlines())}
    assert models["openai/gpt-oss-20b"]["usd_per_million"]["input"] > 0
    assert models["openai/gpt-oss-20b"]["circuit"] == "closed"
    said("models")


def test_every_model_that_may_be_asked_is_shown_with_its_price_and_circuit(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    name = f"own-{secrets.token_hex(4)}"
    routes = tmp_path / "routes.toml"
    routes.write_text(
        f"""
[tiers]
only = ["openai/gpt-oss-20b", {{provider = "second", model = "{name}"}}, {{provider = "second", model = "{name}-free"}}]
[providers.second]
base_url = "https://llm.example.com/v1"
key_variable = "NOT_NEEDED_FOR_THIS"
[prices."second/{name}"]
input = 0.25
output = 2
since = 2026-10-05
[[rules]]
tiers = ["only"]
"""
    )
    mine = settings.model_copy(update={"routes": str(routes)})
    monkeypatch.setattr("console.gateway.models.local_settings", lambda: mine)

    async def opened() -> None:
        redis = build_redis(mine)
        core = Core(mine, redis, Policies(mine), Ledger(build_engine(mine)).counted)
        await core.connect()
        for model in (name, f"{name}-unrouted"):
            for _ in range(5):
                core.breakers.failed(f"second:{model}", "SERVER_ERROR: as scripted")
        await core.drained()
        await core.close()
        await redis.aclose()

    try:
        asyncio.run(opened())
        run = CliRunner()
        result = run.invoke(app, ["gateway", "models", "--json"])
        assert result.exit_code == 0, result.output
        rows = {f"{row['provider']}:{row['model']}": row for row in map(json.loads, result.output.splitlines())}
        own = rows[f"second:{name}"]
        assert own["usd_per_million"] == {"input": 0.25, "cached_input": 0.25, "output": 2.0}
        assert (own["price_list"], own["price_since"], own["routed"]) == ("routes file", "2026-10-05", True)
        assert (own["circuit"], own["why"]) == ("open", "SERVER_ERROR: as scripted")
        assert rows[f"second:{name}-unrouted"]["circuit"] == "open"
        assert rows[f"second:{name}-free"]["usd_per_million"] is None
        listed = rows["groq:openai/gpt-oss-20b"]
        assert listed["routed"]
        assert listed["price_list"].startswith("genai-prices ")
        assert datetime.fromisoformat(listed["price_since"])
        assert f"No price: second/{name}-free" in " ".join(run.invoke(app, ["gateway", "models"]).output.split())
    finally:
        pricing.hold({}, {})


async def test_the_months_amounts_are_rebuilt_from_postgres(settings: Settings, tenant: str):
    engine = build_engine(settings)
    async with engine.begin() as connection:
        await connection.execute(
            sa.text(
                'insert into llm_usage (day, tenant, "user", analysis, model, prompt_version, calls, input_tokens, output_tokens, cost_usd) '
                "values (date_trunc('month', timezone('utc', now()))::date, :t, '42', 'a', 'm', '1', 3, 100, 20, 0.5)"
            ),
            {"t": tenant},
        )
    counted = await Ledger(engine).counted(tenant)
    await engine.dispose()
    assert counted.month == (3, 120, 500_000_000)
    assert counted.users == ({"42": counted.month} if counted.day.day == 1 else {})
