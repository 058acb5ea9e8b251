"""`hookline tenant`: whose data it is."""

from __future__ import annotations

from typing import Annotated

import typer

from console.runtime import out, registry, run

app = typer.Typer(help="Tenants: whose data it is.", no_args_is_help=True)


@app.command("add")
def add(
    tenant: Annotated[str, typer.Argument(help="Short id, e.g. `acme`; part of every key, so never personal.")],
    name: Annotated[str, typer.Option(help="Name for people.")] = "",
) -> None:
    """Create a tenant."""

    async def command() -> None:
        async with registry() as (found, *_):
            await found.add_tenant(tenant, name or tenant)

    run(command)
    out.print(f"tenant [bold]{tenant}[/] created. Next: `hookline endpoint add hubspot --tenant {tenant}`")
