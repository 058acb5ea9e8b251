"""`hookline topics import`: what an export wrote, back into the pipeline.

Law: the whole file is checked before anything is published. What is imported is a reason to look again, never the truth:

- deliveries go to `crm.deliveries`, where events that were seen are dropped;
- changes go to `crm.changes.bulk`; one that would have an insight sent again whatever it says becomes a `reconcile`;
- snapshots become changes with the reason `reconcile` on `crm.changes.bulk`: the record is read anew. The file's values are
  not published: they may be older than what the topic holds;
- insights and dead letters are refused: insights are made by a replay, letters are redriven where they are.

So importing a file twice has effects once. Every payload is sealed anew, under this installation's keys.
"""

from __future__ import annotations

import base64
import binascii
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ValidationError

from console.payloads import from_plain
from console.runtime import ConsoleError, need, out, registry, run
from infra.accounts import Registry
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec
from infra.kafka.raw import RawMessage
from schemas.change import Change
from schemas.delivery import Delivery
from schemas.record import Reason, RecordSnapshot
from schemas.topics import BY_NAME, CHANGES, CHANGES_BULK, DEAD_LETTERS, DELIVERIES, INSIGHTS, INSIGHTS_REDRIVEN, Topic

PAGE = 500
KEPT_REASONS: frozenset[Reason] = frozenset({"webhook", "backfill", "reconcile"})
REFUSED = {
    INSIGHTS.name: "insights are made, not imported: replay the records that they are about",
    INSIGHTS_REDRIVEN.name: "insights are made, not imported: replay the records that they are about",
    DEAD_LETTERS.name: "dead letters are redriven where they are: `hookline dead-letters redrive`",
}


class LineError(ConsoleError):
    """A line that cannot be imported; says which and why, never what it holds."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"line {number}: {why}. Nothing was imported.")


@dataclass(frozen=True, slots=True)
class Ready:
    """What a line becomes."""

    topic: Topic[Any]
    payload: BaseModel


def import_(
    file: Annotated[Path, typer.Argument(help="As `hookline topics export` wrote it.")],
    tenant: Annotated[str, typer.Option(help="Refuse any other tenant's.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Read an export back: deliveries, changes, and records (which are then read anew from their CRM)."""

    async def command() -> Counter[str]:
        async with registry() as (found, settings, _engine, keyring):
            need(settings, "kafka_url")
            codec = Codec(keyring, "hookline/console")
            known = await Known.of(found, tenant)
            counts: Counter[str] = Counter()
            async for ready in _ready(file, codec, known):
                counts[ready.topic.name if ready else "left out"] += 1
            _say(counts)
            total = counts.total() - counts["left out"]
            if not total or not _agreed(yes, total):
                return Counter()
            publisher = Publisher(settings, codec, client_id="hookline-console")
            await publisher.start()
            try:
                return await _publish(_ready(file, codec, known), publisher)
            finally:
                await publisher.stop()

    done = run(command)
    for topic, number in sorted(done.items()):
        out.print(f"{number} published to {topic}.")


@dataclass(frozen=True, slots=True)
class Known:
    """Whose data this installation holds."""

    tenants: frozenset[str]
    endpoints: dict[str, str]
    accounts: dict[str, str]
    only: str

    @classmethod
    async def of(cls, registry: Registry, only: str) -> Known:
        """As registered now."""
        tenants = frozenset(await registry.tenants())
        if only and only not in tenants:
            raise ConsoleError(f"there is no tenant {only!r}: `hookline tenant add`")
        return cls(
            tenants,
            {each.id: each.tenant for each in await registry.endpoints()},
            {each.id: each.tenant for each in await registry.accounts()},
            only,
        )

    def refusal(self, payload: Any) -> str:
        """Why it may not come in here; empty: it may."""
        if self.only and payload.tenant != self.only:
            return f"it is of another tenant than {self.only}"
        if payload.tenant not in self.tenants:
            return f"its tenant {payload.tenant!r} is not registered here: `hookline tenant add`"
        if isinstance(payload, Delivery):
            return "" if self.endpoints.get(payload.endpoint) == payload.tenant else "its endpoint is not this tenant's"
        if self.accounts.get(payload.account) != payload.tenant:
            return f"its account {payload.account} is not registered with this tenant: `hookline account add`"
        return ""


async def _ready(file: Path, codec: Codec, known: Known) -> AsyncIterator[Ready | None]:
    """What each line becomes; None for what is left out (tombstones, and what nobody could read). Raises LineError."""
    for number, line in _lines(file):
        topic = _topic(number, line)
        if line.get("unreadable") or (line.get("payload") is None and line.get("sealed") is None):
            yield None
            continue
        payload = await _payload(number, topic, line, codec)
        refusal = known.refusal(payload)
        if refusal:
            raise LineError(number, refusal)
        yield became(payload)


