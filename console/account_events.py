"""`hookline account events`: a Salesforce org's change events, switched on, off, and shown.

Law: a stream is an endpoint of the source `salesforce_pubsub` that speaks for one account; nothing else is stored about wanting it. Before
it is switched on, Salesforce is asked whether the channel is there.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import sqlalchemy as sa
import typer
from sqlalchemy.ext.asyncio import AsyncEngine

from console.runtime import ConsoleError, out, registry, run
from infra.accounts import Account, Endpoint, Registry
from infra.crm.client import AccountUnavailable, CrmUnavailable
from infra.database.tables import endpoint_accounts, endpoints, event_streams
from infra.settings import Settings
from ingress.pubsub.frame import SOURCE
from ingress.pubsub.store import Standing, StreamStore

Result = Literal["passed", "failed", "unknown"]
"""Of a point that is checked; `unknown` is what cannot be known now, or is not wanted."""
STREAM = SOURCE
"""The source of the endpoint that stands for a stream."""
ALL = "/data/ChangeEvents"
OURS = "/data/Hookline__chn"
"""The channel that our Salesforce project makes."""
LONG_WAIT_SECONDS = 300
"""A stream that waits this long is a trouble; before, it is weather."""


def events(
    id_: Annotated[str, typer.Argument(metavar="ACCOUNT", help="e.g. salesforce:00D5g000004XyzAEAS")],
    channel: Annotated[
        str,
        typer.Option(
            help="`/data/Hookline__chn` (the channel that our Salesforce project makes), `/data/ChangeEvents` (all that is selected), "
            "`/data/LeadChangeEvent` (one object)."
        ),
    ] = "",
    off: Annotated[bool, typer.Option("--off", help="Stop listening; the place is kept.")] = False,
) -> None:
    """Hear a Salesforce org's change events (Change Data Capture), or show how that stands."""

    async def command() -> tuple[Account, list[str]]:
        async with registry() as (found, settings, engine, _):
            account = await found.account(id_)
            if account.crm != "salesforce":
                raise ConsoleError(f"{account.id} has no change events: HubSpot sends webhooks, see docs/connecting.md")
            if off and channel:
                raise ConsoleError("give --channel, or --off, not both")
            known = await of_account(found, account.id)
            if off:
                if known is None:
                    raise ConsoleError(f"{account.id} does not listen to events: nothing to switch off")
                await found.enable_endpoint(known.id, False)
            elif channel:
                await switch_on(found, settings, engine, account, known, channel)
            return account, await told(found, engine, account.id)

    account, lines = run(command)
    for line in lines or [f"off; `hookline account events {account.id} --channel {OURS}` switches it on"]:
        out.print(line, markup=False, soft_wrap=True)


async def of_account(found: Registry, account: str) -> Endpoint | None:
    """The endpoint that stands for the account's stream."""
    return next((each for each in await found.endpoints() if each.source == SOURCE and account in each.accounts), None)


async def switch_on(
    found: Registry, settings: Settings, engine: AsyncEngine, account: Account, known: Endpoint | None, channel: str
) -> Endpoint:
    """Ask Salesforce for the channel, then have every `salesforce-events` role listen to it within two seconds.

    Raises ConsoleError where the channel is not there, or nobody can say.
    """
    if not channel.startswith("/data/"):
        raise ConsoleError(f"{channel!r} is no channel of change events: they begin with /data/, e.g. {ALL}")
    await _ask(settings, account, channel)
    if known is None:
        return await found.add_endpoint(
            account.tenant, SOURCE, f"events of {account.id}", config={"channel": channel}, accounts=[account.id]
        )
    if known.config.get("channel") != channel:
        await found.configure_endpoint(known.id, {**known.config, "channel": channel})
        await StreamStore(engine).restart(known.id)
    await found.enable_endpoint(known.id, True)
    return await found.endpoint(known.id)


async def _ask(settings: Settings, account: Account, channel: str) -> None:
    from infra.crm.salesforce_org import Orgs
    from ingress.pubsub.calls import Bus, BusError, Caller

    orgs, bus = Orgs(settings), Bus(settings)
    try:
        caller = Caller(*await orgs.access(account), account.id.partition(":")[2])
        if not await bus.may_subscribe(caller, channel):
            raise ConsoleError(
                f"the integration user may not listen to {channel}: give it access to the channel's objects"
            )
    except (AccountUnavailable, CrmUnavailable) as error:
        raise ConsoleError(f"{error}. See `hookline account check {account.id}`.") from error
    except BusError as error:
        what = (
            f"is there a channel {channel}? Deploy our Salesforce project, or select objects under Setup, Change Data Capture"
            if error.why == "REFUSED"
            else f"can {settings.salesforce_events_url} be reached, and may the integration user use it?"
        )
        raise ConsoleError(f"Salesforce's event bus says {error.code}: {what}") from error
    finally:
        await bus.close()
        await orgs.close()


