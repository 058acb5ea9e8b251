"""Starting, watching and draining roles, one or all of them in this process.

Law: SIGTERM and Ctrl-C drain: the front door first, then each stage after the one that feeds it; what a role has begun
it finishes and commits. A role that stops by itself stops the process, with its reason.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from infra.http_server import settle_memory
from infra.ops import serve_ops
from infra.role import Parts, RoleApp
from infra.settings import Role as RoleName
from infra.settings import Settings, require
from infra.telemetry import configure, log

DRAIN_SECONDS = 20.0


def build(settings: Settings, name: RoleName, parts: Parts) -> RoleApp:  # noqa: PLR0911 -- a role, a return
    """Build one role; raises SettingsError with everything that it lacks."""
    require(settings, name)
    match name:
        case "ingress":
            from ingress.app import build_role as ingress

            return ingress(settings, parts)
        case "translator":
            from ingress.translator_app import build_app as translator

            return translator(settings, parts)
        case "hydrator":
            from processors.app import build_hydrator

            return build_hydrator(settings, parts)
        case "analyst":
            from processors.app import build_analyst

            return build_analyst(settings, parts)
        case "sinks":
            from sinks.app import build_app as sinks

            return sinks(settings, parts)
        case "api":
            from console.api.app import build_app as api

            return api(settings, parts)
        case "reconciler":
            from ingress.reconcile.app import build_app as reconciler

            return reconciler(settings, parts)
        case "salesforce-events":
            from ingress.pubsub.app import build_app as salesforce_events

            return salesforce_events(settings, parts)
        case "gateway":
            from llm_gateway.server.app import GatewayServer

            return GatewayServer(settings)


@asynccontextmanager
async def running(settings: Settings, names: Sequence[RoleName]) -> AsyncIterator[dict[str, RoleApp]]:
    """Roles that are up for the length of the block, drained in the order of the journey afterwards."""
    parts = Parts(settings)
    roles = [build(settings, name, parts) for name in names]
    started: list[RoleApp] = []
    try:
        # Downstream first, so that nothing is accepted which nobody reads yet.
        results = await asyncio.gather(
            *(role.start() for role in roles if role.name != "ingress"), return_exceptions=True
        )
        started = [
            role
            for role, result in zip((r for r in roles if r.name != "ingress"), results, strict=True)
            if result is None
        ]
        for result in results:
            if isinstance(result, BaseException):
                raise result
        for role in roles:
            if role.name == "ingress":
                await role.start()
                started.insert(0, role)
        # Alone, the front door holds few objects at a time, and whoever it keeps waiting is a sender with a clock.
        settle_memory(in_small_steps=[role.name for role in roles] == ["ingress"])
        yield {role.name: role for role in roles}
    finally:
        for role in started:
            await role.drain(DRAIN_SECONDS)
            log("console").info("drained", role=role.name)


async def serve(settings: Settings, names: Sequence[RoleName]) -> None:
    """Run roles until SIGTERM or SIGINT; raises what stopped a role by itself."""
    configure(settings, f"hookline-{names[0]}" if len(names) == 1 else "hookline")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings, names) as roles:
        checks = {f"{role.name}.{name}": check for role in roles.values() for name, check in role.readiness().items()}
        ops = await serve_ops(settings, checks)
        log("console").info("ready", roles=list(names), ops_port=ops.port)
        watched = {asyncio.create_task(role.wait(), name=role.name) for role in roles.values()}
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait({*watched, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*watched, stopping):
                task.cancel()
        log("console").info("stopping", roles=list(names))
        await ops.stop()
    for task in done - {stopping}:
        task.result()
