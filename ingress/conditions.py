"""What an endpoint may ask of every sender, whatever it speaks: networks to come from, a client certificate, an address of its own.

Law: read once per endpoint, judged before the signature and without looking at the body. What cannot be read keeps everybody
out: a mistyped network must not open a door. Who sent it is `ingress/proxies.py`'s business.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ingress.declared.presets import completed
from ingress.handshakes import Handshake
from ingress.per_endpoint import PerEndpoint
from ingress.proxies import Network, in_networks
from ingress.sources.source import Denied, InboundRequest
from schemas.delivery import Refusal

if TYPE_CHECKING:
    from infra.accounts import Endpoint


def _network(text: str) -> str:
    try:
        return str(ip_network(text.strip()))
    except ValueError as error:
        raise ValueError(f"{error}; write a network as 13.108.0.0/14, or one address as 192.0.2.7") from None


def _fingerprint(text: str) -> str:
    found = text.replace(":", "").strip().lower()
    if len(found) != 64 or not set(found) <= set("0123456789abcdef"):
        raise ValueError(
            "not a SHA-256 fingerprint of 64 hex digits; `openssl x509 -in cert.pem -noout -fingerprint -sha256` prints one"
        )
    return found


def _address(text: str) -> str:
    found = text.strip().rstrip("/")
    if not found.startswith(("https://", "http://")) or "?" in found or "#" in found:
        raise ValueError(
            "not an address such as https://hooks.example.com, optionally with the path that proxies take off"
        )
    return found


class ClientCertificate(BaseModel):
    """Any one of these suffices; the certificate itself was verified against the CA before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: tuple[Annotated[str, AfterValidator(_fingerprint)], ...] = ()
    """Fingerprints of the certificates themselves."""
    names: tuple[Annotated[str, AfterValidator(str.lower), Field(min_length=1)], ...] = ()
    """Common or DNS names."""

    def model_post_init(self, _context: Any) -> None:
        """At least one."""
        if not self.sha256 and not self.names:
            raise ValueError("give sha256 (fingerprints) or names, else every certificate of that CA would do")


class Conditions(BaseModel):
    """The part of an endpoint's configuration that every source shares; the rest is the source's own."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    networks: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    """Where senders may come from; empty: anywhere."""
    client_certificate: ClientCertificate | None = None
    public_url: Annotated[str, AfterValidator(_address)] | None = None
    """The address that this sender uses, where it is another than the setting's."""
    handshake: Handshake | None = None


class _Judge:
    """Conditions, ready for use."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.denied: Denied | None = None
        self.public: bytes | None = None
        self.handshake: Handshake | None = None
        self._networks: tuple[Network, ...] = ()
        self._certificate: ClientCertificate | None = None
        self.asks = False
        try:
            given = completed(endpoint.config) if endpoint.source == "custom" else endpoint.config
            found = Conditions.model_validate(dict(given))
        except ValidationError as error:
            place = ".".join(str(part) for part in error.errors()[0]["loc"])
            self.asks = True
            self.denied = Denied(Refusal.ENDPOINT_DISABLED, f"its configuration cannot be read: {place}")
            return
        except ValueError as error:
            self.asks = True
            self.denied = Denied(Refusal.ENDPOINT_DISABLED, f"its configuration cannot be read: {error}")
            return
        self.public = found.public_url.encode() if found.public_url is not None else None
        self.handshake = found.handshake
        self._networks = tuple(ip_network(each) for each in found.networks)
        self._certificate = found.client_certificate
        self.asks = bool(self._networks) or self._certificate is not None

    def check(self, request: InboundRequest) -> Denied | None:
        """None when everything that is asked for is there."""
        if self.denied is not None:
            return self.denied
        caller = request.caller
        if self._networks and not in_networks(caller.address() if caller else None, self._networks):
            return _ELSEWHERE
        wanted = self._certificate
        if wanted is None:
            return None
        given = caller.certificate() if caller else None
        if given is None:
            return _NO_CERTIFICATE
        if given.sha256 in wanted.sha256 or not given.names.isdisjoint(wanted.names):
            return None
        return _OTHER_CERTIFICATE


_ELSEWHERE = Denied(
    Refusal.ADDRESS_NOT_ALLOWED, "sent from outside the endpoint's networks, or from an unknown address"
)
_NO_CERTIFICATE = Denied(Refusal.CERTIFICATE_REFUSED, "no verified client certificate came with it")
_OTHER_CERTIFICATE = Denied(
    Refusal.CERTIFICATE_REFUSED, "the client certificate is none of those that the endpoint names"
)

conditions_of = PerEndpoint(_Judge)
"""The conditions of an endpoint."""
