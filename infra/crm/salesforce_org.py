"""One Salesforce org's connection, through simple-salesforce: tokens, timeouts, retries, errors.

Law: the library's errors stop here, because their text repeats what customers wrote. It knows no timeout and no
refresh-token flow and hard-codes https: a transport adapter of ours sets the first and, in development alone, sends
everything to the sandbox.
Sources: Salesforce's REST API guide ("Status Codes and Error Responses"), "OAuth Authorization Flows".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from simple_salesforce.api import Salesforce
from simple_salesforce.exceptions import SalesforceAuthenticationFailed, SalesforceError
from simple_salesforce.login import SalesforceLogin

from infra.accounts import Account
from infra.crm import oauth
from infra.crm import salesforce_shapes as shapes
from infra.crm.calls import CONNECT_SECONDS, Calls, Gate, TryAgain, may_have_arrived
from infra.crm.client import AccountUnavailable, AnswerLost, CrmUnavailable, Refused
from infra.crm.limits import Said, salesforce_said
from infra.crm.limits_gate import build_gate
from infra.crm.oauth_tokens import Tokens, build_tokens
from infra.settings import Settings

API_VERSION: Final = "66.0"
CLIENT_NAME: Final = "hookline"
"""Shown in `changeOrigin` of change events, so that echoes of our own writes can be told."""
QUOTA_RETRY_SECONDS: Final = 3_600.0
_RETRIED_CODES: Final = frozenset(
    {"UNABLE_TO_LOCK_ROW", "SERVER_UNAVAILABLE", "QUERY_TIMEOUT", "REQUEST_RUNNING_TOO_LONG", "UNKNOWN_EXCEPTION"}
)
_FORBIDDEN_CODES: Final = frozenset({"API_DISABLED_FOR_ORG", "API_CURRENTLY_DISABLED", "INACTIVE_ORG", "ORG_LOCKED"})


class Rejected(Exception):  # noqa: N818 - an answer, which the adapter reads
    """Salesforce's answer to a call that it will not do as asked; never leaves infra/crm."""

    def __init__(self, status: int, errors: list[Mapping[str, Any]]) -> None:
        self.status = status
        self.errors = errors
        self.code = str(errors[0].get("errorCode") or f"HTTP_{status}") if errors else f"HTTP_{status}"
        super().__init__(f"Salesforce answered {status} {self.code}")

    def refusal(self) -> Refused:
        """As an outcome for every row of the call."""
        return shapes.refused(self.errors) if self.errors else Refused(self.code)

    def as_account_unavailable(self, account: str) -> AccountUnavailable:
        """For calls that are not about rows."""
        return AccountUnavailable(account, "FORBIDDEN", f"{self.code}: check the permissions of the integration user")


class _Unauthorized(Exception):  # noqa: N818 - an order to renew the token
    def __init__(self, token: str) -> None:
        super().__init__("401")
        self.token = token


class _Transport(HTTPAdapter):
    """Sets the timeout that the library does not, and reroutes to the sandbox where there is one."""

    def __init__(
        self,
        timeout: tuple[float, float],
        sandbox_url: str | None,
        connections: int,
        heard: Callable[[Said | None], None],
    ) -> None:
        super().__init__(pool_connections=4, pool_maxsize=connections, max_retries=0)
        self._timeout = timeout
        self._sandbox = sandbox_url.rstrip("/") if sandbox_url else None
        self._heard = heard

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """See HTTPAdapter.send."""
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = self._timeout
        if self._sandbox and request.url and not request.url.startswith(self._sandbox):
            parts = urlsplit(request.url)
            request.url = f"{self._sandbox}{parts.path}{f'?{parts.query}' if parts.query else ''}"
        answer = super().send(request, *args, **kwargs)
        self._heard(salesforce_said(answer.headers))
        return answer


