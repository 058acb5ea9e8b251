"""Which secrets of an endpoint count.

Law: those whose window is open and that are no placeholder (`infra/accounts/weakness.py`); nothing else of them is judged here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from infra.accounts.weakness import weakness
from ingress.keyed import Keyed
from ingress.per_endpoint import PerEndpoint

if TYPE_CHECKING:
    from infra.accounts import Endpoint, Secret

_EVER = datetime.max.replace(tzinfo=UTC)
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class _Counting:
    """Between two moments the same ones count."""

    since: datetime
    until: datetime
    values: list[bytes]
    keyed: list[Keyed]


class _Secrets:
    """Those of one endpoint that are no placeholder, and which of them counted when somebody last asked."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._usable: list[Secret] = [secret for secret in endpoint.secrets if weakness(secret.value) is None]
        moments = {secret.valid_from for secret in self._usable}
        self._moments = sorted(moments | {found.valid_until for found in self._usable if found.valid_until is not None})
        self._last = _Counting(_EVER, _EVER, [], [])

    def at(self, now: datetime) -> _Counting:
        last = self._last
        if last.since <= now < last.until:
            return last
        values = [secret.value for secret in self._usable if secret.valid_at(now)]
        self._last = last = _Counting(
            max((moment for moment in self._moments if moment <= now), default=_NEVER),
            min((moment for moment in self._moments if moment > now), default=_EVER),
            values,
            [Keyed(value) for value in values],
        )
        return last


_secrets = PerEndpoint(_Secrets)


def secrets_of(endpoint: Endpoint, now: datetime) -> list[bytes]:
    """The secrets that are valid now, for during a rotation there are two; never one that is none. Not to be altered."""
    return _secrets(endpoint).at(now).values


def keyed_of(endpoint: Endpoint, now: datetime) -> list[Keyed]:
    """`secrets_of`, each ready for HMAC-SHA256. Not to be altered."""
    return _secrets(endpoint).at(now).keyed


def why_none(endpoint: Endpoint, now: datetime) -> str:
    """Why `secrets_of` gave nothing, for the list of refusals."""
    if not endpoint.secrets:
        return "the endpoint has no secret, or none that our master keys open"
    for secret in endpoint.secrets:
        found = weakness(secret.value)
        if secret.valid_at(now) and found is not None:
            return f"its secret does not count: {found}"
    return (
        "its secrets are not valid yet"
        if now < min(each.valid_from for each in endpoint.secrets)
        else "its secrets have expired"
    )
