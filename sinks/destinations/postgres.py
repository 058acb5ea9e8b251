"""Postgres: the newest insight per record and analysis, and every version that ever was.

Law: one statement a batch; a version that is there already changes nothing, an older one never replaces a newer one.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from infra.database.statement import Statements
from schemas.insight import Insight, LeadIntel
from sinks.destinations.destination import Destination, DestinationPlugin, Needs, Outcome, Stale, Written, newest

TOUCH_SECONDS = 5.0
"""How often the time of an account's last insight is written down at most."""

_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""An escaped NUL, which PostgreSQL's JSON cannot hold; not an escaped backslash before a typed `u0000`."""

# `unnest` of arrays: half the client's work of any other way but COPY, and still one round trip.
# Both inserts are one statement, so a crash between them cannot be.
_WRITE = """
    WITH given AS MATERIALIZED (
      SELECT * FROM ROWS FROM (unnest(
        %(tenant)s::text[], %(account)s::text[], %(object)s::text[], %(record_id)s::text[], %(analysis)s::text[],
        %(epoch)s::int[], %(snapshot_offset)s::bigint[], %(generation)s::int[],
        %(crm)s::text[], %(as_of)s::timestamptz[], %(analyzed_at)s::timestamptz[], %(model)s::text[],
        %(prompt_version)s::text[], %(score)s::int[], %(grade)s::text[], %(retracted)s::boolean[],
        %(dropped_claims)s::int[], %(cost_usd)s::float8[]
      ), jsonb_array_elements(%(payload)s::jsonb)) AS g (tenant, account, object, record_id, analysis, epoch, snapshot_offset, generation, crm, as_of, analyzed_at, model,
              prompt_version, score, grade, retracted, dropped_claims, cost_usd, payload)
    ), history AS (
      INSERT INTO insight_history (tenant, account, object, record_id, analysis, epoch, snapshot_offset, generation, as_of, analyzed_at,
                                   model, prompt_version, score, grade, payload, retracted)
      SELECT tenant, account, object, record_id, analysis, epoch, snapshot_offset, generation, as_of, analyzed_at,
             model, prompt_version, score, grade, nullif(payload, 'null'), retracted
      FROM given
      ORDER BY tenant, account, object, record_id, analysis, epoch, snapshot_offset, generation
      ON CONFLICT DO NOTHING
    )
    INSERT INTO insights AS i (tenant, account, object, record_id, analysis, epoch, snapshot_offset, generation, crm, as_of, analyzed_at,
                               model, prompt_version, score, grade, payload, retracted, dropped_claims, cost_usd)
    SELECT DISTINCT ON (tenant, account, object, record_id, analysis)
           tenant, account, object, record_id, analysis, epoch, snapshot_offset, generation, crm, as_of, analyzed_at,
           model, prompt_version, score, grade, nullif(payload, 'null'), retracted, dropped_claims, CAST(cost_usd AS numeric(12, 8))
    FROM given
    ORDER BY tenant, account, object, record_id, analysis, epoch DESC, snapshot_offset DESC, generation DESC
    ON CONFLICT (tenant, account, object, record_id, analysis) DO UPDATE SET
      epoch = EXCLUDED.epoch, snapshot_offset = EXCLUDED.snapshot_offset, generation = EXCLUDED.generation, crm = EXCLUDED.crm,
      as_of = EXCLUDED.as_of, analyzed_at = EXCLUDED.analyzed_at, model = EXCLUDED.model, prompt_version = EXCLUDED.prompt_version,
      score = EXCLUDED.score, grade = EXCLUDED.grade, payload = EXCLUDED.payload, retracted = EXCLUDED.retracted,
      dropped_claims = EXCLUDED.dropped_claims, cost_usd = EXCLUDED.cost_usd, written_at = now()
    WHERE (EXCLUDED.epoch, EXCLUDED.snapshot_offset, EXCLUDED.generation) > (i.epoch, i.snapshot_offset, i.generation)
    RETURNING tenant, account, object, record_id, analysis
"""


