"""`hookline gateway limits`: what a tenant may ask, what of it is taken, and exceptions for single tenants."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import sqlalchemy as sa
import typer
from pydantic import ValidationError
from redis.asyncio import Redis
from rich.table import Table
from sqlalchemy.dialects.postgresql import insert

from console.runtime import ConsoleError, need, out, registry, run
from infra.database.tables import llm_policies
from infra.redis import build_redis
from infra.settings import Settings
from llm_gateway.policy import Exceptions, Policies
from llm_gateway.reading import lines_of, taken_by

app = typer.Typer(help="Quotas and limits.", no_args_is_help=True)


@asynccontextmanager
async def shared(settings: Settings) -> AsyncIterator[Redis]:
    """Redis, for the length of one command."""
    need(settings, "redis_url")
    client = build_redis(settings)
    try:
        yield client
    finally:
        await client.aclose()


@app.command("show")
def show(
    tenant: Annotated[str, typer.Argument(help="The tenant; without one: every line to a provider.")] = "",
    user: Annotated[str, typer.Option("--user", help="One of the tenant's users: his day as well.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """What may be asked and what of it is taken now."""
    if user and not tenant:
        raise ConsoleError("a user is a tenant's: hookline gateway limits show TENANT --user USER")

    async def command() -> dict[str, Any]:
        async with registry() as (_, settings, engine, _keyring), shared(settings) as redis:
            policies = Policies(settings, engine)
            await policies.read()
            found: dict[str, Any] = {"lines": await lines_of(redis, policies)}
            if tenant:
                found["tenant"] = await taken_by(redis, policies, tenant, user)
            return found

    found = run(command)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    if tenant:
        out.print(_quotas(found["tenant"]))
    out.print(_lines(found["lines"]))


def _quotas(of: dict[str, Any]) -> Table:
    table = Table(title=f"Quotas of {of['tenant']}")
    for title in ("quota", "taken", "limit", "resets"):
        table.add_column(title)
    for name, each in of["quotas"].items():
        marked = f"{each['taken']:,}" + (" (beyond the soft limit)" if each["warning"] else "")
        table.add_row(name, marked, f"{each['limit']:,}" if each["limit"] else "none", each["resets_at"])
    for what in ("requests", "tokens"):
        window, limit = of["window"], of["window"][f"{what}_limit"]
        table.add_row(f"{what} per minute", f"{window[what]:,}", f"{limit:,}" if limit else "none", "slides")
    return table


def _lines(lines: list[dict[str, Any]]) -> Table:
    table = Table(title="Lines to providers (this minute; `*` is the key over all models)")
    for title in ("line", "requests", "tokens", "requests of the day", "tokens of the day", "waiting", "quiet for s"):
        table.add_column(title)
    for line in lines:
        table.add_row(
            line["line"], f"{line['requests']}/{line['requests_limit'] or '-'}", f"{line['tokens']}/{line['tokens_limit'] or '-'}",
            f"{line['day_requests']}/{line['day_requests_limit'] or '-'}",
            f"{line['day_tokens']}/{line['day_tokens_limit'] or '-'}", str(line["waiting"]), f"{line['quiet_s']:.1f}",
        )  # fmt: skip
    return table


@app.command("set")
def set_(
    tenant: Annotated[str, typer.Argument(help="The tenant.")],
    policy: Annotated[
        str,
        typer.Argument(
            help='What holds instead of settings, as JSON: {"day": {"dollars": 5}, "month": {"dollars": 100}, "weight": 2, '
            '"users": {"key:abc": {"requests": 100}}}. What is not named is as in settings; {} takes all back.'
        ),
    ],
) -> None:
    """Give one tenant quotas and limits of its own; running gateways take them up within seconds."""
    try:
        own = Exceptions.model_validate_json(policy)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise ConsoleError(f"this policy cannot be read: {problems}") from None

    async def command() -> None:
        async with registry() as (_, _settings, engine, _keyring), engine.begin() as connection:
            known = await connection.scalar(sa.text("SELECT 1 FROM tenants WHERE id = :id"), {"id": tenant})
            if not known:
                raise ConsoleError(f"there is no tenant {tenant}: `hookline tenant list` shows them")
            row = {
                "tenant": tenant,
                "policy": own.model_dump(mode="json", exclude_none=True),
                "changed_at": datetime.now(UTC),
            }
            await connection.execute(
                insert(llm_policies).values(row).on_conflict_do_update(index_elements=["tenant"], set_=row)
            )

    run(command)
    out.print(f"{tenant}: written. Running gateways take it up within 10 s.")
