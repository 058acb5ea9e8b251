"""HubSpot's error shapes.

Law: shapes alone, as HubSpot's "Error handling" page and its OpenAPI documents give them; who raises them decides.
"""

from __future__ import annotations

import uuid
from typing import Any

import orjson

from infra.local.sandbox.web import Response, answer


class HubSpotError(Exception):
    """An error that is answered in HubSpot's shape."""

    def __init__(self, status: int, category: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {
            "status": "error",
            "message": message,
            "correlationId": str(uuid.uuid4()),
            "category": category,
            **more,
        }

    def response(self) -> Response:
        """The answer to send."""
        return answer(self.body, self.status)


def unauthenticated(*, expired: bool = False) -> HubSpotError:
    """401 for a missing, unknown, revoked or expired token."""
    if expired:
        return HubSpotError(
            401,
            "EXPIRED_AUTHENTICATION",
            "The OAuth token used to make this call expired. Use the refresh token to get a new one.",
        )
    return HubSpotError(
        401,
        "INVALID_AUTHENTICATION",
        "Authentication credentials not found. This API supports OAuth 2.0 authentication and you can find more details at "
        "https://developers.hubspot.com/docs/methods/auth/oauth-overview",
    )


def rate_limited(policy: str) -> HubSpotError:
    """429: `policy` is TEN_SECONDLY_ROLLING, SECONDLY or DAILY."""
    message = f"You have reached your {policy.lower()} limit."
    return HubSpotError(
        429, "RATE_LIMITS", message, errorType="RATE_LIMIT", policyName=policy, requestId=str(uuid.uuid4())
    )


def not_found(message: str = "resource not found") -> HubSpotError:
    """404."""
    return HubSpotError(404, "OBJECT_NOT_FOUND", message)


def bad_request(message: str, **more: Any) -> HubSpotError:
    """400."""
    return HubSpotError(400, "VALIDATION_ERROR", message, **more)


class PropertyProblem(dict[str, Any]):
    """One property's value that HubSpot refuses, in its own words."""

    def __init__(self, code: str, name: str, message: str, portal: str) -> None:
        super().__init__(
            isValid=False, message=message, error=code, name=name, localizedErrorMessage=message, portalId=int(portal)
        )


def _details(problems: list[PropertyProblem]) -> list[dict[str, Any]]:
    return [{"message": p["message"], "code": p["error"], "context": {"propertyName": [p["name"]]}} for p in problems]


def _message(problems: list[PropertyProblem]) -> str:
    return f"Property values were not valid: {orjson.dumps(problems).decode()}"


def invalid_properties(problems: list[PropertyProblem]) -> HubSpotError:
    """400 for the whole request."""
    return bad_request(_message(problems), errors=_details(problems))


def row_error(
    category: str, message: str, context: dict[str, list[str]], errors: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """One entry of `errors` in a 207 answer (StandardError)."""
    return {
        "status": "error",
        "category": category,
        "message": message,
        "context": context,
        "errors": errors or [],
        "links": {},
    }


def invalid_row(problems: list[PropertyProblem], context: dict[str, list[str]]) -> dict[str, Any]:
    """A row whose values are refused, in a 207 answer."""
    return row_error("VALIDATION_ERROR", _message(problems), context, _details(problems))
