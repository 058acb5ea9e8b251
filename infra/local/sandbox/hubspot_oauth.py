"""HubSpot's OAuth as far as tokens are refreshed and looked at.

Law: an access token lasts 30 minutes; the refresh token stays. The dated and numbered token paths answer alike.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from infra.local.sandbox.hubspot_errors import HubSpotError, bad_request, not_found
from infra.local.sandbox.state import Actor, Token, World
from infra.local.sandbox.web import Request, Response, answer

EXPIRES_IN_S = 1800


@dataclass(slots=True)
class Grant:
    """One installation of an app in a portal."""

    account: str
    app_id: int
    client_id: str
    client_secret: str
    actor: Actor


class HubSpotOAuth:
    """`/oauth/...`; `grants` are kept by refresh token (or authorization code)."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.grants: dict[str, Grant] = {}

    def handle(self, request: Request) -> Response:
        """Answer one request or raise HubSpotError."""
        parts = request.path.strip("/").split("/")
        if len(parts) == 3 and parts[2] == "token" and request.method == "POST":
            return self._token(request.form())
        if len(parts) == 4 and request.method == "GET" and parts[2] == "access-tokens":
            return self._access(parts[3])
        if len(parts) == 4 and parts[2] == "refresh-tokens":
            return self._refresh(parts[3], request.method)
        raise not_found(f"No handler in this stand-in for {request.method} {request.path.split('/token')[0]}")

    def _token(self, form: dict[str, str]) -> Response:
        kind = form.get("grant_type")
        if kind not in {"refresh_token", "authorization_code"}:
            raise bad_request(f"grant_type {kind!r} is not supported")
        key = form.get("refresh_token" if kind == "refresh_token" else "code", "")
        grant = self.grants.get(key)
        if grant is None:
            raise HubSpotError(400, "BAD_AUTH_CODE", "missing or unknown refresh token", error="invalid_grant")
        if form.get("client_id") != grant.client_id or not secrets.compare_digest(
            form.get("client_secret", ""), grant.client_secret
        ):
            raise HubSpotError(400, "BAD_CLIENT_ID", "missing or invalid client id or secret", error="invalid_client")
        if kind == "authorization_code":
            refresh = secrets.token_hex(16)
            self.grants[refresh] = self.grants.pop(key)
            key = refresh
        value = f"CJ{secrets.token_urlsafe(40)}"
        expires = self.world.clock() + EXPIRES_IN_S * 1000
        self.world.tokens[value] = Token(value, grant.account, grant.actor, grant.app_id, expires)
        body: dict[str, Any] = {
            "access_token": value,
            "refresh_token": key,
            "expires_in": EXPIRES_IN_S,
            "token_type": "bearer",
        }
        return answer(body)

    def _access(self, value: str) -> Response:
        token = self.world.tokens.get(value)
        if token is None or token.revoked:
            raise not_found("access token unknown")
        number = token.account.partition(":")[2]
        left = EXPIRES_IN_S if token.expires is None else max(0, (token.expires - self.world.clock()) // 1000)
        return answer(
            {
                **self._about(number),
                "token": value,
                "app_id": token.app_id or 0,
                "expires_in": left,
                "token_type": "access",
            }
        )

    def _refresh(self, value: str, method: str) -> Response:
        grant = self.grants.get(value)
        if grant is None:
            raise not_found("refresh token unknown")
        if method == "DELETE":
            del self.grants[value]
            return Response(204)
        number = grant.account.partition(":")[2]
        return answer({**self._about(number), "token": value, "client_id": grant.client_id, "token_type": "refresh"})

    @staticmethod
    def _about(number: str) -> dict[str, Any]:
        scopes = ["oauth", "crm.objects.contacts.read", "crm.objects.contacts.write", "crm.objects.deals.write"]
        return {
            "hub_id": int(number),
            "user_id": 10_000_001,
            "user": "admin@sandbox.example",
            "hub_domain": "sandbox.example",
            "scopes": scopes,
        }
