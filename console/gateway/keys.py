"""`hookline gateway keys`: who may ask models through the server (`hookline serve gateway`)."""

from __future__ import annotations

import getpass
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import typer
from rich.table import Table

from console.endpoint_config import duration
from console.runtime import ConsoleError, out, registry, run
from llm_gateway.server.keys import LANES, SCOPES, KeyRefused, VirtualKey, VirtualKeys

app = typer.Typer(help="Virtual keys of the gateway's server, each for one tenant.", no_args_is_help=True)
T = TypeVar("T")
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def plain(key: VirtualKey) -> dict[str, Any]:
    """For JSON; the key itself is nowhere."""
    times = {name: getattr(key, name) for name in ("created_at", "expires_at", "revoked_at")}
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "models": sorted(key.models),
        "priority": key.lane,
        "state": key.state(),
        **{name: at.isoformat() if at else None for name, at in times.items()},
    }


@app.command("create")
def create(
    tenant: Annotated[str, typer.Option(help="Who pays, and whose cache it shares.")],
    scope: Annotated[list[str], typer.Option(help=f"Of {', '.join(SCOPES)}; repeat it.")] = ["chat"],  # noqa: B006 -- typer copies it
    model: Annotated[list[str], typer.Option(help="A model that it may ask; repeat it. Without: all.")] = [],  # noqa: B006 -- as above
    priority: Annotated[str, typer.Option(help=f"The best that it may ask for: {', '.join(LANES)}.")] = "interactive",
    name: Annotated[str, typer.Option(help="For people: who uses it, for what.")] = "",
    expires: Annotated[str, typer.Option(help="After how long it ends: 12h, 90d; `never`.")] = "90d",
    as_json: AsJson = False,
) -> None:
    """Make a key; it is printed once and kept as a digest. Running servers know it at once."""
    end = None if expires == "never" else datetime.now(UTC) + timedelta(seconds=duration(expires))
    made = _on(
        lambda keys: keys.create(
            tenant, name=name, scopes=scope, models=model, lane=priority, expires_at=end, by=getpass.getuser()
        )
    )
    _shown(*made, as_json=as_json)


@app.command("list")
def list_(tenant: Annotated[str, typer.Option(help="Only this tenant's.")] = "", as_json: AsJson = False) -> None:
    """All keys, without the keys."""
    found = _on(lambda keys: keys.all(tenant))
    if as_json:
        for key in found:
            typer.echo(json.dumps(plain(key)))
        return
    table = Table("key", "tenant", "scopes", "models", "priority", "name", "state", "expires")
    for key in found:
        table.add_row(
            key.id, key.tenant, " ".join(sorted(key.scopes)), " ".join(sorted(key.models)) or "all", key.lane,
            key.name or "-", key.state(), f"{key.expires_at:%Y-%m-%d %H:%M}" if key.expires_at else "never",
        )  # fmt: skip
    out.print(table if found else "No keys yet: `hookline gateway keys create --tenant TENANT`.")


@app.command("rotate")
def rotate(
    key: Annotated[str, typer.Argument(help="Its id, as `list` shows it.")],
    grace: Annotated[str, typer.Option(help="How long the old one still counts: 0s, 24h.")] = "24h",
    as_json: AsJson = False,
) -> None:
    """Make another key with the same rights; the old one ends after a grace."""
    after = timedelta(seconds=duration(grace))
    _shown(*_on(lambda keys: keys.rotate(key, grace=after, by=getpass.getuser())), as_json=as_json)


@app.command("revoke")
def revoke(key: Annotated[str, typer.Argument(help="Its id, as `list` shows it.")]) -> None:
    """End a key for good; running servers refuse it within two seconds."""
    ended = _on(lambda keys: keys.revoke(key))
    out.print(f"{ended.id} of {ended.tenant}: revoked")


def _on(act: Callable[[VirtualKeys], Awaitable[T]]) -> T:
    async def command() -> T:
        async with registry() as (_, __, engine, ___):
            return await act(VirtualKeys(engine))

    try:
        return run(command)
    except KeyRefused as refused:
        raise ConsoleError(str(refused)) from None


def _shown(key: VirtualKey, text: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**plain(key), "key": text}))
        return
    until = f"until {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else "without end"
    out.print(f"key [bold]{key.id}[/] of {key.tenant}, {until}:\n  {text}   (shown once)", soft_wrap=True)
