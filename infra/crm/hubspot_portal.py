"""One HubSpot portal's connection, through HubSpot's own Python library: tokens, timeouts, retries, errors.

Law: the library's generated models are passed by (its public `call_api`, with `_preload_content=False`), for they cost
more than the call; its errors stop here, because their text repeats what customers wrote.
Sources: HubSpot's "API usage guidelines" (limits, headers), "Error handling" (codes to retry), OAuth 2026-03.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
import urllib3
from hubspot import HubSpot
from hubspot.crm.objects.exceptions import ApiException

from infra.accounts import Account
from infra.crm import hubspot_shapes as shapes
from infra.crm import oauth
from infra.crm.calls import CONNECT_SECONDS, Calls, Gate, TryAgain, may_have_arrived
from infra.crm.client import AccountUnavailable, AnswerLost, CrmUnavailable, Refused
from infra.crm.limits import Said, hubspot_said
from infra.crm.limits_gate import build_gate
from infra.crm.oauth_tokens import RENEW_BEFORE_SECONDS, Tokens, build_tokens
from infra.settings import Settings

RETRIED: Final = frozenset({423, 429, 500, 502, 503, 504, 521, 523, 524})
"""Beside 477, which may last for hours. HubSpot documents all but 500; reading and setting values is safe to repeat after that one too."""
WINDOW_SECONDS: Final = 10.0
Body = Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None
_HEADERS: Final = {"Accept": "application/json", "Content-Type": "application/json"}


class Rejected(Exception):  # noqa: N818 - an answer, which the adapter reads
    """HubSpot's answer to a call that it will not do as asked; never leaves infra/crm."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(f"HubSpot answered {status} {body.get('category', '')}")
        self.status = status
        self.category = str(body.get("category") or f"HTTP_{status}")
        self._errors = body.get("errors") or ()

    def refusal(self) -> Refused:
        """As an outcome for every row of the call."""
        return shapes.refused(self.category, self._errors)

    def as_account_unavailable(self, account: str) -> AccountUnavailable:
        """For calls that are not about rows."""
        return AccountUnavailable(account, "FORBIDDEN", f"{self.category}: check the scopes of the HubSpot app")


class _Unauthorized(Exception):  # noqa: N818 - an order to renew the token
    def __init__(self, token: str) -> None:
        super().__init__("401")
        self.token = token


