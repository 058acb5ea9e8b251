"""Salesforce's OAuth: the consent page, codes with PKCE, client credentials, JWT bearer and refresh token.

Law: a consumer key belongs to one org; an assertion is verified against the certificate's public key given for it.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass, field

import jwt

from infra.local.sandbox.oauth_pages import Codes, consent
from infra.local.sandbox.state import Actor, Token, World
from infra.local.sandbox.web import Request, Response, answer

SESSION_MS = 2 * 60 * 60 * 1000


@dataclass(slots=True)
class Client:
    """One external client app in one org."""

    account: str
    consumer_key: str
    consumer_secret: str
    actor: Actor
    public_key: str = ""
    refresh_tokens: set[str] = field(default_factory=set)


class _RefusedError(Exception):
    """Error and description of a refusal."""


class SalesforceOAuth:
    """`/services/oauth2/token` and `/services/oauth2/userinfo`; `clients` are kept by consumer key."""

    def __init__(self, world: World, base: str) -> None:
        self.world = world
        self.base = base
        self.clients: dict[str, Client] = {}
        self.rotates: set[str] = set()
        """Accounts whose refresh tokens are good once ("Refresh Token Rotation" of an external client app)."""
        self.codes = Codes(world.clock)

    def handle(self, request: Request) -> Response:
        """Answer one request."""
        leaf = request.path.rsplit("/", 1)[-1]
        if leaf == "token" and request.method == "POST":
            try:
                return self._token(request)
            except _RefusedError as error:
                return _refused(*error.args)
        if leaf == "authorize":
            client = self.clients.get(request.param("client_id"))
            known = [(client.account, self.world.accounts[client.account].name)] if client else []
            return consent(request, "Salesforce (sandbox): allow access", known, self.codes)
        if leaf == "userinfo":
            return self._userinfo(request)
        if leaf == "revoke":
            token = self.world.tokens.get(request.form().get("token") or request.param("token"))
            if token is not None:
                token.revoked = True
            for client in self.clients.values():
                client.refresh_tokens.discard(request.form().get("token") or request.param("token"))
            return Response(200)
        return _refused("unsupported", "no such resource in this stand-in", 404)

    def _token(self, request: Request) -> Response:
        form = request.form()
        kind = form.get("grant_type", "")
        if kind == "urn:ietf:params:oauth:grant-type:jwt-bearer":
            return self._by_assertion(form.get("assertion", ""))
        client, secret = self._client(request, form)
        refresh_token = ""
        if kind == "refresh_token":
            if form.get("refresh_token") not in client.refresh_tokens:
                raise _RefusedError("invalid_grant", "expired access/refresh token")
        elif kind == "authorization_code":
            if self.codes.take({**form, "client_id": client.consumer_key}) is None:
                raise _RefusedError("invalid_grant", "invalid authorization code")
            refresh_token = self._new_refresh_token(client)
        elif kind != "client_credentials":
            raise _RefusedError("unsupported_grant_type", "grant type not supported")
        if kind != "client_credentials":
            # A client without a secret may do these; one that sends a secret must send the right one.
            secret = secret or client.consumer_secret
        if not secrets.compare_digest(secret.encode(), client.consumer_secret.encode()):
            raise _RefusedError("invalid_client", "invalid client credentials")
        if kind == "refresh_token" and client.account in self.rotates:
            client.refresh_tokens.discard(form["refresh_token"])
            refresh_token = self._new_refresh_token(client)
        return self._grant(client, refresh_token)

    @staticmethod
    def _new_refresh_token(client: Client) -> str:
        value = f"5Aep861{secrets.token_urlsafe(48)}"
        client.refresh_tokens.add(value)
        return value

    def revoke(self, account: str) -> int:
        """The admin takes the app's access back: its tokens end. Returns how many refresh tokens ended."""
        gone = 0
        for client in self.clients.values():
            if client.account == account:
                gone += len(client.refresh_tokens)
                client.refresh_tokens.clear()
                for token in self.world.tokens.values():
                    if token.account == account and token.actor is client.actor:
                        token.revoked = True
        return gone

    def _client(self, request: Request, form: dict[str, str]) -> tuple[Client, str]:
        """The client that a request names, and the secret that it shows."""
        key, secret = form.get("client_id", ""), form.get("client_secret", "")
        basic = request.header(b"authorization")
        if basic.startswith("Basic "):
            try:
                key, _, secret = base64.b64decode(basic[6:]).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                key = ""
        client = self.clients.get(key)
        if client is None:
            raise _RefusedError("invalid_client_id", "client identifier invalid")
        return client, secret

    def _by_assertion(self, assertion: str) -> Response:
        try:
            issuer = str(jwt.decode(assertion, options={"verify_signature": False}).get("iss", ""))
            client = self.clients.get(issuer)
            if client is None or not client.public_key:
                return _refused("invalid_client_id", "client identifier invalid, or it has no certificate")
            jwt.decode(
                assertion, client.public_key, algorithms=["RS256"], options={"verify_aud": False, "require": ["exp"]}
            )
        except jwt.PyJWTError as error:
            return _refused("invalid_grant", f"invalid assertion ({type(error).__name__})")
        return self._grant(client)

    def _grant(self, client: Client, refresh_token: str = "") -> Response:
        number = client.account.partition(":")[2]
        value = f"{number[:15]}!{secrets.token_urlsafe(60)}"
        now = self.world.clock()
        self.world.tokens[value] = Token(value, client.account, client.actor, None, now + SESSION_MS)
        identity = f"https://login.salesforce.com/id/{number}/{client.actor.user}"
        body = {
            "access_token": value,
            **({"refresh_token": refresh_token} if refresh_token else {}),
            "instance_url": self.base,
            "id": identity,
            "token_type": "Bearer",
            "scope": "api",
            "issued_at": str(now),
        }
        return answer(body)

    def _userinfo(self, request: Request) -> Response:
        token = self.world.tokens.get(request.bearer)
        if token is None or token.revoked or not token.account.startswith("salesforce:"):
            return Response(403, b"Bad_OAuth_Token", b"text/html")
        number = token.account.partition(":")[2]
        return answer(
            {
                "organization_id": number,
                "user_id": token.actor.user,
                "preferred_username": "integration@sandbox.example",
            }
        )


def _refused(error: str, description: str, status: int = 400) -> Response:
    return answer({"error": error, "error_description": description}, status)
