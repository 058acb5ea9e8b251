"""HubSpot's webhook signatures, versions 1 to 3, as HubSpot's "Validating requests" page defines them.

Law: pure functions over the bytes that are sent.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Literal
from urllib.parse import unquote

SignatureVersion = Literal["v1", "v2", "v3"]
_DECODED = {
    code: unquote(code) for code in ("%3A", "%2F", "%3F", "%40", "%21", "%24", "%27", "%28", "%29", "%2A", "%2C", "%3B")
}


def v1(secret: str, body: bytes) -> str:
    """Hex SHA-256 of secret and body: what CRM subscriptions of older apps carry."""
    return hashlib.sha256(secret.encode() + body).hexdigest()


def v2(secret: str, method: str, uri: str, body: bytes) -> str:
    """Hex SHA-256 of secret, method, uri and body."""
    return hashlib.sha256(f"{secret}{method}{uri}".encode() + body).hexdigest()


def v3(secret: str, method: str, uri: str, body: bytes, timestamp: str) -> str:
    """Base64 HMAC-SHA256 of method, uri, body and timestamp (ms); twelve escapes in the uri are decoded, once."""
    signed = f"{method}{decode_uri(uri)}".encode() + body + timestamp.encode()
    return base64.b64encode(hmac.digest(secret.encode(), signed, "sha256")).decode()


def decode_uri(uri: str) -> str:
    """The uri with the twelve escapes of version 3 decoded."""
    for code, plain in _DECODED.items():
        uri = uri.replace(code, plain).replace(code.lower(), plain)
    return uri


def headers(version: SignatureVersion, secret: str, uri: str, body: bytes, now_ms: int) -> dict[str, str]:
    """The signature headers of one request. Version 3 travels beside version 1, as HubSpot sends them."""
    if version == "v2":
        return {"X-HubSpot-Signature": v2(secret, "POST", uri, body), "X-HubSpot-Signature-Version": "v2"}
    found = {"X-HubSpot-Signature": v1(secret, body), "X-HubSpot-Signature-Version": "v1"}
    if version == "v3":
        timestamp = str(now_ms)
        found |= {
            "X-HubSpot-Signature-v3": v3(secret, "POST", uri, body, timestamp),
            "X-HubSpot-Request-Timestamp": timestamp,
        }
    return found
