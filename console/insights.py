"""`hookline insight`: what destinations hold about one record."""

from __future__ import annotations

import json
from typing import Annotated, Any

import sqlalchemy as sa
import typer
from rich.panel import Panel
from rich.text import Text

from console.runtime import ConsoleError, out, registry, run
from infra.database.tables import insights
from schemas.insight import DataQuality, Insight, LeadIntel, Requirements, Version
from schemas.record import RecordRef

app = typer.Typer(help="Insights as Postgres holds them.", no_args_is_help=True)


@app.command("show")
def show(
    record: Annotated[str, typer.Argument(help="tenant/account/object/id, e.g. acme/hubspot:145883449/deal/1001")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per analysis and line.")] = False,
) -> None:
    """The newest insights of a record."""
    try:
        ref = RecordRef.parse(record)
    except ValueError as error:
        raise ConsoleError(str(error)) from error

    async def command() -> list[Insight]:
        async with registry() as (_, _settings, engine, _keyring), engine.connect() as connection:
            rows = await connection.execute(
                sa.select(insights)
                .where(
                    insights.c.tenant == ref.tenant,
                    insights.c.account == ref.account,
                    insights.c.object == ref.object,
                    insights.c.record_id == ref.id,
                )
                .order_by(insights.c.analysis)
            )
            return [from_row(dict(row)) for row in rows.mappings()]

    found = run(command)
    if not found:
        raise ConsoleError(f"no insight about {record} yet: `hookline status` shows what is on its way")
    for insight in found:
        if as_json:
            typer.echo(json.dumps(insight.model_dump(mode="json"), ensure_ascii=False))
        else:
            out.print(
                Panel(
                    Text(text_of(insight)),
                    title=f"{insight.analysis} · {insight.model}",
                    title_align="left",
                    subtitle=_subtitle(insight),
                )
            )


def from_row(row: dict[str, Any]) -> Insight:
    """An insight from its row of the table `insights`."""
    return Insight(
        id=row["record_id"],
        version=Version(row["epoch"], row["snapshot_offset"], row["generation"]),
        **{
            name: row[name]
            for name in ("tenant", "account", "object", "crm", "analysis", "as_of", "analyzed_at", "model")
        },
        **{name: row[name] for name in ("prompt_version", "payload", "retracted", "dropped_claims")},
    )


def _subtitle(insight: Insight) -> str:
    return f"record as of {insight.as_of:%Y-%m-%d %H:%M:%S} · version {Version(*insight.version)}"


def text_of(insight: Insight) -> str:
    """An insight in words, for a terminal."""
    payload = insight.payload
    if insight.retracted or payload is None:
        return "The record is gone; nothing is shown about it any more."
    if isinstance(payload, LeadIntel):
        return _lead(payload)
    if isinstance(payload, Requirements):
        return _requirements(payload)
    return _quality(payload)


def _lead(payload: LeadIntel) -> str:
    if payload.status == "not_enough_data":
        return f"Not enough data. Most useful now: {', '.join(payload.missing) or '-'}"
    lines = [f"{payload.score} ({payload.grade}), confidence {payload.confidence:.0%}", payload.summary, ""]
    for factor in payload.factors:
        sign = "+" if factor.direction == "up" else "−"
        lines.append(
            f"{sign}{factor.weight:<3} {factor.label}: {factor.evidence.field} = {factor.evidence.value!r}, since {factor.evidence.since:%Y-%m-%d}"
        )
    lines += [f"changed: {change}" for change in payload.changes]
    if payload.next_action:
        lines += ["", f"Next: {payload.next_action.text} (by {payload.next_action.due})"]
    return "\n".join(lines)


def _requirements(payload: Requirements) -> str:
    lines = [
        f"{item.priority.upper():<6} {item.kind}: {item.text}\n       “{item.quote}” ({item.source})"
        for item in payload.items
    ]
    lines += [f"CONTRADICTION about {c.about}: “{c.first_quote}” / “{c.second_quote}”" for c in payload.contradictions]
    lines += [f"ASK    {question}" for question in payload.open_questions]
    return "\n".join(lines) or "Nothing asked for yet."


def _quality(payload: DataQuality) -> str:
    lines = [f"{payload.health} of 100. {payload.summary}"]
    for defect in payload.defects:
        fix = f" → {defect.proposed}" if defect.proposed else ""
        lines.append(f"{defect.severity:<6} {defect.kind}: {defect.message}{fix}")
    lines += [f"likely the same as {d.id} ({d.probability:.0%}): {', '.join(d.evidence)}" for d in payload.duplicates]
    return "\n".join(lines)
