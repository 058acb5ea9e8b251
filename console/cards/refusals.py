"""Why a card gets no answer: a cause by name, and what to do next.

Law: says nothing of what was sent or of what is held, not even whether an account is connected here: to a stranger an unknown
account looks like a bad signature, and the log alone tells them apart. HubSpot retries a 5xx once by itself, so only what may pass is one.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

_RELOAD = "Reload the page and try again."
_ADMIN = "Ask the admin who connected Hookline: `hookline account check` says what to mend."

CAUSES: Mapping[str, tuple[int, str, str]] = {
    "SIGNATURE_MISSING": (401, "The call bears no v3 signature of HubSpot.", "Call it through hubspot.fetch."),
    "VERIFICATION_FAILED": (
        401,
        "HubSpot's signature does not hold.",
        "Compare the app's client secret with the endpoint's, and api_public_url with the address in the app; is the account connected?",
    ),
    "STALE": (401, "The call is older than five minutes.", _RELOAD),
    "FROM_THE_FUTURE": (401, "The call bears a time that is yet to come.", "Set the clock of this server."),
    "PORTAL_UNKNOWN": (
        401,
        "The address names no HubSpot account that is connected here.",
        "Connect it: `hookline account add hubspot`.",
    ),
    "METHOD_NOT_ALLOWED": (405, "Only POST is served here.", "Send a POST."),
    "BODY_TOO_LARGE": (413, "The body is too large.", "Shorten the note to 2,000 characters."),
    "BODY_INVALID": (
        422,
        "The body is not what this endpoint takes.",
        "Use the card of the same release as the server: upload the app again.",
    ),
    "RECORD_GONE": (404, "The record is no longer in HubSpot.", _RELOAD),
    "NOT_WRITTEN": (409, "HubSpot refused to save the feedback.", _ADMIN),
    "ACCOUNT_UNAVAILABLE": (409, "Hookline has no access to this HubSpot account at the moment.", _ADMIN),
    "TOO_MANY": (429, "Too many calls from this HubSpot account.", "Wait a moment, then try again."),
    "TRY_LATER": (503, "Something that is needed is away for a moment.", "Try again in a minute."),
    "BUG": (500, "Something broke that should not.", "Look at the server's log at the time of this call."),
}


class Refused(Exception):  # noqa: N818 - an answer
    """To be answered instead; `cause` is one of CAUSES."""

    def __init__(self, cause: str, *, retry_after: int | None = None) -> None:
        """`retry_after` in seconds."""
        super().__init__(cause)
        self.cause = cause
        self.retry_after = retry_after

    def response(self) -> JSONResponse:
        """As an answer."""
        cause = "VERIFICATION_FAILED" if self.cause == "PORTAL_UNKNOWN" else self.cause
        status, detail, remedy = CAUSES[cause]
        headers = {"Cache-Control": "no-store"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        return JSONResponse({"cause": cause, "detail": detail, "remedy": remedy}, status, headers)
