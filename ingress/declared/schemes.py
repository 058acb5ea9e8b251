"""How a declared sender shows that it is the one: HMAC over a template, the Standard Webhooks scheme, a bearer token, Basic.

Law: a model that was read is a scheme that can be used: what is missing or would sign too little is an error of the declaration,
with the field and what to write instead. How an HMAC is verified: `ingress/declared/verifier.py`. Bearer and Basic sign nothing: whoever reads one request can send others, so TLS carries them.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ingress.declared.verifier import FIELD, key_of
from ingress.sources.source import SIGNATURE_MISSING, VERIFICATION_FAILED, Denied, InboundRequest

MAX_TOLERANCE_SECONDS = 3_600
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_FIELDS = ("body", "timestamp", "id", "method", "url", "path")


def _header(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("not the name of a header, such as X-Signature")
    return name.lower()


HeaderName = Annotated[str, AfterValidator(_header)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Timestamp(_Part):
    """Where the time of signing stands."""

    header: HeaderName | None = None
    element: str | None = None
    """Or the name of an element of the signature header, as Stripe's `t`."""
    unit: Literal["s", "ms"] = "s"
    tolerance_seconds: int = Field(default=300, ge=1, le=MAX_TOLERANCE_SECONDS)

    @model_validator(mode="after")
    def _one_place(self) -> Timestamp:
        if (self.header is None) == (self.element is None):
            raise ValueError("give either header or element: the place where the time stands")
        return self


class Elements(_Part):
    """A signature header made of `name=value` elements."""

    signature: Annotated[str, Field(min_length=1)]
    """The element that holds a signature; it may come several times."""
    separator: Literal[",", ";", " "] = ","


class Hmac(_Part):
    """An HMAC in a header, over the body or over a text that contains it."""

    scheme: Literal["hmac"]
    header: HeaderName
    digest: Literal["sha1", "sha256", "sha384", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = ""
    """What stands before each signature, e.g. `sha256=`."""
    separator: Literal[",", ";", " "] | None = None
    """Between several signatures in one header, while the sender rotates."""
    elements: Elements | None = None
    timestamp: Timestamp | None = None
    id_header: HeaderName | None = None
    signed: str = "{body}"
    """What is signed: text with {body}, {timestamp}, {id}, {method}, {url} or {path}."""
    secret: Literal["text", "hex", "base64"] = "text"  # noqa: S105 - how it is written, not what it is
    """How the key is written: as it is, or encoded."""

    @model_validator(mode="after")
    def _signs_enough(self) -> Hmac:
        pieces = FIELD.split(self.signed)
        fields = pieces[1::2]
        unknown = [name for name in fields if name not in _FIELDS]
        if unknown:
            raise ValueError(
                f"signed: {{{unknown[0]}}} is not known; there are {', '.join(f'{{{one}}}' for one in _FIELDS)}"
            )
        if fields.count("body") != 1:
            raise ValueError("signed: {body} must stand in it once, else the body could be changed on the way")
        for name, given, option in (("timestamp", self.timestamp, "timestamp"), ("id", self.id_header, "id_header")):
            if (name in fields) != (given is not None):
                raise ValueError(
                    f"signed and {option}: {{{name}}} in signed and {option} belong together: what is read must be signed"
                )
        if self.timestamp is not None and self.timestamp.element is not None and self.elements is None:
            raise ValueError("timestamp.element: needs elements, which say how the signature header is divided")
        if self.elements is not None and self.separator is not None:
            raise ValueError("separator: elements have one of their own")
        return self

    def key(self, secret: bytes) -> bytes | None:
        """The key that this secret is; None when it is not written as declared."""
        return key_of(secret, self.secret)


class Bearer(_Part):
    """A secret that comes with every request."""

    scheme: Literal["bearer"]
    header: HeaderName = "authorization"
    prefix: str | None = None
    """`Bearer ` in Authorization, nothing in other headers, unless said otherwise."""

    def verify(self, request: InboundRequest, secrets: Sequence[bytes], _now: datetime) -> Denied | None:
        """None when one of the secrets came."""
        prefix = self.prefix if self.prefix is not None else ("Bearer " if self.header == "authorization" else "")
        return _same(request, self.header, [prefix.encode() + secret for secret in secrets])


class Basic(_Part):
    """HTTP Basic; the endpoint's secret is the password."""

    scheme: Literal["basic"]
    username: Annotated[str, Field(min_length=1, pattern="^[^:]*$")]

    def verify(self, request: InboundRequest, secrets: Sequence[bytes], _now: datetime) -> Denied | None:
        """None when user name and one of the passwords came."""
        user = self.username.encode() + b":"
        return _same(request, "authorization", [b"Basic " + base64.b64encode(user + secret) for secret in secrets])


class Standard(_Part):
    """standardwebhooks.com, with a body of the sender's own."""

    scheme: Literal["standard_webhooks"]


Scheme = Annotated[Hmac | Bearer | Basic | Standard, Field(discriminator="scheme")]


def _same(request: InboundRequest, header: str, wanted: Sequence[bytes]) -> Denied | None:
    given = request.headers.get(header.encode())
    if given is None:
        return SIGNATURE_MISSING
    held = [hmac.compare_digest(one, given) for one in wanted]
    return None if any(held) else VERIFICATION_FAILED
