"""Signatures made by others than the code under test: vendors' libraries where they are right, hashlib by hand elsewhere."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field, replace
from datetime import datetime

from hubspot.utils.signature import Signature

from ingress.sources.source import InboundRequest
from tests.ingress.fakes import NOW, PUBLIC, SECRET, endpoint

PATH = f"/hooks/{endpoint().id}"
HUBSPOT_ESCAPES = {
    "%3A": ":", "%2F": "/", "%3F": "?", "%40": "@", "%21": "!", "%24": "$", "%27": "'", "%28": "(", "%29": ")", "%2A": "*",
    "%2C": ",", "%3B": ";",
}  # fmt: skip


def refusal_of(source, found: InboundRequest, at_endpoint=None, now: datetime = NOW):
    """The cause alone; None when it is believed."""
    denied = source.verify(found, at_endpoint or endpoint(source.name), now)
    return denied.refusal if denied is not None else None


@dataclass(frozen=True)
class Signed:
    """A request and what of it is signed; `covered` are the headers in which no byte may change."""

    request: InboundRequest
    covered: tuple[bytes, ...]
    secret: bytes = SECRET
    covers_uri: bool = True
    covers_method: bool = True
    config: dict = field(default_factory=dict)

    def with_(self, **changes) -> InboundRequest:
        return replace(self.request, **changes)


def request(body: bytes, headers: dict[bytes, bytes], target: str = PATH, method: str = "POST") -> InboundRequest:
    return InboundRequest(method.encode(), target.encode(), PUBLIC.encode(), headers, body)


def millis(at: datetime) -> str:
    return str(int(at.timestamp() * 1000))


def hubspot_v1(body: bytes, secret: bytes = SECRET) -> Signed:
    signature = Signature.get_signature(secret.decode(), body.decode(), "v1")
    headers = {b"x-hubspot-signature": signature.encode(), b"x-hubspot-signature-version": b"v1"}
    return Signed(request(body, headers), (b"x-hubspot-signature",), secret, covers_uri=False, covers_method=False)


def hubspot_v2(body: bytes, secret: bytes = SECRET, target: str = PATH) -> Signed:
    signature = Signature.get_signature(secret.decode(), body.decode(), "v2", PUBLIC + target, "POST")
    headers = {b"x-hubspot-signature": signature.encode(), b"x-hubspot-signature-version": b"v2"}
    return Signed(request(body, headers, target), (b"x-hubspot-signature",), secret)


def hubspot_v3(body: bytes, secret: bytes = SECRET, target: str = PATH, at: datetime = NOW) -> Signed:
    # The vendor's library does not decode the address, so that is done here, by the list in the documentation.
    uri = re.sub("|".join(HUBSPOT_ESCAPES), lambda match: HUBSPOT_ESCAPES[match.group()], PUBLIC + target)
    signature = Signature.get_signature(secret.decode(), body.decode(), "v3", uri, "POST", millis(at))
    headers = {b"x-hubspot-signature-v3": signature.encode(), b"x-hubspot-request-timestamp": millis(at).encode()}
    return Signed(request(body, headers, target), (b"x-hubspot-signature-v3", b"x-hubspot-request-timestamp"), secret)


STANDARD_SECRET = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def standard(body: bytes, secret: bytes = STANDARD_SECRET, at: datetime = NOW, identity: str = "msg_1") -> Signed:
    stamp = str(int(at.timestamp()))
    key = base64.b64decode(secret.removeprefix(b"whsec_"))
    digest = hmac.new(key, f"{identity}.{stamp}.".encode() + body, hashlib.sha256).digest()
    headers = {
        b"webhook-id": identity.encode(),
        b"webhook-timestamp": stamp.encode(),
        b"webhook-signature": b"v1," + base64.b64encode(digest),
    }
    return Signed(request(body, headers), tuple(headers), secret, covers_uri=False, covers_method=False)


DECLARED_SECRET = b"a-secret-that-nobody-knows"


def declared(verify: dict) -> dict:
    """A declaration with some mapping."""
    return {"verify": verify, "changes": {"account": "hubspot:145883449", "object": "'deal'", "id": "event.id"}}


GITHUB = {**declared({}), "preset": "github"}
STRIPE = {**declared({}), "preset": "stripe"}
SLACK = {**declared({}), "preset": "slack"}
EVERYTHING = declared({
    "scheme": "hmac", "header": "X-Sig", "digest": "sha512", "encoding": "base64", "prefix": "v1,", "separator": " ",
    "timestamp": {"header": "X-Time", "unit": "ms"}, "id_header": "X-Id", "signed": "{method}\n{url}\n{id}\n{timestamp}\n{body}",
})  # fmt: skip
BEARER = declared({"scheme": "bearer"})
BASIC = declared({"scheme": "basic", "username": "hookline"})


def _hex(secret: bytes, text: bytes, digest=hashlib.sha256) -> bytes:
    return hmac.new(secret, text, digest).hexdigest().encode()


def github(body: bytes, secret: bytes = DECLARED_SECRET) -> Signed:
    headers = {b"x-hub-signature-256": b"sha256=" + _hex(secret, body)}
    return Signed(request(body, headers), tuple(headers), secret, covers_uri=False, config=GITHUB)


def stripe(body: bytes, secret: bytes = DECLARED_SECRET, at: datetime = NOW) -> Signed:
    stamp = str(int(at.timestamp())).encode()
    headers = {b"stripe-signature": b"t=" + stamp + b",v1=" + _hex(secret, stamp + b"." + body) + b",v0=" + b"0" * 64}
    return Signed(request(body, headers), (), secret, covers_uri=False, config=STRIPE)


def slack(body: bytes, secret: bytes = DECLARED_SECRET, at: datetime = NOW) -> Signed:
    stamp = str(int(at.timestamp())).encode()
    headers = {
        b"x-slack-signature": b"v0=" + _hex(secret, b"v0:" + stamp + b":" + body),
        b"x-slack-request-timestamp": stamp,
    }
    return Signed(request(body, headers), tuple(headers), secret, covers_uri=False, config=SLACK)


def everything(body: bytes, secret: bytes = DECLARED_SECRET, at: datetime = NOW) -> Signed:
    stamp = millis(at).encode()
    text = b"\n".join((b"POST", (PUBLIC + PATH).encode(), b"id-1", stamp, body))
    digest = base64.b64encode(hmac.new(secret, text, hashlib.sha512).digest())
    headers = {b"x-sig": b"v1," + digest, b"x-time": stamp, b"x-id": b"id-1"}
    return Signed(request(body, headers), tuple(headers), secret, config=EVERYTHING)


def callout(body: bytes, secret: bytes = DECLARED_SECRET, at: datetime = NOW) -> Signed:
    stamp = millis(at).encode()
    headers = {b"x-hookline-timestamp": stamp, b"x-hookline-signature": b"v1=" + _hex(secret, stamp + b"." + body)}
    return Signed(
        request(body, headers), tuple(headers), secret, covers_uri=False, config={"preset": "salesforce_callout"}
    )
