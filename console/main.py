"""The `hookline` command: every sub-command is a module of this package, wired here.

Law: an error that a person can meet ends in one message that says what to do next, never in a traceback.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer
from rich.console import Console

from console import (
    accounts,
    config,
    demo,
    endpoints,
    gateway,
    insights,
    keys,
    privacy,
    prompts,
    requests,
    serve,
    sources,
    status,
    tenants,
    topics,
)
from console.backfill import commands as backfill
from console.dead_letters import commands as dead_letters
from console.replay import commands as replay
from console.runtime import explained

app = typer.Typer(
    name="hookline",
    help="CRM webhooks in, language-model insight back on the record.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(tenants.app, name="tenant")
app.add_typer(endpoints.app, name="endpoint")
app.add_typer(sources.app, name="source")
app.add_typer(accounts.app, name="account")
app.add_typer(insights.app, name="insight")
app.add_typer(gateway.app, name="gateway")
app.add_typer(topics.app, name="topics")
app.add_typer(requests.app, name="requests")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(replay.app, name="replay")
app.add_typer(backfill.app, name="backfill")
app.add_typer(keys.app, name="key")
app.add_typer(privacy.app, name="privacy")
app.add_typer(prompts.app, name="prompt")
app.add_typer(config.app, name="config")
app.command("status")(status.status)
app.command("up")(serve.up)
app.command("serve")(serve.serve)
app.command("migrate")(serve.migrate)
app.command("demo")(demo.demo)


@app.command("version")
def version(*, short: Annotated[bool, typer.Option("--short", help="The number alone.")] = False) -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(installed("hookline") if short else f"hookline {installed('hookline')}")


def main() -> None:
    """Entry point of the installed command."""
    # Libraries log what they then raise; without a role that sets up logging, it would stand between the person and the message.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        told = explained(error)
        if told is None:
            raise
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print("[bold red]error[/]", end=" ")
        console.print(str(told), markup=False)
        sys.exit(2)
