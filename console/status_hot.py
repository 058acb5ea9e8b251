"""What changes most: tenants, whether they are over their rate, and records.

Law: reads Redis' counts and the rates; without Redis the section says so, and the rest of the status is unharmed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError
from rich.console import RenderableType
from rich.table import Table

from console.status_section import Section, Sight
from infra.redis import build_redis
from infra.settings import variable
from ingress.allowances import Allowances
from ingress.hot import WINDOW_MINUTES, Hot, read

HOT_FROM = 50
"""Changes of one record within the window; fewer are nobody's trouble."""
LOOPS = "Look for a workflow or an integration of the CRM that edits it in a loop."


async def _look(sight: Sight) -> dict[str, Any]:
    trouble = ""
    hot = Hot((), ())
    if sight.settings.redis_url is None:
        trouble = f"{variable('redis_url')} is not set"
    else:
        redis = build_redis(sight.settings)
        try:
            hot = await read(redis, now=time.time())
        except (RedisError, OSError) as error:
            trouble = f"Redis does not answer ({type(error).__name__}): check {variable('redis_url')}"
        finally:
            await redis.aclose()
    rates = await Allowances(sight.engine, sight.settings).all() if hot.tenants else {}
    return {
        "minutes": WINDOW_MINUTES,
        "tenants": [
            {
                "tenant": tenant,
                "changes": changes,
                "over_rate": over,
                "per_second": rates[tenant][0].per_second if tenant in rates else None,
                "remedy": f"Its surplus waits on the bulk lane. To let more through at once: `hookline tenant rate {tenant} --per-second N`."
                if over
                else "",
            }
            for tenant, changes, over in hot.tenants
        ],
        "records": [
            {"record": record, "changes": changes, "remedy": LOOPS}
            for record, changes in hot.records
            if changes >= HOT_FROM
        ],
        "trouble": trouble,
    }


def _show(found: Any) -> Sequence[RenderableType]:
    if found["trouble"]:
        return [f"hot records and tenants: {found['trouble']}"]
    shown: list[RenderableType] = []
    if found["tenants"]:
        table = Table(f"busiest tenants ({found['minutes']} min)", "changes", "over its rate", "rate", "what to do")
        for row in found["tenants"]:
            rate = f"{row['per_second']}/s" if row["per_second"] else "-"
            table.add_row(row["tenant"], str(row["changes"]), str(row["over_rate"]), rate, row["remedy"])
        shown.append(table)
    if found["records"]:
        table = Table(f"hot records ({found['minutes']} min)", "changes", "what to do")
        for row in found["records"]:
            table.add_row(row["record"], str(row["changes"]), row["remedy"])
        shown.append(table)
    return shown


SECTION = Section("hot", _look, _show)