class PostgresDestination:
    """Implements Destination over the tables `insights` and `insight_history`."""

    name = "postgres"
    keeps_history = True
    crm = None

    def __init__(self, needs: Needs) -> None:
        self._statements = Statements(needs.engine)
        self._touch = needs.touch
        self._touched: dict[str, float] = {}

    def accepts(self, insight: Insight) -> bool:  # noqa: ARG002 - every insight belongs here
        """See Destination."""
        return True

    async def close(self) -> None:
        """See Destination; the engine is not ours to close."""

    async def write(self, insights: Sequence[Insight]) -> list[Outcome]:
        """See Destination."""
        if not insights:
            return []
        changed = set(await self._statements.run(_WRITE, _arrays(insights)))
        await self._note(insights)
        last = newest(insights)
        return [
            Written()
            if last[insight.ref, insight.analysis] == place and (*insight.ref, insight.analysis) in changed
            else Stale()
            for place, insight in enumerate(insights)
        ]

    async def _note(self, insights: Sequence[Insight]) -> None:
        now = time.monotonic()
        due = [
            account
            for account in dict.fromkeys(insight.account for insight in insights)
            if now - self._touched.get(account, float("-inf")) >= TOUCH_SECONDS
        ]
        self._touched.update(dict.fromkeys(due, now))
        moment = datetime.now(UTC)
        await asyncio.gather(*(self._touch(account, last_insight_at=moment) for account in due))


def _arrays(insights: Sequence[Insight]) -> dict[str, str]:
    """The columns, each as PostgreSQL writes an array: a tenth of what the driver takes to convert value by value."""
    leads = [insight.payload if isinstance(insight.payload, LeadIntel) else None for insight in insights]
    return {
        "tenant": _texts(insight.tenant for insight in insights),
        "account": _texts(insight.account for insight in insights),
        "object": _texts(insight.object for insight in insights),
        "record_id": _texts(insight.id for insight in insights),
        "analysis": _texts(insight.analysis for insight in insights),
        "epoch": _numbers(insight.version.epoch for insight in insights),
        "snapshot_offset": _numbers(insight.version.offset for insight in insights),
        "generation": _numbers(insight.version.generation for insight in insights),
        "crm": _texts(insight.crm for insight in insights),
        "as_of": _texts(insight.as_of.isoformat() for insight in insights),
        "analyzed_at": _texts(insight.analyzed_at.isoformat() for insight in insights),
        "model": _texts(insight.model for insight in insights),
        "prompt_version": _texts(insight.prompt_version for insight in insights),
        "score": _numbers("NULL" if lead is None or lead.score is None else lead.score for lead in leads),
        "grade": _numbers("NULL" if lead is None or lead.grade is None else lead.grade for lead in leads),
        # One JSON array, not an array of texts, whose quotes would be escaped one by one.
        "payload": _without_nul(
            f"[{','.join(insight.payload.model_dump_json() if insight.payload else 'null' for insight in insights)}]"
        ),
        "retracted": _numbers("t" if insight.retracted else "f" for insight in insights),
        "dropped_claims": _numbers(insight.dropped_claims for insight in insights),
        "cost_usd": _numbers(repr(insight.usage.cost_usd) for insight in insights),
    }


def _without_nul(text: str) -> str:
    # Looked for first: the pattern takes longer over a batch than all else that is done for it.
    return _NUL.sub(r"\1", text) if "\\u0000" in text else text


def _texts(values: Iterable[str]) -> str:
    """An array of any texts."""
    quoted = [
        value.replace("\\", r"\\").replace('"', r"\"") if "\\" in value or '"' in value else value for value in values
    ]
    return '{"' + '","'.join(quoted) + '"}'


def _numbers(values: Iterable[object]) -> str:
    """An array of what needs no quotes: numbers, one letter, `NULL`."""
    return "{" + ",".join(map(str, values)) + "}"


class _Postgres:
    name = "postgres"

    def build(self, needs: Needs) -> Destination:
        """See DestinationPlugin."""
        return PostgresDestination(needs)


PLUGIN: DestinationPlugin = _Postgres()
