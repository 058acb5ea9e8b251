"""Who asks: the HubSpot account whose app signed the call.

Law: the portal of the signed address says which account and tenant is meant, and the signature of an endpoint that speaks for
this account proves it; nothing in the body counts. Only v3 counts here, for nothing weaker covers the address. Memory alone.
Source: HubSpot, "Fetching data for UI extensions": `hubspot.fetch` adds userId, portalId, userEmail and appId to the address
and signs the call as webhooks are signed (v3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Protocol
from urllib.parse import parse_qsl

from console.cards.refusals import Refused
from infra.accounts import Account, Endpoint, RegistryError, account_id
from ingress.sources.hubspot import PLUGIN
from ingress.sources.source import InboundRequest
from schemas.delivery import Refusal


class Known(Protocol):
    """What is asked of the directory; memory alone."""

    def endpoints(self) -> Mapping[str, Endpoint]:
        """All endpoints by id."""
        ...

    def account(self, id: str) -> Account | None:  # noqa: A002 - the directory's own name for it
        """The account, or None where there is none."""
        ...


def whose(request: InboundRequest, known: Known, now: datetime) -> Account:
    """The account that the call is for. Raises Refused."""
    if b"x-hubspot-signature-v3" not in request.headers:
        raise Refused("SIGNATURE_MISSING")
    portal, app = _named(request.target)
    account = known.account(portal)
    if account is None:
        raise Refused("PORTAL_UNKNOWN")
    _verify(request, _speaking_for(account, app, known.endpoints().values()), now)
    return account


def _named(target: bytes) -> tuple[str, str]:
    """Account and app id of the address. A parameter given twice is refused: which of them HubSpot added, nobody could say."""
    query = target.partition(b"?")[2].decode("latin-1")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise Refused("PORTAL_UNKNOWN") from None
    portals = [value for name, value in pairs if name == "portalId"]
    apps = [value for name, value in pairs if name == "appId"]
    if len(portals) != 1 or len(apps) > 1:
        raise Refused("PORTAL_UNKNOWN")
    try:
        return account_id(f"hubspot:{portals[0]}"), (apps[0] if apps else "")
    except RegistryError:
        raise Refused("PORTAL_UNKNOWN") from None


def _speaking_for(account: Account, app: str, endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    return [
        each
        for each in endpoints
        if each.source == PLUGIN.name
        and each.enabled
        and each.tenant == account.tenant
        and account.id in each.accounts
        and str(each.config.get("app_id") or app) == app
    ]


def _verify(request: InboundRequest, candidates: list[Endpoint], now: datetime) -> None:
    """Raises Refused unless one of them has the secret. What an endpoint asks of webhooks (networks, a certificate) is not asked here."""
    if not candidates:
        raise Refused("PORTAL_UNKNOWN")
    cause = Refusal.VERIFICATION_FAILED
    for endpoint in candidates:
        denied = PLUGIN.verify(request, endpoint, now)
        if denied is None:
            return
        if denied.refusal in {Refusal.STALE, Refusal.FROM_THE_FUTURE, Refusal.SIGNATURE_MISSING}:
            cause = denied.refusal
    raise Refused(cause.value)
