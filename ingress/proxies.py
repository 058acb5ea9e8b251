"""Who sent a request and to which address, behind our own proxies.

Law: nobody but a trusted proxy is asked, and of a chain only what trusted proxies wrote: it is read from the right, and
ends at the first address that is none of ours (the rightmost untrusted). What cannot be read makes a sender unknown, never
a trusted one. Headers are not even looked at unless the connection comes from a trusted proxy.
Sources: RFC 7239 (`Forwarded`); `X-Forwarded-*` by custom, as nginx, HAProxy, Envoy, Traefik and AWS's load balancers write it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Literal

from ingress.certificates import Certificate, Header, from_header, from_tls

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Scope = MutableMapping[str, Any]

MAX_HOPS = 32
MAX_CHARACTERS = 4_096

_HOST = re.compile(rb"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_PREFIX = re.compile(rb"/[A-Za-z0-9._~%/-]{1,200}")
_PORT = re.compile(rb"[0-9]{1,5}")
_USUAL_PORT = {b"http": b"80", b"https": b"443"}
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = re.compile(rb"[ \t]*(?:(" + _TOKEN + rb")=(" + _TOKEN + rb'|"(?:[^"\\]|\\.)*"))?[ \t]*(;|,|$)')
_ESCAPED = re.compile(rb"\\(.)")
_V4_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}")
_V6_PORT = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?")


@lru_cache(maxsize=4_096)
def address_of(text: str) -> Address | None:
    """An address as proxies write it, with or without port; None for a name, `unknown` and what else is none.

    An IPv4 address in IPv6 clothes (`::ffff:192.0.2.1`) is the IPv4 address, so that it stands in the networks it belongs to.
    """
    match = _V4_PORT.fullmatch(text) or _V6_PORT.fullmatch(text)
    try:
        found = ip_address(match[1] if match else text)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def in_networks(address: Address | None, networks: Sequence[Network]) -> bool:
    """Whether one of the networks holds it; nobody's address is in none."""
    return address is not None and any(address in network for network in networks)


@dataclass(frozen=True, slots=True)
class Hop:
    """What one proxy wrote of whoever spoke to it."""

    by: str
    proto: bytes = b""
    host: bytes = b""


class Caller:
    """Where one request came from; everything is worked out when it is asked for. No method blocks or raises."""

    __slots__ = ("_headers", "_proxies", "_scope", "_via")

    def __init__(self, proxies: Proxies, scope: Scope, headers: Mapping[bytes, bytes], *, via: bool) -> None:
        self._proxies, self._scope, self._headers, self._via = proxies, scope, headers, via

    def address(self) -> Address | None:
        """The sender's; None when nobody trustworthy says."""
        if not self._via:
            client = self._scope.get("client")
            return address_of(client[0]) if client else None
        hops, outermost = self._hops()
        return address_of(hops[outermost].by) if hops else None

    def origin(self) -> bytes:
        """Scheme, host and path prefix that the sender used, without a trailing slash; empty when they cannot be told."""
        scheme: bytes = self._scope["scheme"].encode()
        host = self._headers.get(b"host", b"")
        prefix = b""
        if self._via:
            hops, outermost = self._hops()
            said = hops[outermost:] if hops else []
            scheme = next((hop.proto for hop in said if hop.proto), scheme).lower()
            host = next((hop.host for hop in said if hop.host), host)
            if self._proxies.family == "x-forwarded":
                host, prefix = self._with_port(scheme, host), _last(self._values(b"x-forwarded-prefix")).rstrip(b"/")
        if scheme not in _USUAL_PORT or not _HOST.fullmatch(host) or (prefix and not _PREFIX.fullmatch(prefix)):
            return b""
        return scheme + b"://" + host + prefix

    def certificate(self) -> Certificate | None:
        """The client certificate that was verified here or by a trusted proxy; None when there is none."""
        direct = from_tls(self._scope)
        if direct is not None and not self._via:
            return direct
        return from_header(self._proxies.certificates, self._values) if self._via else None

    def _with_port(self, scheme: bytes, host: bytes) -> bytes:
        port = _last(self._values(b"x-forwarded-port"))
        given = self._values(b"x-forwarded-host")
        if (
            not given
            or not _PORT.fullmatch(port)
            or port == _USUAL_PORT.get(scheme)
            or host.rpartition(b":")[2].isdigit()
        ):
            return host
        return host + b":" + port

    def _values(self, name: bytes) -> list[bytes]:
        # Not from the mapping: a header may come in several lines, which are one list (RFC 9110, 5.3).
        return [value for found, value in self._scope["headers"] if found == name]

    def _hops(self) -> tuple[list[Hop], int]:
        """The chain from the outside in, and which of it is the first that a trusted proxy vouches for."""
        read = _forwarded if self._proxies.family == "forwarded" else _x_forwarded
        hops = read(self._values)
        place = len(hops) - 1
        while place > 0 and self._proxies.trusts(hops[place].by):
            place -= 1
        return hops, place


