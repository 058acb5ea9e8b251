"""`hookline tenant`: whose data it is."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from console.runtime import out, registry, run
from ingress.allowances import Allowance, Allowances

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


@app.command("list")
def show() -> None:
    """Tenants with their rates."""

    async def command() -> tuple[dict[str, str], dict[str, tuple[Allowance, bool]]]:
        async with registry() as (found, settings, engine, _):
            return await found.tenants(), await Allowances(engine, settings).all()

    names, allowances = run(command)
    table = Table("tenant", "name", "changes a second", "burst", "set")
    for tenant, name in names.items():
        allowance, own = allowances[tenant]
        table.add_row(
            tenant, name, str(allowance.per_second), str(allowance.burst), "for this tenant" if own else "for all"
        )
    out.print(table if names else "No tenants yet: `hookline tenant add`.")


@app.command("rate")
def rate(
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    per_second: Annotated[int | None, typer.Option(help="Changes a second on the live lane.", min=1)] = None,
    burst: Annotated[int | None, typer.Option(help="Changes at once before the rate counts.", min=1)] = None,
    default: Annotated[bool, typer.Option("--default", help="What the settings say, again.")] = False,
) -> None:
    """Show or set how many changes a tenant may send on the live lane; what is above waits on the bulk lane."""

    async def command() -> tuple[Allowance, bool]:
        async with registry() as (_, settings, engine, __):
            allowances = Allowances(engine, settings)
            if default:
                await allowances.set(tenant, None, None)
            elif per_second is not None or burst is not None:
                await allowances.set(tenant, per_second, burst)
            return await allowances.one(tenant)

    allowance, own = run(command)
    out.print(
        f"tenant [bold]{tenant}[/]: {allowance.per_second} changes a second, {allowance.burst} at once "
        f"({'its own' if own else 'as for all: HOOKLINE_TENANT_CHANGES_PER_SECOND, HOOKLINE_TENANT_CHANGES_BURST'})"
    )