async def told(found: Registry, engine: AsyncEngine, account: str) -> list[str]:
    """How an account's stream stands, in lines; none where nobody asked for one."""
    endpoint = await of_account(found, account)
    if endpoint is None:
        return []
    channel = str(endpoint.config.get("channel") or "no channel")
    if not endpoint.enabled:
        return [f"{channel}: off"]
    standing = await StreamStore(engine).standing(endpoint.id)
    if standing is None:
        return [f"{channel}: not started; does `hookline serve salesforce-events` (or `up`) run?"]
    return _lines(channel, standing, datetime.now(UTC))


async def standing(found: Registry, engine: AsyncEngine, account: str) -> tuple[Result, str, str]:
    """For `account check`: how the stream stands, what was found, what to do."""
    on = f"`hookline account events {account} --channel"
    endpoint = await of_account(found, account)
    if endpoint is None:
        what = "off: nobody fetches the org's change events"
        return "unknown", what, f"{on} {OURS}` switches them on (docs/salesforce-events.md)"
    channel = str(endpoint.config.get("channel") or ALL)
    if not endpoint.enabled:
        return "unknown", f"{channel}: off, its place is kept", f"{on} {channel}` goes on from there"
    one = await StreamStore(engine).standing(endpoint.id)
    if one is None or not one.owned:
        what = f"{channel}: nobody has begun to listen" if one is None else f"{channel}: nobody listens any more"
        return "failed", what, "`hookline serve salesforce-events` (or `up`) has to run"
    troubled = account in await stream_troubles(engine, account)
    result, remedy = _judged(one.state, account, troubled=troubled)
    return result, "; ".join(_lines(channel, one, datetime.now(UTC))), remedy


def _judged(state: str, account: str, *, troubled: bool) -> tuple[Result, str]:
    """A stream's state as the result of a check, with what to do."""
    if state == "streaming":
        return "passed", ""
    if state == "disconnected":
        return "failed", f"`hookline account connect {account}`"
    if state == "refused":
        return "failed", (
            "deploy infra/crm_apps/salesforce, or select the objects under Setup, Change Data Capture, and let the integration "
            "user see them"
        )
    if troubled:
        return "failed", "it tries again by itself; what it waits for has to come back"
    return "unknown", "check again in five minutes"


def _lines(channel: str, one: Standing, now: datetime) -> list[str]:
    state = (
        one.state if one.owned else f"nobody reads it (last: {one.state}); does `hookline serve salesforce-events` run?"
    )
    lines = [f"{channel}: {state}" + (f", {one.detail}" if one.detail else "")]
    last = f"{one.last_event_at:%Y-%m-%d %H:%M:%S}" if one.last_event_at else "never"
    age = f"{(now - one.checkpoint_at).total_seconds():.0f} s ago" if one.checkpoint_at else "never"
    behind = f", heard until {one.heard_until:%Y-%m-%d %H:%M:%S}" if one.heard_until else ""
    lines.append(f"{one.events} events, the last {last}; checkpoint {age}{behind}")
    if one.resyncs:
        lines.append(f"{one.resyncs} objects are being read again")
    return lines


async def stream_troubles(engine: AsyncEngine, account: str = "") -> dict[str, list[dict[str, Any]]]:
    """Account → its stream's trouble, if there is one: refused, or waiting for long."""
    statement = (
        sa.select(endpoint_accounts.c.account, event_streams.c.state, event_streams.c.detail)
        .join(endpoint_accounts, endpoint_accounts.c.endpoint == event_streams.c.endpoint)
        .join(endpoints, endpoints.c.id == event_streams.c.endpoint)
        .where(
            endpoints.c.enabled,
            sa.or_(
                event_streams.c.state == "refused",
                sa.and_(
                    event_streams.c.state == "waiting",
                    event_streams.c.state_at
                    < sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, LONG_WAIT_SECONDS),
                ),
            ),
        )
    )
    if account:
        statement = statement.where(endpoint_accounts.c.account == account)
    async with engine.connect() as connection:
        rows = (await connection.execute(statement)).all()
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        remedy = f"See `hookline account events {row.account}`."
        one = {"what": f"change events {row.state}", "cause": row.detail, "records": 0, "remedy": remedy}
        found.setdefault(row.account, []).append(one)
    return found