class Orgs:
    """Connections to orgs, one each, kept open; and how a call is made over them."""

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
        self._sandbox = settings.sandbox_url
        self._timeout = (CONNECT_SECONDS, settings.crm_timeout_seconds)
        self._connections = settings.crm_concurrency
        self._calls = (
            calls
            if calls is not None
            else Calls(
                "salesforce",
                concurrency=settings.crm_concurrency,
                gate=gate if gate is not None else build_gate(settings, "salesforce"),
            )
        )
        self._open: dict[str, _Org] = {}

    async def close(self) -> None:
        """End threads and connections; may be called twice."""
        await self._calls.close()
        for org in self._open.values():
            org.session.close()
        self._open.clear()
        await self._tokens.close()

    async def call(
        self, account: Account, operation: str, use: Callable[[Salesforce], Any], *, repeatable: bool = True
    ) -> Any:
        """One use of the library with its retries. `operation` is a metric's label, one of few.

        Raises:
            Rejected: Salesforce will not do it (400, 404, ...).
            AccountUnavailable: no valid token, the org's quota is spent, or its API is off.
            AnswerLost: it is not `repeatable`, and may have been done.
            CrmUnavailable: no proper answer within the budget.
        """
        org = self._org(account)
        run = self._runner(account, operation, repeatable=repeatable)
        if org.client is None:
            await self._renew(org, account, run, "")
        try:
            return await run(lambda: org.request(use))
        except _Unauthorized as error:
            await self._renew(org, account, run, error.token)
        try:
            return await run(lambda: org.request(use))
        except _Unauthorized as error:
            raise AccountUnavailable(
                account.id, "TOKEN_REVOKED", "Salesforce refuses a token that it has just issued"
            ) from error

    async def access(self, account: Account, refused: str = "") -> tuple[str, str]:
        """An access token and the URL of the org's instance, for an API of Salesforce's that the library does not speak.

        `refused`: the token that was refused there; then another is given. Raises AccountUnavailable and CrmUnavailable.
        """
        org = self._org(account)
        if org.client is None or (refused and org.client.session_id == refused):
            await self._renew(org, account, self._runner(account, "token"), refused)
        client = org.client
        assert client is not None
        return str(client.session_id), org.instance

    def _runner(
        self, account: Account, operation: str, *, repeatable: bool = True
    ) -> Callable[[Callable[[], Any]], Any]:
        async def run(call: Callable[[], Any]) -> Any:
            try:
                return await self._calls.run(account.id, call, operation, repeatable=repeatable)
            except TryAgain as error:
                unavailable = AnswerLost if error.unheard and not repeatable else CrmUnavailable
                raise unavailable("salesforce", error.what, error.after) from error

        return run

    async def _renew(self, org: _Org, account: Account, run: Callable[[Callable[[], Any]], Any], refused: str) -> None:
        """Get a new access token, unless somebody else did since `refused` was the token."""
        async with org.renewing:
            if org.client is not None and org.client.session_id != refused:
                return
            if org.credentials.get("refresh_token"):
                await self._refresh(org, account, run, refused)
            else:
                await org.sign_in(run)

    async def _refresh(
        self, org: _Org, account: Account, run: Callable[[Callable[[], Any]], Any], refused: str
    ) -> None:
        """The flow that the library does not have, once for all processes."""

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
                f"Salesforce refuses the refresh token ({refusal.code}): authorize again with "
                f"`hookline account connect {account.id}`",
            ) from refusal
        except oauth.TokenEndpointAway as away:
            raise CrmUnavailable("salesforce", str(away)) from away
        org.use(access.token, access.instance_url)

    def _org(self, account: Account) -> _Org:
        known = self._open.get(account.id)
        if known is None or known.credentials != account.credentials:
            if known is not None:
                known.session.close()
            session = requests.Session()
            session.headers["Sforce-Call-Options"] = f"client={CLIENT_NAME}"
            heard = partial(self._calls.heard, account.id)
            transport = _Transport(self._timeout, self._sandbox, self._connections, heard)
            session.mount("https://", transport)
            session.mount("http://", transport)
            known = self._open[account.id] = _Org(account, session)
        return known