class Proxies:
    """Which proxies are ours, and which headers they write. Keeps nothing of a request."""

    def __init__(
        self,
        trusted: Sequence[str] = (),
        family: Literal["x-forwarded", "forwarded"] = "x-forwarded",
        certificates: Header = "none",
    ) -> None:
        """`trusted`: networks in CIDR form, or `unix` for peers on a Unix socket; raises ValueError for anything else."""
        self._networks = tuple(ip_network(each) for each in trusted if each != "unix")
        self._unix = "unix" in trusted
        self.family = family
        self.certificates = certificates
        self.trusts = lru_cache(maxsize=4_096)(self._trusts)

    def caller(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Caller:
        """Of one request."""
        client = scope.get("client")
        via = self.trusts(client[0]) if client and self._networks else (client is None and self._unix)
        return Caller(self, scope, headers, via=via)

    def _trusts(self, text: str) -> bool:
        return in_networks(address_of(text), self._networks)


def _forwarded(values: Any) -> list[Hop]:
    text = b", ".join(values(b"forwarded"))
    hops: list[Hop] = []
    pairs: dict[bytes, bytes] = {}
    place = 0
    if not text or len(text) > MAX_CHARACTERS:
        return []
    while place <= len(text):
        match = _PAIR.match(text, place)
        if match is None:
            return []  # one bad character, and nobody can say who wrote which part of it
        name, value, end = match.groups()
        if name is not None:
            name = name.lower()
            if name in pairs:
                return []  # RFC 7239, 4: each parameter once per element
            pairs[name] = _ESCAPED.sub(rb"\1", value[1:-1]) if value[:1] == b'"' else value
        if end != b";":
            if not pairs:
                return []
            hops.append(Hop(_text(pairs.get(b"for", b"")), pairs.get(b"proto", b""), pairs.get(b"host", b"")))
            pairs = {}
        place = match.end()
        if not end:
            break
    return hops if len(hops) <= MAX_HOPS else []


def _x_forwarded(values: Any) -> list[Hop]:
    senders = _listed(values(b"x-forwarded-for"))
    if not 0 < len(senders) <= MAX_HOPS:
        return []
    protos, hosts = _listed(values(b"x-forwarded-proto")), _listed(values(b"x-forwarded-host"))

    def one(of: list[bytes], place: int) -> bytes:
        # As long as the chain: one of each proxy. Else the last is what the nearest proxy wrote.
        return of[place] if len(of) == len(senders) else _last(of)

    return [Hop(_text(sender), one(protos, place), one(hosts, place)) for place, sender in enumerate(senders)]


def _listed(values: list[bytes]) -> list[bytes]:
    text = b",".join(values)
    return [one.strip() for one in text.split(b",")] if text and len(text) <= MAX_CHARACTERS else []


def _last(values: list[bytes]) -> bytes:
    return values[-1].rpartition(b",")[2].strip() if values else b""


def _text(value: bytes) -> str:
    return value.decode("ascii", "replace")
