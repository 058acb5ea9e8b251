"""Erasures: who asked for which, and how far each is.

Law: a row names its person only as long as there is work to do; what stays says when it was done, by whom it was asked
for and how much went, and holds no personal data. A step is noted by compare-and-set: of two runners one goes on.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from infra.database.statement import Statements
from schemas.record import RecordRef

Step = Literal[
    "requested", "listed", "destroyed", "relisted", "wiped", "republished", "retired", "unreadable", "cleared", "done"
]
STEPS: tuple[Step, ...] = get_args(Step)
"""In their order; see `infra/privacy/eraser.py`."""

REQUEST = """
    INSERT INTO privacy_erasures AS e (id, tenant, account, object, person_id, mark, requested_by, at_once, step)
    VALUES (%(id)s, %(tenant)s, %(account)s, %(object)s, %(person)s, %(mark)s, %(by)s, %(at_once)s, 'requested')
    ON CONFLICT (mark) DO UPDATE SET
      at_once = true, due_at = now(), waiting = '',
      step = CASE WHEN e.done_at IS NULL THEN e.step ELSE 'republished' END,
      done_at = NULL, person_id = excluded.person_id
      WHERE excluded.at_once AND NOT e.at_once
    RETURNING id
"""
_COLUMNS = "id, tenant, account, object, person_id, mark, requested_by, at_once, step, work::text, counts::text, created_at, due_at, waiting, done_at, due_at <= now()"


def requested(ref: RecordRef, mark: bytes, *, by: str, at_once: bool = False) -> dict[str, Any]:
    """What REQUEST takes."""
    return {
        "id": f"er_{secrets.token_hex(6)}",
        "tenant": ref.tenant,
        "account": ref.account,
        "object": ref.object,
        "person": ref.id,
        "mark": mark,
        "by": by,
        "at_once": at_once,
    }


@dataclass(frozen=True, slots=True)
class Erasure:
    """One person's erasure, as it stands."""

    id: str
    tenant: str
    account: str
    object: str
    person_id: str
    mark: bytes
    requested_by: str
    at_once: bool
    """Whether the raw deliveries are to become unreadable now, not with their retention."""
    step: Step
    work: dict[str, Any] = field(repr=False)
    counts: dict[str, int]
    created_at: datetime
    due_at: datetime
    waiting: str
    done_at: datetime | None
    is_due: bool

    @property
    def ref(self) -> RecordRef:
        """Who; only while there is work to do."""
        return RecordRef(self.tenant, self.account, self.object, self.person_id)


class Erasures:
    """`privacy_erasures`. Every method may wait for the database, raises Unavailable, and is safe to call again."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._statements = Statements(engine)

    async def request(self, ref: RecordRef, mark: bytes, *, by: str, at_once: bool) -> str:
        """Begin, or find what was begun before; returns its id. `at_once` may be added later, even after the end."""
        await self._statements.run(REQUEST, requested(ref, mark, by=by, at_once=at_once))
        rows = await self._statements.run("SELECT id FROM privacy_erasures WHERE mark = %(mark)s", {"mark": mark})
        return str(rows[0][0])

    async def load(self, erasure_id: str) -> Erasure | None:
        """One."""
        rows = await self._statements.run(
            f"SELECT {_COLUMNS} FROM privacy_erasures WHERE id = %(id)s",  # noqa: S608 -- made of constants
            {"id": erasure_id},
        )
        return _erasure(rows[0]) if rows else None

    async def all(self, tenant: str = "") -> list[Erasure]:
        """The newest first."""
        rows = await self._statements.run(
            f"SELECT {_COLUMNS} FROM privacy_erasures WHERE tenant = %(tenant)s OR %(tenant)s = '' ORDER BY created_at DESC",  # noqa: S608 -- made of constants
            {"tenant": tenant},
        )
        return [_erasure(row) for row in rows]

    async def due(self) -> list[str]:
        """Ids of those that can go on now, the oldest first."""
        rows = await self._statements.run(
            "SELECT id FROM privacy_erasures WHERE done_at IS NULL AND due_at <= now() ORDER BY created_at LIMIT 100",
            {},
        )
        return [str(row[0]) for row in rows]

    async def advance(
        self, erasure: Erasure, to: Step, *, work: dict[str, Any], counts: dict[str, int], wait_seconds: float = 0.0
    ) -> bool:
        """Note that `to` is behind; False when somebody else did so first, who then goes on."""
        rows = await self._statements.run(
            """
            UPDATE privacy_erasures SET step = %(to)s, work = %(work)s::jsonb, counts = %(counts)s::jsonb, stepped_at = now(),
              due_at = now() + make_interval(secs => %(wait)s), waiting = ''
            WHERE id = %(id)s AND step = %(step)s RETURNING id
            """,
            {
                "id": erasure.id,
                "step": erasure.step,
                "to": to,
                "work": orjson.dumps(work).decode(),
                "counts": orjson.dumps(counts).decode(),
                "wait": wait_seconds,
            },
        )
        return bool(rows)

    async def wait(self, erasure: Erasure, why: str, seconds: float) -> None:
        """It cannot go on for `seconds`; `why` is for people and holds no personal data."""
        await self._statements.run(
            """
            UPDATE privacy_erasures SET waiting = %(why)s, due_at = now() + make_interval(secs => %(seconds)s)
            WHERE id = %(id)s AND step = %(step)s
            """,
            {"id": erasure.id, "step": erasure.step, "why": why, "seconds": seconds},
        )

    async def finish(self, erasure: Erasure) -> bool:
        """Forget the person's id and leave the audit entry, both or neither."""
        rows = await self._statements.run(
            """
            WITH ended AS (
              UPDATE privacy_erasures SET step = 'done', person_id = '', work = '{}', done_at = now(), waiting = ''
              WHERE id = %(id)s AND step = %(step)s RETURNING id, tenant, mark, requested_by, counts
            ), noted AS (
              INSERT INTO privacy_audit (tenant, deed, mark, reference, by, counts)
              SELECT tenant, 'erase', mark, id, requested_by, counts FROM ended
            )
            SELECT id FROM ended
            """,
            {"id": erasure.id, "step": erasure.step},
        )
        return bool(rows)

    async def audit(self, tenant: str, deed: str, mark: bytes, *, by: str, counts: dict[str, int]) -> None:
        """Leave an entry of its own."""
        await self._statements.run(
            """
            INSERT INTO privacy_audit (tenant, deed, mark, by, counts)
            VALUES (%(tenant)s, %(deed)s, %(mark)s, %(by)s, %(counts)s::jsonb)
            """,
            {"tenant": tenant, "deed": deed, "mark": mark, "by": by, "counts": orjson.dumps(counts).decode()},
        )


def _erasure(row: tuple[Any, ...]) -> Erasure:
    given = list(row)
    given[5] = bytes(given[5])
    given[9] = orjson.loads(given[9])
    given[10] = orjson.loads(given[10])
    return Erasure(*given)
