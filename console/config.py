"""`hookline config`: every setting, its value and where it came from; secrets masked."""

from __future__ import annotations

import os
from typing import Annotated
from urllib.parse import urlsplit, urlunsplit

import typer
from pydantic import AliasChoices, SecretStr
from rich.table import Table

from console.runtime import new_master_key, out, read_settings
from infra.settings import Settings, variable

app = typer.Typer(help="Every setting, its value and its source.", invoke_without_command=True)


def masked(value: object) -> str:
    """As printed: secrets hidden, but for the host of a URL, which an operator needs to see."""
    if value is None:
        return "-"
    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        parts = urlsplit(text)
        if parts.scheme and parts.hostname:
            host = parts.hostname + (f":{parts.port}" if parts.port else "")
            return urlunsplit(
                (parts.scheme, f"***@{host}" if parts.username or parts.password else host, parts.path, "", "")
            )
        return "***"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def source_of(settings: Settings, field: str) -> str:
    """Where the value in force came from."""
    alias = Settings.model_fields[field].validation_alias
    names = [str(name) for name in alias.choices] if isinstance(alias, AliasChoices) else [variable(field)]
    if any(name in os.environ or name.lower() in os.environ for name in names):
        return "environment"
    return ".env" if field in settings.model_fields_set else "default"


def as_markdown() -> str:
    """All settings as docs/settings.md has them; a test holds the two together."""
    lines = [
        "# Settings",
        "",
        "Made by `hookline config --markdown`. Sources, strongest first: environment, `.env`, default.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = masked(field.default)
        lines.append(f"| `{variable(name)}` | {'none' if default == '-' else f'`{default}`'} | {field.description} |")
    return "\n".join(lines) + "\n"


@app.callback()
def config(
    context: typer.Context,
    set_only: Annotated[bool, typer.Option("--set", help="Only those that do not stand at their default.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The list with defaults, for docs/settings.md.")] = False,
) -> None:
    """Every setting: variable, value in force, where it came from, meaning."""
    if context.invoked_subcommand is not None:
        return
    if markdown:
        typer.echo(as_markdown(), nl=False)
        return
    settings = read_settings()
    table = Table("variable", "value", "source", "meaning")
    for name, field in Settings.model_fields.items():
        source = source_of(settings, name)
        if not set_only or source != "default":
            table.add_row(variable(name), masked(getattr(settings, name)), source, field.description or "")
    out.print(table)


@app.command("new-master-key")
def new_master_key_() -> None:
    """Make a master key; put it in front of HOOKLINE_MASTER_KEYS and keep the old ones behind it."""
    typer.echo(new_master_key())
