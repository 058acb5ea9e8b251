"""`hookline key`: who may use the HTTP API, for which tenant and with which role."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.table import Table

from console.endpoint_config import duration
from console.runtime import out, registry, run
from infra.accounts.keys import ApiKey, ApiKeys

app = typer.Typer(help="Keys of the HTTP API, each for one tenant and one role.", no_args_is_help=True)


def plain(key: ApiKey) -> dict[str, Any]:
    """For JSON; the key itself is nowhere."""
    times = {name: getattr(key, name) for name in ("created_at", "expires_at", "last_used_at", "revoked_at")}
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "role": key.role,
        "state": key.state(),
        "created_by": key.created_by,
        **{name: at.isoformat() if at else None for name, at in times.items()},
    }


@app.command("create")
def create(
    tenant: Annotated[str, typer.Option(help="Whose data it opens.")],
    role: Annotated[
        str,
        typer.Option(
            help="viewer looks; engineer also redrives, discards and backfills; admin also changes endpoints, accounts and keys."
        ),
    ] = "viewer",
    name: Annotated[str, typer.Option(help="For people: who uses it, for what.")] = "",
    expires: Annotated[str, typer.Option(help="After how long it ends: 12h, 90d; `never`.")] = "90d",
) -> None:
    """Make a key; it is printed once and kept as a digest."""
    end = None if expires == "never" else datetime.now(UTC) + timedelta(seconds=duration(expires))

    async def command() -> tuple[ApiKey, str]:
        async with registry() as (_, __, engine, ___):
            return await ApiKeys(engine).create(tenant, role, name=name, expires_at=end, by=getpass.getuser())

    key, text = run(command)
    until = f"until {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else "without end"
    out.print(f"key [bold]{key.id}[/] of {key.tenant}, {key.role}, {until}:\n  {text}   (shown once)", soft_wrap=True)


@app.command("list")
def list_(
    tenant: Annotated[str, typer.Option(help="Only this tenant's.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """All keys, without the keys."""

    async def command() -> list[ApiKey]:
        async with registry() as (_, __, engine, ___):
            return await ApiKeys(engine).all(tenant)

    found = run(command)
    if as_json:
        for key in found:
            typer.echo(json.dumps(plain(key)))
        return
    table = Table("key", "tenant", "role", "name", "state", "expires", "last used")
    for key in found:
        table.add_row(
            key.id, key.tenant, key.role, key.name or "-", key.state(), _day(key.expires_at), _day(key.last_used_at)
        )
    out.print(table if found else "No keys yet: `hookline key create --tenant TENANT`.")


@app.command("revoke")
def revoke(id_: Annotated[str, typer.Argument(metavar="ID", help="As `hookline key list` shows it.")]) -> None:
    """End a key at once."""

    async def command() -> ApiKey:
        async with registry() as (_, __, engine, ___):
            return await ApiKeys(engine).revoke(id_)

    out.print(f"key {run(command).id} is revoked.")


def _day(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M}" if at else "never"
