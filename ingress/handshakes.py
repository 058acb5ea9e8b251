"""What senders ask before they send: the challenges by which they make sure that an address is a webhook's.

Law: only an endpoint whose configuration names a handshake answers one. What is said back is the sender's own challenge,
bounded, as plain text that no browser takes for a page; nothing else of the request is looked at, and nothing is kept.
Sources: Slack, "url_verification"; Microsoft Graph, "Receive change notifications through webhooks"; Meta, "Webhooks: Getting
started" (`hub.challenge`, also used by PubSubHubbub); Dropbox and others echo a parameter of a GET.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Literal
from urllib.parse import parse_qsl

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ingress.sources.source import Answer

MAX_CHALLENGE = 1_024
"""Characters; Slack's have 53, Microsoft's some hundred."""
MAX_QUERY = 4_096
MAX_SLACK_BODY = 4_096

_TEXT = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'"),
]


class Handshake(BaseModel):
    """Which challenge the endpoint answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["slack", "microsoft", "meta", "echo"]
    """`echo`: the parameter `parameter` of a GET comes back."""
    parameter: Annotated[str, Field(min_length=1, max_length=64)] = "challenge"
    verify_token_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Meta: SHA-256 of the verify token, in hex; the token itself is in no configuration."""

    @model_validator(mode="after")
    def _meta_needs_its_token(self) -> Handshake:
        if (self.kind == "meta") != (self.verify_token_sha256 is not None):
            raise ValueError(
                "kind meta needs verify_token_sha256, and no other kind has one: `printf %s TOKEN | sha256sum` prints it"
            )
        return self

    def greeting(self, method: str, query: bytes) -> Answer | None:
        """The answer to a challenge that comes in the address, before anything is verified; None: this is none. Never raises."""
        if not query or len(query) > MAX_QUERY or self.kind == "slack":
            return None
        if (method == "POST") != (self.kind == "microsoft") or method == "HEAD":
            return None
        try:
            given = dict(parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=32, errors="strict"))
        except ValueError:
            return None
        if self.kind == "microsoft":
            return _echo(given.get("validationToken", given.get("validationtoken")))
        if self.kind == "echo":
            return _echo(given.get(self.parameter))
        digest = hashlib.sha256(given.get("hub.verify_token", "").encode()).hexdigest()
        held = hmac.compare_digest(digest, self.verify_token_sha256 or "")
        return _echo(given.get("hub.challenge")) if held and given.get("hub.mode") == "subscribe" else None

    def reply(self, body: bytes) -> Answer | None:
        """The answer to a challenge that comes in a verified body; None: this is a delivery. Never raises."""
        if self.kind != "slack" or len(body) > MAX_SLACK_BODY or b'"url_verification"' not in body:
            return None
        try:
            given = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(given, dict) or given.get("type") != "url_verification":
            return None
        return _echo(given.get("challenge"))


def _echo(challenge: object) -> Answer | None:
    if not isinstance(challenge, str) or not 0 < len(challenge) <= MAX_CHALLENGE or not challenge.isprintable():
        return None
    return 200, _TEXT, challenge.encode("utf-8", "replace")
