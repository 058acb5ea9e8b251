"""`hookline gateway models`: what is known of the models, what they cost, and whose circuit is open."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from console.gateway.limits import shared
from console.runtime import local_settings, out, run
from llm_gateway.models import known
from llm_gateway.pricing import PRICE_LIST, per_million
from llm_gateway.reading import circuits


def models(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """Models: context, structured outputs, list price, circuit."""

    async def command() -> dict[str, dict[str, Any]]:
        settings = local_settings()
        if settings.redis_url is None:
            return {}
        async with shared(settings) as redis:
            return await circuits(redis)

    open_ = run(command)
    rows = []
    for facts in known():
        inputs, cached, outputs = per_million("groq", facts.name)
        circuit = open_.get(f"groq:{facts.name}", {})
        rows.append(
            {
                "model": facts.name,
                "context_tokens": facts.context_tokens,
                "max_output_tokens": facts.max_output_tokens,
                "structured": facts.structured,
                "usd_per_million": {"input": inputs, "cached_input": cached, "output": outputs},
                "price_list": PRICE_LIST,
                "failures": circuit.get("failures", 0),
                "circuit": circuit.get("circuit", "closed"),
                "why": circuit.get("why", ""),
            }
        )
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
        return
    table = Table(title=f"Models ({PRICE_LIST})")
    for title in ("model", "context", "structured", "$ in", "$ cached", "$ out", "circuit"):
        table.add_column(title)
    for row in rows:
        price = row["usd_per_million"]
        table.add_row(
            str(row["model"]), f"{row['context_tokens']:,}", str(row["structured"]),
            f"{price['input']:g}", f"{price['cached_input']:g}", f"{price['output']:g}", f"{row['circuit']} {row['why']}".strip(),
        )  # fmt: skip
    out.print(table)
