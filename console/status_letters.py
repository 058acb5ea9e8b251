"""Open dead letters by cause, and what to do about each: poison is ours, the rest an account's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from console.dead_letters.filter import Filter
from console.dead_letters.index import Index
from console.dead_letters.showing import count_json
from console.status_section import Section, Sight
from infra.kafka.codec import Codec

SOURCE = "hookline/console"


async def open_letters(sight: Sight, account: str = "") -> list[dict[str, Any]]:
    """Counts of what is open (of one account), poison first; the index catches up before. Raises KafkaError, Unavailable."""
    index = Index(sight.settings, sight.engine, Codec(sight.keyring, SOURCE))
    await index.catch_up()
    counts = [count_json(each) for each in await index.counts(Filter(account=account))]
    return sorted(counts, key=lambda one: (one["kind"] != "poison", -one["letters"]))


async def _look(sight: Sight) -> list[dict[str, Any]]:
    return await open_letters(sight)


def _show(found: Any) -> Sequence[RenderableType]:
    if not found:
        return []
    table = Table("dead letters", "kind", "stage", "open", "oldest", "what to do")
    for row in found:
        kind = f"[bold red]{row['kind']}[/]" if row["kind"] == "poison" else row["kind"]
        table.add_row(
            row["cause"], kind, row["stage"], str(row["letters"]), row["oldest"][5:16].replace("T", " "), row["remedy"]
        )
    return [table, "See them: `hookline dead-letters list`."]


SECTION = Section("dead_letters", _look, _show)
