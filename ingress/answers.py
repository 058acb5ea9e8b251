"""What the front door says: a status for every cause, and the bytes that are the same for everybody.

Law: an answer names its cause and nothing else; it never says anything of what was sent. docs/ingress.md holds this as a table,
and a test compares the two.
"""

from __future__ import annotations

import http
from collections.abc import Sequence

from schemas.delivery import Refusal

Headers = Sequence[tuple[bytes, bytes]]

STATUS: dict[Refusal, int] = {
    Refusal.UNKNOWN_ENDPOINT: 404,
    Refusal.ENDPOINT_DISABLED: 403,
    Refusal.METHOD_NOT_ALLOWED: 405,
    Refusal.ADDRESS_NOT_ALLOWED: 403,
    Refusal.CERTIFICATE_REFUSED: 403,
    Refusal.VERIFICATION_FAILED: 401,
    Refusal.SIGNATURE_MISSING: 401,
    Refusal.STALE: 401,
    Refusal.FROM_THE_FUTURE: 401,
    Refusal.REPLAYED: 202,
    Refusal.PAYLOAD_TOO_LARGE: 413,
    Refusal.UNSUPPORTED_ENCODING: 415,
    Refusal.EMPTY_BODY: 400,
    Refusal.BODY_INCOMPLETE: 408,
    Refusal.MALFORMED_REQUEST: 400,
    Refusal.HEADERS_TOO_LARGE: 431,
    Refusal.HEADERS_INCOMPLETE: 408,
    Refusal.RATE_LIMITED: 429,
    Refusal.OVERLOADED: 503,
    Refusal.BROKER_UNAVAILABLE: 503,
    Refusal.KEYS_UNAVAILABLE: 503,
}

RETRY_AFTER: dict[Refusal, int] = {
    Refusal.RATE_LIMITED: 10,
    Refusal.OVERLOADED: 5,
    Refusal.BROKER_UNAVAILABLE: 10,
    Refusal.KEYS_UNAVAILABLE: 10,
}
"""Seconds. HubSpot and Salesforce keep their own schedule; other senders and proxies listen."""

CLOSING = frozenset({
    Refusal.PAYLOAD_TOO_LARGE, Refusal.BODY_INCOMPLETE, Refusal.OVERLOADED,
    Refusal.MALFORMED_REQUEST, Refusal.HEADERS_TOO_LARGE, Refusal.HEADERS_INCOMPLETE,
})  # fmt: skip
"""Answers given before the body was read to its end: the connection ends with them."""

GREETING = b"This is a Hookline endpoint. It takes webhooks by POST.\n"
PLAIN = [(b"content-type", b"text/plain; charset=utf-8")]
NOT_FOUND = b"Nothing here.\n"
FAILED = b"Something failed on our side; please send it again.\n"


def head_of(answer: tuple[int, Headers, bytes], extra: Headers = ()) -> bytes:
    """Status line and headers of (status, headers, body) as they stand on the wire, up to the request's id, which is to follow."""
    status, headers, body = answer
    lines = [b"HTTP/1.1 %d %b" % (status, http.HTTPStatus(status).phrase.encode())]
    lines += [b"%b: %b" % pair for pair in (*headers, (b"content-length", b"%d" % len(body)), *extra)]
    return b"\r\n".join(lines) + b"\r\nx-request-id: "
