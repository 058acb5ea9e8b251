"""Each account's health: its last signs of life, and what keeps it from being well, with what to do.

Law: what a user set up, or what a record holds, is the account's own trouble: it is told here, and raises no alarm of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from console.account_events import stream_troubles
from console.accounts_reconcile import REMEDY, recently_missed
from console.dead_letters.filter import IS_OPEN
from console.dead_letters.index import Index
from console.dead_letters.showing import remedy as letter_remedy
from console.status_aside import RECONNECT, waiting
from console.status_section import Section, Sight
from infra.accounts import Account
from infra.database.tables import dead_letters
from infra.kafka.codec import Codec
from schemas.dead_letter import kind_of

TROUBLES_SHOWN = 3
SOURCE = "hookline/console"


async def troubles(sight: Sight, account: str = "") -> dict[str, list[dict[str, Any]]]:
    """Account → what is wrong there: {what, cause, records, remedy}, the gravest first.

    Letters are taken as the index has them; `status_letters` has it catch up.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for row in await waiting(sight.engine, account):
        found.setdefault(row["account"], []).append(
            {"what": "set aside", "cause": row["cause"], "records": row["records"], "remedy": row["remedy"]}
        )
    for of, records in (await recently_missed(sight.engine, account)).items():
        found.setdefault(of, []).append(
            {"what": "changes that no webhook told", "cause": "", "records": records, "remedy": REMEDY}
        )
    columns = (dead_letters.c.account, dead_letters.c.cause)
    wanted = [IS_OPEN, dead_letters.c.account == account if account else dead_letters.c.account != ""]
    async with sight.engine.connect() as connection:
        rows = await connection.execute(
            sa.select(*columns, sa.func.count()).where(*wanted).group_by(*columns).order_by(sa.func.count().desc())
        )
        for of, cause, count in rows:
            if kind_of(cause) == "account":
                found.setdefault(of, []).append(_letters(cause, count))
    for of, streams in (await stream_troubles(sight.engine, account)).items():
        found.setdefault(of, []).extend(streams)
    return found


async def _of_no_account(sight: Sight) -> dict[str, list[dict[str, Any]]]:
    """Tenant → letters that no account can be told for: an endpoint of several took a body that names none."""
    columns = (dead_letters.c.tenant, dead_letters.c.cause)
    found: dict[str, list[dict[str, Any]]] = {}
    async with sight.engine.connect() as connection:
        rows = await connection.execute(
            sa.select(*columns, sa.func.count())
            .where(IS_OPEN, dead_letters.c.account == "")
            .group_by(*columns)
            .order_by(sa.func.count().desc())
        )
        for tenant, cause, count in rows:
            if kind_of(cause) == "account":
                found.setdefault(tenant, []).append(_letters(cause, count))
    return found


def _letters(cause: str, count: int) -> dict[str, Any]:
    return {"what": "dead letters", "cause": cause, "records": count, "remedy": letter_remedy(cause)}


async def _look(sight: Sight) -> list[dict[str, Any]]:
    known = list(await sight.registry.accounts())
    wrong = await troubles(sight)
    rows = [_row(account, wrong.pop(account.id, [])) for account in known]
    # An endpoint may speak of accounts that nobody has registered: a customer waits for those in vain.
    rows += [_other(account, "", "not registered", found) for account, found in sorted(wrong.items())]
    rows += [_other("", tenant, "no account", found) for tenant, found in sorted((await _of_no_account(sight)).items())]
    return rows


def _row(account: Account, found: list[dict[str, Any]]) -> dict[str, Any]:
    if account.state == "disconnected":
        found = [{"what": "disconnected", "cause": account.state_reason, "records": 0, "remedy": RECONNECT}, *found]
    return {
        "account": account.id,
        "tenant": account.tenant,
        "state": account.state,
        "state_reason": account.state_reason,
        "last_delivery_at": account.last_delivery_at and account.last_delivery_at.isoformat(),
        "last_insight_at": account.last_insight_at and account.last_insight_at.isoformat(),
        "troubles": found,
    }


def _other(account: str, tenant: str, state: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "account": account,
        "tenant": tenant,
        "state": state,
        "state_reason": "",
        "last_delivery_at": None,
        "last_insight_at": None,
        "troubles": found,
    }


async def health(sight: Sight, account: Account) -> list[str]:
    """What keeps one account from being well, in words with what to do; empty: nothing. Where Kafka is set, letters catch up first."""
    if sight.settings.kafka_url:
        await Index(sight.settings, sight.engine, Codec(sight.keyring, SOURCE)).catch_up()
    return told(_row(account, (await troubles(sight, account.id)).get(account.id, []))["troubles"])


def _show(found: Any) -> Sequence[RenderableType]:
    if not found:
        return ["No accounts yet: `hookline account add`."]
    table = Table("account", "tenant", "state", "last delivery", "last insight")
    for row in found:
        state = row["state"] + (f": {row['state_reason']}" if row["state_reason"] else "")
        table.add_row(
            row["account"] or "-",
            row["tenant"],
            Text(state),
            _clock(row["last_delivery_at"]),
            _clock(row["last_insight_at"]),
        )
    lines: list[RenderableType] = [table]
    for row in found:
        lines += [Text(f"{row['account'] or row['tenant']}: {line}") for line in told(row["troubles"])[:TROUBLES_SHOWN]]
    return lines


def told(found: Sequence[dict[str, Any]]) -> list[str]:
    """Troubles in words, one line each."""
    return [
        f"{one['what']}"
        + (f" {one['records']}" if one["records"] else "")
        + f", {one['cause']}. {one['remedy']}".replace(", .", ".")
        for one in found
    ]


def _clock(value: str | None) -> str:
    return value[11:19] if value else "never"


SECTION = Section("accounts", _look, _show)
