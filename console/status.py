"""`hookline status`: how far each role is behind, what is set aside and why, what died, and how each account is.

Law: looks and changes nothing (the index of dead letters catches up, which anybody's look does). Each part is a module of its
own: see `console.status_section`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from console import status_accounts, status_aside, status_hot, status_lag, status_letters
from console.runtime import need, out, registry, run
from console.status_lag import groups, lags
from console.status_section import Section, Sight

__all__ = ["SECTIONS", "groups", "lags", "status"]

SECTIONS: tuple[Section, ...] = (
    status_lag.SECTION,
    status_aside.SECTION,
    status_letters.SECTION,
    status_hot.SECTION,
    status_accounts.SECTION,
)
"""In the order in which people read them."""


def status(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Lag per role and lane, what is set aside and why, open dead letters, each account's health, and what to do."""

    async def command() -> list[Any]:
        async with registry() as (found, settings, engine, keyring):
            need(settings, "kafka_url")
            sight = Sight(settings, engine, found, keyring)
            return [await section.look(sight) for section in SECTIONS]

    parts = run(command)
    if as_json:
        typer.echo(json.dumps({section.name: part for section, part in zip(SECTIONS, parts, strict=True)}))
        return
    for section, part in zip(SECTIONS, parts, strict=True):
        for each in section.show(part):
            out.print(each)
