"""Letting a refused request in after all: judged as it came, by the secrets and conditions that hold now.

Law: nothing is let in that the door would not have let in with these secrets at that time. It is published as the delivery that
it would have been, under its own request id, once: a second retry finds it done, and what a crash lets through twice, the
translator drops.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from infra.accounts import Endpoint
from infra.database.tables import refusals
from infra.kafka.codec import Outgoing
from infra.keyring import DataKey, Keyring, Undecryptable, key_id_of
from ingress.conditions import conditions_of
from ingress.identity import RequestIds
from ingress.parcel import Parcels
from ingress.refused import RefusedRequest, with_secrets_of
from ingress.sources.source import Source
from ingress.split import Splittable
from ingress.verification import judge

Result = Literal["published", "already", "gone", "refused", "unknown"]
Publish = Callable[[Sequence[Outgoing]], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Retried:
    """What a retry did, and why."""

    request_id: str
    result: Result
    detail: str = ""


async def opened(keyring: Keyring, sealed: bytes) -> tuple[RefusedRequest, DataKey] | None:
    """The kept request; None when its key is gone. Raises Unavailable."""
    try:
        key_id = key_id_of(sealed)
        key = (await keyring.by_id([key_id])).get(key_id)
        return None if key is None else (RefusedRequest.open(sealed, key), key)
    except (Undecryptable, ValueError, KeyError):
        return None


class Retrier:
    """For an admin's tools; not for the door itself."""

    def __init__(
        self,
        engine: AsyncEngine,
        keyring: Keyring,
        endpoints: Mapping[str, Endpoint],
        sources: Mapping[str, Source],
        publish: Publish,
        *,
        public_url: str | None,
        message_bytes: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`publish` returns after the broker's acknowledgement; `public_url` as it is now, for it may be what was mended."""
        self._engine = engine
        self._keyring = keyring
        self._endpoints = endpoints
        self._sources = sources
        self._publish = publish
        self._public = public_url.rstrip("/").encode() if public_url else None
        self._bytes = message_bytes
        self._now = now
        self._parcels = Parcels("hookline/console")
        self._ids = RequestIds(0)

    async def retry(self, request_id: str, *, dry_run: bool = False) -> Retried:
        """Let one request in, if it may; with `dry_run` only say whether it would be. Safe to repeat.

        Raises Unavailable and what the database raises; nothing is noted as done then.
        """
        async with self._engine.begin() as connection:
            # The row stays locked until the broker has acknowledged, so that two admins publish once.
            row = (
                await connection.execute(
                    sa.select(refusals.c.sealed_request, refusals.c.retried_at)
                    .where(refusals.c.request_id == request_id)
                    .with_for_update()
                )
            ).one_or_none()
            if row is None:
                return Retried(request_id, "unknown", "no refused request has this id")
            if row.retried_at is not None:
                return Retried(request_id, "already", f"let in at {row.retried_at:%Y-%m-%d %H:%M:%S}")
            found = None if row.sealed_request is None else await opened(self._keyring, row.sealed_request)
            if found is None:
                return Retried(request_id, "gone", "the request itself was not kept, or no longer: have it sent again")
            return await self._judged(connection, request_id, *found, dry_run=dry_run)

    async def _judged(
        self, connection: AsyncConnection, request_id: str, kept: RefusedRequest, key: DataKey, *, dry_run: bool
    ) -> Retried:
        endpoint = self._endpoints.get(kept.endpoint)
        source = None if endpoint is None else self._sources.get(endpoint.source)
        if endpoint is None or source is None:
            return Retried(request_id, "refused", "the endpoint was removed, or its source is not installed here")
        if not endpoint.enabled:
            return Retried(request_id, "refused", "ENDPOINT_DISABLED: `hookline endpoint enable` it first")
        public = conditions_of(endpoint).public or self._public or kept.public
        denied = judge(source, kept.request(public), with_secrets_of(endpoint, self._now()), kept.received_at)
        if denied is not None:
            return Retried(request_id, "refused", f"{denied.refusal.value}{denied.detail and ': ' + denied.detail}")
        parts: list[bytes] | None = [kept.body]
        if len(kept.body) > self._bytes:
            parts = source.split(kept.body, self._bytes) if isinstance(source, Splittable) else None
        if parts is None:
            return Retried(request_id, "refused", "PAYLOAD_TOO_LARGE")
        if dry_run:
            return Retried(request_id, "published", "it would be")
        kind = kept.headers.get(b"content-type", b"")
        trace = self._ids.traceparent(request_id)
        await self._publish(
            [
                self._parcels.wrap(endpoint, key, request_id, kept.received_at, kind, part, trace, number)
                for number, part in enumerate(parts)
            ]
        )
        await connection.execute(
            refusals.update()
            .where(refusals.c.request_id == request_id)
            .values(retried_at=sa.func.now(), sealed_request=None)
        )
        return Retried(request_id, "published")


def chosen(
    *,
    tenant: str = "",
    endpoints: Sequence[str] = (),
    causes: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    retriable: bool = False,
) -> sa.Select[Any]:
    """Refusals that fit, oldest first. `endpoints`: as the table names them."""
    statement = sa.select(refusals).order_by(refusals.c.at, refusals.c.request_id)
    if tenant:
        statement = statement.where(refusals.c.tenant == tenant)
    if endpoints:
        statement = statement.where(refusals.c.endpoint.in_(endpoints))
    if causes:
        statement = statement.where(refusals.c.cause.in_(causes))
    if since is not None:
        statement = statement.where(refusals.c.at >= since)
    if until is not None:
        statement = statement.where(refusals.c.at < until)
    if retriable:
        statement = statement.where(refusals.c.sealed_request.is_not(None), refusals.c.retried_at.is_(None))
    return statement
