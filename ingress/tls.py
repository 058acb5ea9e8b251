"""TLS that ends at the front door itself, with or without client certificates.

Law: whoever has no proxy in front gets modern TLS and nothing else (1.2 at least); a client certificate is verified against the
configured CA by OpenSSL, and only then handed on. Where settings name no certificate, nothing here is used.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from infra.settings import Settings, SettingsError, variable

_ASKED = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


CLIENT_CERTIFICATE = "client_certificate_der"
"""Key of ASGI's `state` under which a connection's requests find the certificate."""


def verified_certificate(transport: asyncio.Transport) -> bytes | None:
    """The sender's certificate (DER) that the handshake of this connection verified; once a connection."""
    found = transport.get_extra_info("ssl_object")
    return found.getpeercert(binary_form=True) if found is not None else None


def options(settings: Settings) -> dict[str, Any]:
    """What uvicorn's Config is given for TLS; nothing where the front door speaks plain HTTP.

    Raises SettingsError when a file cannot be used: uvicorn would say so without saying which.
    """
    if settings.ingress_tls_cert_file is None:
        return {}
    given = {
        "ssl_certfile": "ingress_tls_cert_file",
        "ssl_keyfile": "ingress_tls_key_file",
        "ssl_ca_certs": "ingress_tls_client_ca_file",
    }
    files = {option: getattr(settings, name) for option, name in given.items()}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tried = ""
    try:
        tried = f"{variable('ingress_tls_cert_file')} with {variable('ingress_tls_key_file')}"
        context.load_cert_chain(files["ssl_certfile"], files["ssl_keyfile"])
        if files["ssl_ca_certs"] is not None:
            tried = variable("ingress_tls_client_ca_file")
            context.load_verify_locations(files["ssl_ca_certs"])
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"ingress cannot start:\n  - {tried} cannot be used ({error.strerror or type(error).__name__}): give PEM files that "
            "belong together and that this user can read"
        ) from error
    return {
        **{option: str(path) for option, path in files.items() if path is not None},
        "ssl_cert_reqs": _ASKED[settings.ingress_tls_client_certificates],
    }
