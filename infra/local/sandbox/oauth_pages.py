"""The page on which an admin lets an app in, and the codes that come of it: the same for both vendors.

Law: a code is good once, for a minute, for the client, redirect address and challenge that it was made for (RFC 6749, 4.1; RFC
7636). Nothing is redirected to before the client is known.
"""

from __future__ import annotations

import base64
import hashlib
import html
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlencode

from infra.local.sandbox.web import Request, Response

CODE_LASTS_MS = 60_000


@dataclass(slots=True)
class Code:
    """One consent, not exchanged yet."""

    account: str
    client_id: str
    redirect_uri: str
    challenge: str
    expires: int


class Codes:
    """Codes that were given out."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._codes: dict[str, Code] = {}

    def give(self, account: str, client_id: str, redirect_uri: str, challenge: str) -> str:
        """A new one."""
        value = secrets.token_urlsafe(24)
        self._codes[value] = Code(account, client_id, redirect_uri, challenge, self._clock() + CODE_LASTS_MS)
        return value

    def take(self, form: dict[str, str]) -> Code | None:
        """What the code of a token request stands for, once; None where anything does not fit."""
        found = self._codes.pop(form.get("code", ""), None)
        if found is None or found.expires <= self._clock():
            return None
        if found.client_id != form.get("client_id") or found.redirect_uri != form.get("redirect_uri"):
            return None
        verifier = form.get("code_verifier", "")
        if found.challenge and not secrets.compare_digest(found.challenge, _challenge(verifier)):
            return None
        return found


def _challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def consent(request: Request, title: str, accounts: Iterable[tuple[str, str]], codes: Codes) -> Response:
    """GET: the page. POST with `account` (or `deny`): back to the app with a code, or with `access_denied`."""
    asked = {name: request.param(name) for name in ("client_id", "redirect_uri", "state", "code_challenge", "scope")}
    method = request.param("code_challenge_method", "S256" if asked["code_challenge"] else "")
    known = dict(accounts)
    if not known or not asked["redirect_uri"].startswith(("http://", "https://")):
        return _page(title, "<p>Unknown client, or no redirect address.</p>", 400)
    if asked["code_challenge"] and method != "S256":
        return _back(asked, {"error": "invalid_request", "error_description": "code_challenge_method must be S256"})
    if request.method == "POST":
        form = request.form()
        if "deny" in form:
            return _back(asked, {"error": "access_denied", "error_description": "the admin said no"})
        if form.get("account") not in known:
            return _page(title, "<p>No such account.</p>", 400)
        code = codes.give(form["account"], asked["client_id"], asked["redirect_uri"], asked["code_challenge"])
        return _back(asked, {"code": code})
    buttons = "".join(
        f'<p><button name="account" value="{html.escape(key)}">Let it into {html.escape(name)} ({html.escape(key)})</button></p>'
        for key, name in known.items()
    )
    scopes = html.escape(asked["scope"])
    action = html.escape(f"{request.path}?{request.raw_query.decode('latin-1')}")
    return _page(
        title,
        f'<p>The app asks for: {scopes}</p><form method="post" action="{action}">{buttons}<p><button name="deny" value="1">No</button></p></form>',
        200,
    )


def _back(asked: dict[str, str], given: dict[str, str]) -> Response:
    response = Response(302)
    query = urlencode({**given, **({"state": asked["state"]} if asked["state"] else {})})
    joint = "&" if "?" in asked["redirect_uri"] else "?"
    response.headers.append((b"location", f"{asked['redirect_uri']}{joint}{query}".encode()))
    return response


def _page(title: str, body: str, status: int) -> Response:
    text = f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><h1>{html.escape(title)}</h1>{body}"
    return Response(status, text.encode(), b"text/html; charset=utf-8")
