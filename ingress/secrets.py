"""Which secrets of an endpoint count.

Law: those whose window is open and that are no placeholder (`infra/accounts/weakness.py`); nothing else of them is judged here.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from infra.accounts.weakness import weakness
from ingress.per_endpoint import PerEndpoint

if TYPE_CHECKING:
    from infra.accounts import Endpoint

_usable = PerEndpoint(lambda endpoint: tuple(secret for secret in endpoint.secrets if weakness(secret.value) is None))


def secrets_of(endpoint: Endpoint, now: datetime) -> list[bytes]:
    """The secrets that are valid now, for during a rotation there are two; never one that is none."""
    return [secret.value for secret in _usable(endpoint) if secret.valid_at(now)]


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
