"""`hookline gateway`: what models were asked, what it cost, what is left, and what is kept.

Law: each sub-command is a module here; `--json` prints what a program can read, and nothing else.
"""

from __future__ import annotations

import typer

from console.gateway import cached, keys, limits, models, usage

app = typer.Typer(help="The model gateway: usage, limits, cache, models, keys.", no_args_is_help=True)
app.command("usage")(usage.usage)
app.add_typer(limits.app, name="limits")
app.add_typer(cached.app, name="cache")
app.add_typer(keys.app, name="keys")
app.command("models")(models.models)
