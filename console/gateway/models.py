"""`hookline gateway models`: what is known of the models, what they cost since when, and whose circuit is open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from console.gateway.limits import shared
from console.runtime import local_settings, out, run
from infra.settings import Settings
from llm_gateway import routing
from llm_gateway.models import facts_of, is_known, known
from llm_gateway.pricing import PRICE_LIST, newest_change, price_of
from llm_gateway.reading import circuits

_OFFLINE = "offline"


def models(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """Models: context, structured outputs, price and its date, circuit."""

    async def command() -> dict[str, dict[str, Any]]:
        if settings.redis_url is None:
            return {}
        async with shared(settings) as redis:
            return await circuits(redis)

    settings = local_settings()
    routed = _routed(settings)
    open_ = run(command)
    listed = [f"{_OFFLINE if facts.name == 'offline-rules' else 'groq'}:{facts.name}" for facts in known()]
    rows = [
        _row(name, open_.get(name, {}), routed=name in routed) for name in dict.fromkeys((*listed, *routed, *open_))
    ]
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
        return
    table = Table(title=f"Models ({PRICE_LIST})")
    for title in (
        "provider",
        "model",
        "routed",
        "context",
        "structured",
        "$ in",
        "$ cached",
        "$ out",
        "since",
        "circuit",
    ):
        table.add_column(title)
    for row in rows:
        price = row["usd_per_million"]
        said = ("none", "", "", "") if price is None else (*(f"{price[part]:g}" for part in _PARTS), row["price_since"])
        context = f"{row['context_tokens']:,}" if row["context_tokens"] else ""
        table.add_row(
            row["provider"], row["model"], "yes" if row["routed"] else "", context, row["structured"] or "", *said,
            f"{row['circuit']} {row['why']}".strip(),
        )  # fmt: skip
    out.print(table)
    unpriced = [f"{row['provider']}/{row['model']}" for row in rows if row["routed"] and row["usd_per_million"] is None]
    if unpriced:
        out.print(
            f"No price: {', '.join(unpriced)}. Their dollars count as 0, and they are not asked where dollars are limited: say "
            f'one in the routes file, [prices."{unpriced[0]}"]',
            markup=False,
        )


_PARTS = ("input", "cached_input", "output")


def _routed(settings: Settings) -> list[str]:
    """What settings and the routes file name, and the file's prices are told to `pricing`."""
    if settings.routes is not None:
        places = [place for tier in routing.read(Path(settings.routes)).tiers.values() for place in tier]
        return [f"{place.provider}:{place.model}" for place in places]
    if routing.chosen(settings) != "groq":
        return []
    return [f"groq:{model}" for model in (routing.cheap_model(settings), settings.model) if model]


def _row(name: str, circuit: dict[str, Any], *, routed: bool) -> dict[str, Any]:
    provider, _, model = name.partition(":")
    facts = facts_of(model) if is_known(model) else None
    price = price_of(provider, model)
    return {
        "provider": provider,
        "model": model,
        "routed": routed,
        "context_tokens": facts and facts.context_tokens,
        "max_output_tokens": facts and facts.max_output_tokens,
        "structured": facts and facts.structured,
        "usd_per_million": price and {part: round(getattr(price, part), 6) for part in _PARTS},
        "price_list": price and price.source,
        # The list dates few of its prices: of the others its newest change says how old they may be.
        "price_since": price and (price.since.isoformat() if price.since else newest_change()),
        "failures": circuit.get("failures", 0),
        "circuit": circuit.get("circuit", "closed"),
        "why": circuit.get("why", ""),
    }
