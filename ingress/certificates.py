"""The client certificate of a sender: verified by our own TLS, or by a trusted proxy that passes it on.

Law: a certificate means something only because somebody verified it against a CA and saw the key used. Here nothing is
verified again; a header is read only in the one form that the settings name, and only on the word of a trusted proxy
(`ingress/proxies.py` asks). What is ambiguous or unreadable is no certificate.
Sources: Envoy, "x-forwarded-client-cert"; nginx, `$ssl_client_verify` and `$ssl_client_escaped_cert`; RFC 9440, `Client-Cert`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from ingress.tls import CLIENT_CERTIFICATE

Header = Literal["none", "xfcc", "x-ssl-client", "client-cert"]
Values = Callable[[bytes], list[bytes]]

MAX_CHARACTERS = 16_384
_XFCC = re.compile(rb'[ \t]*([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^",;]*)[ \t]*(;|,|$)')
_ESCAPED = re.compile(rb"\\(.)")
_BAD_CERTIFICATE = (x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What the library raises besides ValueError."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What an endpoint may ask for."""

    sha256: str
    """Fingerprint of the whole certificate, 64 hex digits in lower case; empty where the proxy does not tell."""
    names: frozenset[str]
    """Common name and DNS names, in lower case."""


def from_tls(scope: Mapping[str, Any]) -> Certificate | None:
    """The one that our own TLS verified; see `ingress/tls.py`."""
    der = scope.get("state", {}).get(CLIENT_CERTIFICATE)
    return _read(der) if der else None


def from_header(header: Header, values: Values) -> Certificate | None:
    """The one that a trusted proxy verified."""
    if header == "xfcc":
        return _xfcc(b",".join(values(b"x-forwarded-client-cert")))
    if header == "x-ssl-client":
        verified = _only(values(b"x-ssl-client-verify"))
        # nginx says SUCCESS; HAProxy's ssl_c_verify says 0 also where no certificate came, and then there is none to read.
        return _pem(unquote_to_bytes(_only(values(b"x-ssl-client-cert")))) if verified in {b"SUCCESS", b"0"} else None
    if header == "client-cert":
        item = _only(values(b"client-cert"))
        return _base64(item[1:-1]) if len(item) > 2 and item[:1] == item[-1:] == b":" else None
    return None


def _only(values: list[bytes]) -> bytes:
    """The header's value; empty when it comes twice, since one of them may be the sender's own."""
    return values[0].strip() if len(values) == 1 and len(values[0]) <= MAX_CHARACTERS else b""


def _xfcc(text: bytes) -> Certificate | None:
    """The last element, which the nearest proxy wrote: proxies before it are its own business."""
    if not text or len(text) > MAX_CHARACTERS:
        return None
    place, element, ended = 0, dict[str, list[str]](), False
    while place < len(text):
        match = _XFCC.match(text, place)
        if match is None:
            return None
        if ended:
            element, ended = {}, False
        value = match[2]
        plain = _ESCAPED.sub(rb"\1", value[1:-1]) if value[:1] == b'"' else value
        element.setdefault(match[1].decode().lower(), []).append(plain.decode("utf-8", "replace"))
        ended = match[3] == b","
        place = match.end()
    if ended:
        return None
    sha256 = "".join(element.get("hash", [])).lower()
    names = {name.lower() for name in element.get("dns", [])} | _common_names("".join(element.get("subject", [])))
    if not _SHA256.fullmatch(sha256):
        return None
    return Certificate(sha256, frozenset(names))


def _common_names(subject: str) -> set[str]:
    try:
        name = x509.Name.from_rfc4514_string(subject) if subject else x509.Name([])
    except ValueError:
        return set()
    return {str(found.value).lower() for found in name.get_attributes_for_oid(NameOID.COMMON_NAME)}


def _pem(text: bytes) -> Certificate | None:
    lines = text.split(b"\n")
    inner = [line.strip() for line in lines if line.strip() and not line.startswith(b"-----")]
    if text.count(b"-----BEGIN ") > 1:
        return None
    return _base64(b"".join(inner))


def _base64(text: bytes) -> Certificate | None:
    try:
        return _read(base64.b64decode(text, validate=True)) if text else None
    except binascii.Error:
        return None


@lru_cache(maxsize=256)
def _read(der: bytes) -> Certificate | None:
    try:
        found = x509.load_der_x509_certificate(der)
        names = {str(each.value).lower() for each in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)}
        try:
            extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            names.update(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))
        except x509.ExtensionNotFound:
            pass
        return Certificate(found.fingerprint(SHA256()).hex(), frozenset(names))
    except (ValueError, UnsupportedAlgorithm, *_BAD_CERTIFICATE):
        return None
