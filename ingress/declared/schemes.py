"""How a declared sender shows that it is the one: HMAC over a template, the Standard Webhooks scheme, a bearer token, Basic.

Law: a model that was read is a scheme that can be used: what is missing or would sign too little is an error of the declaration,
with the field and what to write instead. Verification compares texts in constant time and judges the time last, for only of a
genuine request does it mean anything. Bearer and Basic sign nothing: whoever reads one request can send others, so TLS carries them.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from ingress.sources.source import (
    FROM_THE_FUTURE,
    SIGNATURE_MISSING,
    STALE,
    VERIFICATION_FAILED,
    Denied,
    InboundRequest,
)
from schemas.delivery import Refusal

MAX_SIGNATURES = 16
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_NUMBER = re.compile(rb"(?:0|[1-9][0-9]{0,14})")
_FIELD = re.compile(r"\{([a-z]*)\}")
_FIELDS = ("body", "timestamp", "id", "method", "url", "path")
_PER_SECOND = {"s": 1, "ms": 1_000}


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
    tolerance_seconds: int = Field(default=300, ge=1, le=3_600)

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
    _parts: tuple[bytes | str, ...] = PrivateAttr(default=())
    _prefix: bytes = PrivateAttr(default=b"")
    _names: tuple[bytes, bytes | None, bytes | None] = PrivateAttr(default=(b"", None, None))

    @model_validator(mode="after")
    def _signs_enough(self) -> Hmac:
        pieces = _FIELD.split(self.signed)
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

    def model_post_init(self, context: object) -> None:
        """Work out once what every request needs."""
        super().model_post_init(context)
        pieces = _FIELD.split(self.signed)
        self._parts = tuple(
            piece if place % 2 else piece.encode() for place, piece in enumerate(pieces) if piece or place % 2
        )
        self._prefix = self.prefix.encode()
        stamp = self.timestamp.header if self.timestamp else None
        self._names = (
            self.header.encode(),
            stamp.encode() if stamp else None,
            self.id_header.encode() if self.id_header else None,
        )

    def key(self, secret: bytes) -> bytes | None:
        """The key that this secret is; None when it is not written as declared."""
        if self.secret == "text":  # noqa: S105 - how it is written
            return secret
        try:
            return (
                bytes.fromhex(secret.decode())
                if self.secret == "hex"  # noqa: S105 - how it is written
                else base64.b64decode(secret, validate=True)
            ) or None
        except (ValueError, binascii.Error):
            return None

    def verify(self, request: InboundRequest, secrets: Sequence[bytes], now: datetime) -> Denied | None:
        """None when one of the signatures holds under one of the secrets, and the time is near enough."""
        header, stamp_header, id_header = self._names
        value = request.headers.get(header)
        if value is None:
            return SIGNATURE_MISSING
        given, stamp = self._given(value)
        if stamp_header is not None:
            stamp = request.headers.get(stamp_header)
        identity = request.headers.get(id_header) if id_header is not None else b""
        if not given or (self.timestamp is not None and stamp is None) or identity is None:
            return SIGNATURE_MISSING
        if self.timestamp is not None and not _NUMBER.fullmatch(stamp or b""):
            return VERIFICATION_FAILED
        covered = self._covered(request, stamp or b"", identity)
        unusable = True
        for secret in secrets:
            key = self.key(secret)
            if key is None:
                continue
            unusable = False
            ours = self._prefix + self._encoded(hmac.digest(key, covered, self.digest))
            if any([hmac.compare_digest(ours, one) for one in given]):  # noqa: C419 - every one is compared, so that time tells nothing
                return None if self.timestamp is None else self._judge_age(int(stamp or b"0"), now)
        return _UNUSABLE if unusable else VERIFICATION_FAILED

    def _given(self, value: bytes) -> tuple[list[bytes], bytes | None]:
        if self.elements is None:
            return (value.split(self.separator.encode())[:MAX_SIGNATURES] if self.separator else [value]), None
        wanted = self.elements.signature.encode()
        stamp_name = self.timestamp.element.encode() if self.timestamp and self.timestamp.element else None
        found: list[bytes] = []
        stamps: list[bytes] = []
        for element in value.split(self.elements.separator.encode())[: 2 * MAX_SIGNATURES]:
            name, _, content = element.partition(b"=")
            if name == wanted:
                found.append(content)
            elif name == stamp_name:
                stamps.append(content)
        return found, stamps[0] if len(stamps) == 1 else None

    def _covered(self, request: InboundRequest, stamp: bytes, identity: bytes) -> bytes:
        if self._parts == ("body",):
            return request.body
        values = {"body": request.body, "timestamp": stamp, "id": identity}
        if "{method}" in self.signed or "{url}" in self.signed or "{path}" in self.signed:
            values |= {"method": request.method, "url": request.uri(), "path": request.target}
        return b"".join([values[part] if isinstance(part, str) else part for part in self._parts])

    def _encoded(self, digest: bytes) -> bytes:
        return binascii.hexlify(digest) if self.encoding == "hex" else binascii.b2a_base64(digest, newline=False)

    def _judge_age(self, stamp: int, now: datetime) -> Denied | None:
        assert self.timestamp is not None
        age = now.timestamp() - stamp / _PER_SECOND[self.timestamp.unit]
        if age > self.timestamp.tolerance_seconds:
            return STALE
        return FROM_THE_FUTURE if age < -self.timestamp.tolerance_seconds else None


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

_UNUSABLE = Denied(Refusal.ENDPOINT_DISABLED, "its secret is not written as `verify.secret` declares it")


def _same(request: InboundRequest, header: str, wanted: Sequence[bytes]) -> Denied | None:
    given = request.headers.get(header.encode())
    if given is None:
        return SIGNATURE_MISSING
    held = [hmac.compare_digest(one, given) for one in wanted]
    return None if any(held) else VERIFICATION_FAILED
