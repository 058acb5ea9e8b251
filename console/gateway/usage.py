"""`hookline gateway usage`: what was asked and what it cost, from Postgres."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import sqlalchemy as sa
import typer
from rich.table import Table

from console.runtime import ConsoleError, out, registry, run
from infra.database.tables import llm_usage

_BY = ("tenant", "user", "analysis", "model", "prompt_version", "day")
_SUMS = (
    "calls", "cache_hits", "input_tokens", "output_tokens", "cached_input_tokens", "cost_usd", "attempts", "model_seconds",
    "cache_saved_usd", "prompt_cache_saved_usd", "packed", "packed_saved_usd", "batched", "batch_saved_usd",
)  # fmt: skip


def usage(
    days: Annotated[int, typer.Option("--days", min=1, help="So many days, today included (UTC).")] = 1,
    tenant: Annotated[str, typer.Option("--tenant", help="This tenant alone.")] = "",
    by: Annotated[
        str, typer.Option("--by", help=f"One row for each, comma-separated: {', '.join(_BY)}.")
    ] = "tenant,model",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Calls, tokens, dollars and what was saved."""
    names = [name.strip() for name in by.split(",") if name.strip()]
    if not names or any(name not in _BY for name in names):
        raise ConsoleError(f"--by {by}: choose of {', '.join(_BY)}, separated by commas")
    since = datetime.now(UTC).date() - timedelta(days=days - 1)
    columns = [llm_usage.c[name] for name in names]
    query = (
        sa.select(*columns, *(sa.func.sum(llm_usage.c[name]).label(name) for name in _SUMS))
        .where(llm_usage.c.day >= since)
        .group_by(*columns)
        .order_by(sa.func.sum(llm_usage.c.cost_usd).desc(), *columns)
    )
    if tenant:
        query = query.where(llm_usage.c.tenant == tenant)

    async def command() -> list[dict[str, Any]]:
        async with registry() as (_, _settings, engine, _keyring), engine.connect() as connection:
            return [_plain(dict(row)) for row in (await connection.execute(query)).mappings()]

    rows = run(command)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
        return
    table = Table(title=f"Model usage since {since}")
    for name in names:
        table.add_column(name, overflow="fold")
    for title in (
        "calls",
        "from cache",
        "packed",
        "in batches",
        "tokens in",
        "of these cached",
        "tokens out",
        "s/answer",
        "$",
        "$ saved",
    ):
        table.add_column(title, justify="right")
    for row in rows:
        saved = sum(row[f"{by}_saved_usd"] for by in ("cache", "prompt_cache", "packed", "batch"))
        seconds = row["model_seconds"] / row["calls"] if row["calls"] else 0.0
        table.add_row(
            *(str(row[name]) for name in names),
            *(f"{row[name]:,}" for name in ("calls", "cache_hits", "packed", "batched", "input_tokens", "cached_input_tokens", "output_tokens")),
            f"{seconds:.2f}", f"{row['cost_usd']:.4f}", f"{saved:.4f}",
        )  # fmt: skip
    out.print(table)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers as JSON knows them; dates as text."""
    plain: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, date):
            plain[name] = value.isoformat()
        elif name in _SUMS:
            plain[name] = float(value) if name.endswith(("_usd", "_seconds")) else int(value)
        else:
            plain[name] = value
    return plain