class Portals:
    """Connections to portals, one each, kept open; and how a call is made over them."""

    def __init__(
        self,
        settings: Settings,
        *,
        gate: Gate | None = None,
        calls: Calls | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self._settings = settings
        self._tokens = tokens if tokens is not None else build_tokens(settings)
        self._host = (settings.sandbox_url or oauth.HUBSPOT_HOST).rstrip("/")
        self._timeout = (CONNECT_SECONDS, settings.crm_timeout_seconds)
        self._connections = settings.crm_concurrency
        self._calls = (
            calls
            if calls is not None
            else Calls(
                "hubspot",
                concurrency=settings.crm_concurrency,
                gate=gate if gate is not None else build_gate(settings, "hubspot"),
            )
        )
        self._open: dict[str, _Portal] = {}

    async def close(self) -> None:
        """End threads and connections; may be called twice."""
        await self._calls.close()
        for portal in self._open.values():
            portal.close()
        self._open.clear()
        await self._tokens.close()

    async def call(
        self,
        account: Account,
        method: str,
        path: str,
        body: Body = None,
        *,
        query: Mapping[str, str] | None = None,
        repeatable: bool = True,
    ) -> Any:
        """One call with its retries; the answer's JSON. A `body` that is a function is made when the call's turn has come,
        in a thread; if it is empty then, nothing is asked and the answer is empty.

        Raises:
            Rejected: HubSpot will not do it (400, 403, 404, 409, ...).
            AccountUnavailable: no valid token, or the portal's own quota is spent.
            AnswerLost: it is not `repeatable`, and may have been done.
            CrmUnavailable: no proper answer within the budget.
        """
        portal = self._portal(account)

        operation = f"{method} {'/'.join('{id}' if part.isdigit() else part for part in path.split('/')[2:])}"

        async def run(call: Callable[[], Any]) -> Any:
            try:
                return await self._calls.run(account.id, call, operation, repeatable=repeatable)
            except TryAgain as error:
                if error.account_limit:
                    raise AccountUnavailable(
                        account.id, "QUOTA_SPENT", "HubSpot's limit per ten seconds", error.after or WINDOW_SECONDS
                    ) from error
                unavailable = AnswerLost if error.unheard and not repeatable else CrmUnavailable
                raise unavailable("hubspot", error.what, error.after) from error

        if portal.needs_token():
            await self._renew(portal, account, run, portal.token)
        try:
            return await run(lambda: portal.request(method, path, body, query))
        except _Unauthorized as error:
            # Once: a new token that is refused as well means that the installation is gone.
            await self._renew(portal, account, run, error.token)
        try:
            return await run(lambda: portal.request(method, path, body, query))
        except _Unauthorized as error:
            raise AccountUnavailable(
                account.id, "TOKEN_REVOKED", "HubSpot refuses a token that it has just issued"
            ) from error

    def crowded(self, account: Account) -> bool:
        """Whether calls to the account wait for a turn."""
        return self._calls.crowded(account.id)

    def worth_waiting(self, account: str) -> float:
        """Seconds that rows of a call to the account (by its id) may wait for others to fill it."""
        return self._calls.worth_waiting(account)

    async def _renew(
        self, portal: _Portal, account: Account, run: Callable[[Callable[[], Any]], Any], refused: str
    ) -> None:
        """Get a new access token, unless somebody else did since `refused` was the token."""
        async with portal.renewing:
            if portal.token != refused:
                return
            if not portal.credentials.get("refresh_token"):
                raise AccountUnavailable(
                    account.id,
                    "TOKEN_REVOKED",
                    f"HubSpot refuses the access token: `hookline account add {account.id}` with a new one"
                    if portal.token
                    else f"not connected yet: `hookline account connect {account.id}`",
                )

            def blocking(newest: Account, refresh_token: str) -> oauth.Grant:
                try:
                    return oauth.refresh(self._settings, newest, refresh_token)
                except oauth.TokenEndpointAway as away:
                    raise TryAgain(str(away)) from None

            async def ask(newest: Account, refresh_token: str) -> oauth.Grant:
                granted: oauth.Grant = await run(lambda: blocking(newest, refresh_token))
                return granted

            try:
                access = await self._tokens.renewed(account, refused, ask)
            except oauth.GrantRefused as refusal:
                raise AccountUnavailable(
                    account.id,
                    "TOKEN_REVOKED",
                    f"HubSpot refuses the refresh token ({refusal.code}): install the app again with "
                    f"`hookline account connect {account.id}`",
                ) from refusal
            except oauth.TokenEndpointAway as away:
                raise CrmUnavailable("hubspot", str(away)) from away
            portal.use(access.token, access.until - time.time())

    def _portal(self, account: Account) -> _Portal:
        known = self._open.get(account.id)
        if known is None or known.credentials != account.credentials:
            if known is not None:
                known.close()
            known = self._open[account.id] = _Portal(
                account, self._host, self._timeout, self._connections, self._calls.heard
            )
        return known


class _Portal:
    """Blocking calls to one portal; used by several threads."""

    def __init__(
        self,
        account: Account,
        host: str,
        timeout: tuple[float, float],
        connections: int,
        heard: Callable[[str, Said | None], None],
    ) -> None:
        self._account = account.id
        self._heard = heard
        self.credentials: Mapping[str, Any] = account.credentials or {}
        if account.credentials is None:
            raise AccountUnavailable(
                account.id, "TOKEN_REVOKED", f"no credentials: give them with `hookline account add {account.id}`"
            )
        self.token: str = str(self.credentials.get("access_token") or "")
        self._expires = float("inf")
        self._timeout = timeout
        self.renewing = asyncio.Lock()
        client = HubSpot(
            access_token=self.token or None,
            host=host,
            retry=urllib3.Retry(total=0, redirect=0),  # retries are ours: the library's would sleep in a thread
            connection_pool_maxsize=connections,
        )
        # One generated client serves every path; each of the library's own would open connections for itself.
        self._api = client.crm.objects.batch_api.api_client

    def close(self) -> None:
        """Drop the connections."""
        self._api.rest_client.pool_manager.clear()

    def needs_token(self) -> bool:
        """Whether there is none yet, or it ends within a minute."""
        return not self.token or time.monotonic() > self._expires - RENEW_BEFORE_SECONDS

    def use(self, token: str, seconds: float) -> None:
        """Call with this one from now on; it lasts so long."""
        self.token = self._api.configuration.access_token = token
        self._expires = time.monotonic() + seconds

    def request(self, method: str, path: str, body: Body, query: Mapping[str, str] | None) -> Any:
        """One authenticated call."""
        token = self.token
        if callable(body):
            body = body()
            if not body:
                return {}
        try:
            return self._call(
                method,
                path,
                headers=dict(_HEADERS),
                body=body,
                query_params=list((query or {}).items()),
                auth_settings=["oauth2"],
            )
        except Rejected as rejected:
            if rejected.status == 401:
                raise _Unauthorized(token) from None
            raise

    def _call(self, method: str, path: str, *, headers: dict[str, str], **given: Any) -> Any:
        try:
            answer = self._api.call_api(
                path, method, header_params=headers, _preload_content=False, _request_timeout=self._timeout, **given
            )
            self._heard(self._account, hubspot_said(answer.headers))
            data = answer.data
        except ApiException as error:
            self._heard(self._account, hubspot_said(error.headers or {}))
            # `from None`: the library's error carries the body, and with it what customers wrote.
            raise self._understood(error.status or 0, error.body, error.headers or {}) from None
        except (urllib3.exceptions.HTTPError, AttributeError, OSError) as error:
            # AttributeError: the library decodes the body of a TLS failure, which has none.
            raise TryAgain(type(error).__name__, unheard=may_have_arrived(error)) from None
        if not data:
            return {}
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            raise TryAgain("an answer that is not JSON", unheard=True) from None

    def _understood(self, status: int, text: str | bytes | None, headers: Mapping[str, str]) -> Exception:
        body: Any = {}
        with contextlib.suppress(orjson.JSONDecodeError):
            body = orjson.loads(text or b"{}")
        if not isinstance(body, dict):
            body = {}
        if status == 429:
            if "DAILY" in str(body.get("policyName", "")).upper():
                return AccountUnavailable(self._account, "QUOTA_SPENT", "HubSpot's daily limit", 3_600.0)
            interval = float(headers.get("X-HubSpot-RateLimit-Interval-Milliseconds") or 1_000.0) / 1_000
            # The window rolls: a tenth of it frees about a tenth of the calls.
            return TryAgain("429", after=max(0.5, interval / 10), account_limit=True)
        if status == 477:
            return AccountUnavailable(
                self._account,
                "FORBIDDEN",
                "HubSpot is moving this account",
                _seconds(headers.get("Retry-After")) or 600.0,
            )
        if status in RETRIED or status == 0:
            return TryAgain(str(status), after=2.0 if status == 423 else None, unheard=status != 423)
        if status == 403 and str(body.get("category")) not in {"MISSING_SCOPES", "FORBIDDEN", "None"}:
            return AccountUnavailable(self._account, "FORBIDDEN", str(body.get("category")))
        return Rejected(status, body)


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdigit() else None
