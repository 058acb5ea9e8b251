"""`hookline gateway cache`: how many answers are kept, and forgetting them."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from console.gateway.limits import shared
from console.runtime import local_settings, out, run
from llm_gateway.reading import cached_by, forget

app = typer.Typer(help="Answers that are kept.", no_args_is_help=True)


@app.command("show")
def show(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """How many answers are kept, by tenant. Looks at every key: not for every minute."""

    async def command() -> dict[str, int]:
        async with shared(local_settings()) as redis:
            return await cached_by(redis)

    found = run(command)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    for tenant, count in sorted(found.items()):
        out.print(f"{tenant}: {count:,} answers")
    if not found:
        out.print("nothing is kept")


@app.command("forget")
def forget_(tenant: Annotated[str, typer.Argument(help="Whose answers.")]) -> None:
    """Forget every answer of one tenant: the next questions are asked anew."""

    async def command() -> int:
        async with shared(local_settings()) as redis:
            return await forget(redis, tenant)

    out.print(f"{tenant}: {run(command):,} answers forgotten")
