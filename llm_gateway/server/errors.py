"""Errors as OpenAI's clients know them: one object, whose code says what to do.

Law: no word of a question or an answer of ours; what the provider said of the client's own request goes back to that
client, and nowhere else. 429 and 503 carry `retry-after`; where trying again cannot help, `x-should-retry: false` keeps
the official clients from it. Shape: https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

import orjson

from llm_gateway.prompt import GatewayError, InputRefused, ModelUnavailable, OutputInvalid, QuotaSpent, RateLimited
from llm_gateway.providers.provider import QuestionRefused

Headers = list[tuple[bytes, bytes]]
_JSON = (b"content-type", b"application/json")
_NEVER = (b"x-should-retry", b"false")

# cause → status, code
_UNAVAILABLE = {
    "TIMEOUT": (504, "model_timeout"),
    "RATE_LIMITED": (429, "provider_rate_limited"),
    "SERVER_ERROR": (502, "provider_error"),
    "CONNECTION": (502, "provider_unreachable"),
    "AUTHENTICATION": (502, "provider_key_refused"),
    "MODEL_GONE": (404, "model_not_found"),
    "CIRCUIT_OPEN": (503, "model_unavailable"),
    "REDIS_AWAY": (503, "limits_unavailable"),
    "DATABASE_AWAY": (503, "quotas_unavailable"),
    "STOPPING": (503, "stopping"),
}
_HOPELESS = frozenset({"AUTHENTICATION", "MODEL_GONE"})


class Refusal(Exception):  # noqa: N818 -- reads as what happened
    """A request that is answered with an error of our own."""

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


class TakenBack(QuestionRefused):
    """The provider takes this request for wrong; what it says of it goes back as it is."""

    def __init__(self, status: int, code: str, body: bytes) -> None:
        super().__init__(f"the provider does not take this request (HTTP {status} {code})")
        self.status = status
        self.code = code
        self.body = body


def answered(error: Refusal | GatewayError) -> tuple[int, Headers, bytes]:  # noqa: C901, PLR0911 -- one branch a kind of error
    """Status, headers and body of an error."""
    if isinstance(error, Refusal):
        kind = "authentication_error" if error.status == 401 else "invalid_request_error"
        if error.status in (403, 404):
            kind = "permission_error" if error.status == 403 else "not_found_error"
        return error.status, [_JSON], _object(str(error), kind, error.code, error.param)
    if isinstance(error, InputRefused):
        back = error.__cause__
        if isinstance(back, TakenBack):
            return back.status, [_JSON, _NEVER], back.body
        return 400, [_JSON, _NEVER], _object(str(error), "invalid_request_error", "request_refused")
    if isinstance(error, RateLimited):
        return 429, [_JSON, _after(_left(error.resets_at))], _object(
            f"{error} Slow down, ask with less urgency, or have the limit raised.", "rate_limit_error", "rate_limit_exceeded"
        )  # fmt: skip
    if isinstance(error, QuotaSpent):
        return (
            429,
            [_JSON, _after(_left(error.resets_at)), _NEVER],
            _object(str(error), "insufficient_quota", "quota_exceeded"),
        )
    if isinstance(error, ModelUnavailable):
        status, code = _UNAVAILABLE[error.cause]
        headers = [_JSON]
        if error.cause in _HOPELESS:
            headers.append(_NEVER)
        elif status in (429, 503):
            headers.append(_after(1.0 if error.retry_after is None else error.retry_after))
        kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status == 404 else "api_error"
        return status, headers, _object(str(error), kind, code, "model" if status == 404 else None)
    if isinstance(error, OutputInvalid):
        return 502, [_JSON, _NEVER], _object(str(error), "api_error", "output_invalid")
    return 500, [_JSON], _object("an error of ours; its log has more", "api_error", "internal_error")


def _object(message: str, kind: str, code: str, param: str | None = None) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def _after(seconds: float) -> tuple[bytes, bytes]:
    return b"retry-after", str(max(1, math.ceil(seconds))).encode()


def _left(until: datetime) -> float:
    return (until - datetime.now(UTC)).total_seconds()
