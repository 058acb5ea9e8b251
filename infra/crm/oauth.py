"""OAuth with the CRMs: where an admin is sent, and how what comes back becomes tokens.

Law: addresses and dated paths stand here and nowhere else. A state is random, kept as a hash, good once and for ten minutes,
and bound to one account; the code is exchanged with the verifier (PKCE, RFC 7636) that only we know. Blocking calls: run them
in a thread. No error holds a token, a code or what the CRM wrote beside its error code.
Sources: HubSpot, "OAuth" (2026-03); Salesforce, "OAuth Authorization Flows" (web server flow with PKCE); RFC 6749, 7636, 9700.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import requests

from infra.accounts import Account
from infra.crm.calls import CONNECT_SECONDS
from infra.settings import Settings

HUBSPOT_AUTHORIZE: Final = "https://app.hubspot.com/oauth/authorize"
HUBSPOT_HOST: Final = "https://api.hubapi.com"
HUBSPOT_TOKEN_PATH: Final = "/oauth/2026-03/token"  # noqa: S105 - a path
SALESFORCE_LOGIN: Final = "https://login.salesforce.com"
SALESFORCE_AUTHORIZE_PATH: Final = "/services/oauth2/authorize"
SALESFORCE_TOKEN_PATH: Final = "/services/oauth2/token"  # noqa: S105 - a path
SALESFORCE_SCOPES: Final = ("api", "refresh_token")
HUBSPOT_SCOPES: Final = (
    "oauth",
    *(f"crm.objects.{kind}.{verb}" for kind in ("contacts", "companies", "deals") for verb in ("read", "write")),
    *(f"crm.schemas.{kind}.{verb}" for kind in ("contacts", "companies", "deals") for verb in ("read", "write")),
)
HUBSPOT_OPTIONAL_SCOPES: Final = (
    "crm.objects.leads.read", "crm.objects.leads.write", "tickets", "sales-email-read",
)  # fmt: skip
REVOKED: Final = frozenset({"invalid_grant", "inactive_user", "inactive_org", "unauthorized_client"})
"""Error codes of a token endpoint after which only a person can help."""


class GrantRefused(Exception):  # noqa: N818 - an answer
    """The CRM's token endpoint says no; `code` is its error code."""

    def __init__(self, code: str) -> None:
        super().__init__(f"the CRM refuses: {code}")
        self.code = code


class TokenEndpointAway(Exception):  # noqa: N818 - a state
    """It does not answer, or with 5xx or 429: try later."""


@dataclass(frozen=True, slots=True)
class Authorization:
    """One way of an admin to the CRM and back."""

    url: str
    state: str
    verifier: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token endpoint gave. Never in a log: `repr` says how much there is, not what."""

    access_token: str
    refresh_token: str
    expires_in: float | None
    instance_url: str
    extra: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Grant(refresh_token={bool(self.refresh_token)}, expires_in={self.expires_in})"


def begin(settings: Settings, account: Account, redirect_uri: str) -> Authorization:
    """Where the admin goes. Raises ValueError naming the credential that is missing."""
    given = account.credentials or {}
    name = "client_id" if account.crm == "hubspot" else "consumer_key"
    if not given.get(name):
        raise ValueError(f"the account has no {name}: give it with `hookline account add`")
    state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
    query = {
        "client_id": str(given[name]),
        "redirect_uri": redirect_uri,
        "state": state,
        "code_challenge": challenge_of(verifier),
        "code_challenge_method": "S256",
    }
    if account.crm == "hubspot":
        query |= {"scope": " ".join(HUBSPOT_SCOPES), "optional_scope": " ".join(HUBSPOT_OPTIONAL_SCOPES)}
        base = HUBSPOT_AUTHORIZE
    else:
        query |= {"response_type": "code", "scope": " ".join(SALESFORCE_SCOPES), "prompt": "login consent"}
        base = f"{_login(account)}{SALESFORCE_AUTHORIZE_PATH}"
    return Authorization(f"{_here(settings, base)}?{urlencode(query)}", state, verifier)


def challenge_of(verifier: str) -> str:
    """S256 of RFC 7636."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def exchange(settings: Settings, account: Account, code: str, verifier: str, redirect_uri: str) -> Grant:
    """The code for tokens. Blocks; raises GrantRefused, TokenEndpointAway. A code is good once."""
    return _post(
        settings,
        account,
        {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        },
    )


def refresh(settings: Settings, account: Account, refresh_token: str) -> Grant:
    """A new access token, and where the CRM rotates them a new refresh token, which ends the old one. Blocks; raises as `exchange`."""
    return _post(settings, account, {"grant_type": "refresh_token", "refresh_token": refresh_token})


def _post(settings: Settings, account: Account, form: dict[str, str]) -> Grant:
    given = account.credentials or {}
    names = ("client_id", "client_secret") if account.crm == "hubspot" else ("consumer_key", "consumer_secret")
    form = {**form, "client_id": str(given.get(names[0]) or "")}
    if given.get(names[1]):
        form["client_secret"] = str(given[names[1]])
    url = (
        f"{HUBSPOT_HOST}{HUBSPOT_TOKEN_PATH}"
        if account.crm == "hubspot"
        else f"{_login(account)}{SALESFORCE_TOKEN_PATH}"
    )
    try:
        answer = requests.post(
            _here(settings, url),
            data=form,
            headers={"Accept": "application/json"},
            timeout=(CONNECT_SECONDS, settings.crm_timeout_seconds),
            allow_redirects=False,
        )
        found = answer.json()
    except requests.JSONDecodeError:
        found = {}
    except requests.RequestException as error:
        raise TokenEndpointAway(type(error).__name__) from None
    if answer.status_code >= 500 or answer.status_code == 429:
        raise TokenEndpointAway(str(answer.status_code))
    if answer.status_code != 200 or not isinstance(found, dict) or not found.get("access_token"):
        code = found.get("error") or found.get("status") if isinstance(found, dict) else ""
        raise GrantRefused(_code(code) or f"HTTP_{answer.status_code}")
    lasts = found.get("expires_in")
    return Grant(
        str(found["access_token"]),
        str(found.get("refresh_token") or ""),
        float(lasts) if lasts is not None else None,
        str(found.get("instance_url") or ""),
        {name: found[name] for name in ("hub_id", "id", "scope") if name in found},
    )


def _code(text: Any) -> str:
    """An error code as RFC 6749 has them; anything else might repeat what we sent."""
    found = str(text or "")
    return found if found.replace("_", "").isalnum() and len(found) <= 60 else ""


def _login(account: Account) -> str:
    """The org's My Domain where it is known: orgs may forbid the general login."""
    found = account.config.get("login_url") or account.config.get("instance_url") or SALESFORCE_LOGIN
    return str(found).rstrip("/")


def _here(settings: Settings, url: str) -> str:
    """In development with a sandbox everything goes there."""
    if not settings.sandbox_url:
        return url
    return settings.sandbox_url.rstrip("/") + urlsplit(url).path
