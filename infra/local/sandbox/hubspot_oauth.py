"""HubSpot's OAuth: the consent page, codes, tokens and their end.

Law: an access token lasts 30 minutes; the refresh token stays, unless the sandbox is told to rotate it (`set_rotation`). The
dated and numbered token paths answer alike. Installing is what consent does: the portal has the app afterwards.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from infra.local.sandbox.hubspot_errors import HubSpotError, bad_request, not_found
from infra.local.sandbox.oauth_pages import Codes, consent
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


@dataclass(slots=True)
class App:
    """An app as OAuth knows it."""

    app_id: int
    client_secret: str
    install: Callable[[str], None]


class HubSpotOAuth:
    """`/oauth/...`; `grants` are kept by refresh token (or authorization code)."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.grants: dict[str, Grant] = {}
        self.apps: dict[str, App] = {}
        """By client id."""
        self.rotates: set[str] = set()
        """Accounts whose refresh tokens are good once."""
        self.codes = Codes(world.clock)

    def handle(self, request: Request) -> Response:
        """Answer one request or raise HubSpotError."""
        parts = request.path.strip("/").split("/")
        if parts == ["oauth", "authorize"]:
            portals = [(key, found.name) for key, found in self.world.accounts.items() if found.vendor == "hubspot"]
            known = portals if request.param("client_id") in self.apps else []
            return consent(request, "HubSpot (sandbox): connect an app", known, self.codes)
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
        key, grant = self._by_code(form) if kind == "authorization_code" else self._by_refresh_token(form)
        if form.get("client_id") != grant.client_id or not secrets.compare_digest(
            form.get("client_secret", ""), grant.client_secret
        ):
            raise HubSpotError(400, "BAD_CLIENT_ID", "missing or invalid client id or secret", error="invalid_client")
        if kind == "refresh_token" and grant.account in self.rotates:
            del self.grants[key]
            key = secrets.token_hex(16)
        self.grants[key] = grant
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

    def _by_refresh_token(self, form: dict[str, str]) -> tuple[str, Grant]:
        key = form.get("refresh_token", "")
        grant = self.grants.get(key)
        if grant is None:
            raise HubSpotError(400, "BAD_REFRESH_TOKEN", "missing or unknown refresh token", error="invalid_grant")
        return key, grant

    def _by_code(self, form: dict[str, str]) -> tuple[str, Grant]:
        if form.get("code", "") in self.grants:  # set up as a code by a test
            return secrets.token_hex(16), self.grants.pop(form["code"])
        code = self.codes.take(form)
        app = self.apps.get(form.get("client_id", ""))
        if code is None or app is None:
            raise HubSpotError(400, "BAD_AUTH_CODE", "missing or unknown auth code", error="invalid_grant")
        app.install(code.account)
        actor = Actor("hookline", "INTEGRATION", str(app.app_id), str(app.app_id))
        return secrets.token_hex(16), Grant(code.account, app.app_id, code.client_id, app.client_secret, actor)

    def revoke(self, account: str) -> int:
        """The admin uninstalls the app: its tokens end. Returns how many grants ended."""
        gone = [key for key, grant in self.grants.items() if grant.account == account]
        for key in gone:
            grant = self.grants.pop(key)
            for token in self.world.tokens.values():
                if token.account == account and token.app_id == grant.app_id:
                    token.revoked = True
        return len(gone)

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