class _Org:
    """Blocking calls to one org; used by several threads."""

    def __init__(self, account: Account, session: requests.Session) -> None:
        self._account = account.id
        if account.credentials is None:
            raise AccountUnavailable(
                account.id, "TOKEN_REVOKED", f"no credentials: give them with `hookline account add {account.id}`"
            )
        self.credentials: Mapping[str, Any] = account.credentials
        self.session = session
        self._instance = str(account.config.get("instance_url") or "")
        self._login = str(account.config.get("login_url") or oauth.SALESFORCE_LOGIN)
        self.renewing = asyncio.Lock()
        self.instance = self._instance
        """The URL that the current token is good at."""
        self.client: Salesforce | None = None
        if self.credentials.get("access_token"):
            self.client = self._connected(str(self.credentials["access_token"]), self._instance)

    def _connected(self, token: str, instance: str) -> Salesforce:
        if not instance:
            raise AccountUnavailable(
                self._account, "FORBIDDEN", "config.instance_url is missing: give the org's My Domain URL"
            )
        self.instance = instance
        return Salesforce(
            session_id=token, instance_url=instance, session=self.session, version=API_VERSION, object_pairs_hook=None
        )

    def use(self, token: str, instance: str) -> None:
        """Call with this one from now on."""
        self.client = self._connected(token, instance or self._instance)

    async def sign_in(self, run: Callable[[Callable[[], Any]], Any]) -> None:
        """Get a new access token by a flow that needs nobody: JWT bearer, or client credentials."""
        flow = self._flow()
        if flow is None:
            raise AccountUnavailable(
                self._account,
                "TOKEN_REVOKED",
                f"Salesforce refuses the access token: `hookline account add {self._account}` with a new one"
                if self.client is not None
                else f"not connected yet: `hookline account connect {self._account}`",
            )
        try:
            token, instance = await run(flow)
        except Rejected as rejected:
            raise AccountUnavailable(
                self._account,
                "TOKEN_REVOKED",
                f"Salesforce refuses the credentials ({rejected.code}): check the external client app",
            ) from rejected
        self.use(token, instance)

    def _flow(self) -> Callable[[], tuple[str, str]] | None:
        given = self.credentials
        if given.get("private_key") and given.get("username"):
            return self._signed
        if given.get("consumer_secret"):
            form = {
                "grant_type": "client_credentials",
                "client_id": given.get("consumer_key"),
                "client_secret": given["consumer_secret"],
            }
            # This flow is answered by the org's own domain alone.
            return lambda: self._token(self._instance, form)
        return None

    def _token(self, host: str, form: Mapping[str, Any]) -> tuple[str, str]:
        try:
            answer = self.session.post(
                f"{host.rstrip('/')}{oauth.SALESFORCE_TOKEN_PATH}", data=form, headers={"Accept": "application/json"}
            )
        except requests.RequestException as error:
            raise TryAgain(type(error).__name__) from None
        found = _json(answer)
        if answer.status_code >= 500:
            raise TryAgain(str(answer.status_code))
        if answer.status_code != 200 or not isinstance(found, dict) or not found.get("access_token"):
            code = str(found.get("error") or "") if isinstance(found, dict) else ""
            raise Rejected(answer.status_code, [{"errorCode": code or f"HTTP_{answer.status_code}"}])
        return str(found["access_token"]), str(found.get("instance_url") or "")

    def _signed(self) -> tuple[str, str]:
        """The JWT bearer flow, which the library has."""
        given = self.credentials
        try:
            token, host = SalesforceLogin(
                session=self.session,
                username=given["username"],
                consumer_key=given.get("consumer_key"),
                privatekey=given["private_key"],
                domain=(urlsplit(self._login).hostname or "login.salesforce.com").removesuffix(".salesforce.com"),
            )
        except SalesforceAuthenticationFailed as error:
            raise Rejected(401, [{"errorCode": str(error.code or "invalid_grant")}]) from None
        except requests.RequestException as error:
            raise TryAgain(type(error).__name__) from None
        return str(token), f"https://{host}"

    def request(self, use: Callable[[Salesforce], Any]) -> Any:
        """One authenticated use of the library."""
        client = self.client
        assert client is not None
        try:
            return use(client)
        except SalesforceError as error:
            # `from None`: the library's error carries the body, and with it what customers wrote.
            raise self._understood(int(error.status or 0), error.content, client.session_id) from None
        except requests.RequestException as error:
            raise TryAgain(type(error).__name__, unheard=may_have_arrived(error)) from None

    def _understood(self, status: int, content: Any, token: str) -> Exception:
        errors = [found for found in content if isinstance(found, Mapping)] if isinstance(content, list) else []
        code = str(errors[0].get("errorCode") or "") if errors else ""
        if status == 401 or (status == 403 and "Bad_OAuth_Token" in str(content)):
            # The latter is how the identity service, unlike the REST API, says it.
            return _Unauthorized(token)
        if code == "REQUEST_LIMIT_EXCEEDED":
            return AccountUnavailable(
                self._account, "QUOTA_SPENT", "the org's API calls of 24 hours are spent", QUOTA_RETRY_SECONDS
            )
        if code in _FORBIDDEN_CODES:
            return AccountUnavailable(self._account, "FORBIDDEN", code)
        if status in {429, 500, 502, 503, 504} or code in _RETRIED_CODES:
            return TryAgain(code or str(status), unheard=status >= 500)
        return Rejected(status, errors)


def _json(answer: requests.Response) -> Any:
    try:
        return answer.json()
    except requests.JSONDecodeError:
        return None