def became(payload: BaseModel) -> Ready:
    """See the module's law."""
    if isinstance(payload, Delivery):
        kept = timedelta(milliseconds=DELIVERIES.retention_ms)
        if datetime.now(UTC) - payload.received_at > kept:
            # Its hour's key is gone or about to go: what is brought back now is kept from now on.
            payload = payload.model_copy(update={"received_at": datetime.now(UTC)})
        return Ready(DELIVERIES, payload)
    if isinstance(payload, RecordSnapshot):
        change = Change(
            tenant=payload.tenant,
            account=payload.account,
            object=payload.object,
            id=payload.id,
            kind="deleted" if payload.deleted else "updated",
            occurred_at=payload.modified_at,
            reason="reconcile",
        )
        return Ready(CHANGES_BULK, change)
    assert isinstance(payload, Change)
    if payload.reason not in KEPT_REASONS:
        payload = payload.model_copy(update={"reason": "reconcile"})
    return Ready(CHANGES_BULK, payload)


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with file.open(encoding="utf-8") as opened:
            for number, text in enumerate(opened, 1):
                if not text.strip():
                    continue
                try:
                    line = json.loads(text)
                except ValueError:
                    raise LineError(number, "it is no JSON") from None
                if not isinstance(line, dict):
                    raise LineError(number, "it is no JSON object")
                yield number, line
    except UnicodeDecodeError as error:
        raise ConsoleError(f"{file} is not UTF-8: it is no export of ours") from error
    except OSError as error:
        raise ConsoleError(f"{file} cannot be read: {error.strerror}") from error


def _topic(number: int, line: dict[str, Any]) -> Topic[Any]:
    name = str(line.get("topic", ""))[:80]
    if name not in BY_NAME:
        raise LineError(number, f"there is no topic {name!r}: there are {', '.join(sorted(BY_NAME))}")
    if name in REFUSED:
        raise LineError(number, REFUSED[name])
    return BY_NAME[name]


async def _payload(number: int, topic: Topic[Any], line: dict[str, Any], codec: Codec) -> Any:
    if line.get("sealed") is not None:
        return await _unsealed(number, topic, line, codec)
    given = line["payload"]
    if not isinstance(given, dict):
        raise LineError(number, "its payload is no JSON object")
    try:
        return from_plain(topic, given)
    except ValidationError as error:
        where = sorted({str(each["loc"][0]) if each["loc"] else "(whole)" for each in error.errors()})
        raise LineError(number, f"its payload is none of {topic.name}: {', '.join(where)[:120]}") from None
    except ValueError:
        raise LineError(number, "its body_base64 is no base64") from None


async def _unsealed(number: int, topic: Topic[Any], line: dict[str, Any], codec: Codec) -> Any:
    headers = line.get("headers")
    try:
        value = base64.b64decode(str(line["sealed"]), validate=True)
    except binascii.Error:
        raise LineError(number, "what is sealed is no base64") from None
    if not isinstance(headers, dict):
        raise LineError(number, "its headers are missing")
    raw = RawMessage(
        topic.name, 0, 0, b"", value, [(str(name), str(found).encode()) for name, found in headers.items()]
    )
    opened, refused = await codec.open(topic, [raw])
    if refused:
        raise LineError(
            number,
            f"it cannot be opened here ({refused[0][2]}): export it without --sealed where its keys are, or leave it out",
        )
    return opened[0].payload


async def _publish(lines: AsyncIterator[Ready | None], publisher: Publisher) -> Counter[str]:
    done: Counter[str] = Counter()
    page: list[Ready] = []

    async def flush() -> None:
        for topic in (DELIVERIES, CHANGES, CHANGES_BULK):
            payloads: list[Any] = [ready.payload for ready in page if ready.topic is topic]
            if payloads:
                await publisher.publish(topic, payloads, traceparents=[""] * len(payloads))
                done[topic.name] += len(payloads)
        page.clear()

    async for ready in lines:
        if ready is not None:
            page.append(ready)
        if len(page) >= PAGE:
            await flush()
    await flush()
    return done


def _say(counts: Counter[str]) -> None:
    for topic, number in sorted(counts.items()):
        out.print(f"{number} {'tombstones or unreadable, left out' if topic == 'left out' else f'to {topic}'}")


def _agreed(yes: bool, total: int) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConsoleError("nobody is here to ask: say --yes to import them")
    return typer.confirm(f"Import {total} messages?")
