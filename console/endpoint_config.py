"""What a person gives for an endpoint's configuration and secret: read, merged and judged before anything is stored."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from console.runtime import ConsoleError
from infra.accounts import weakness
from ingress.configuration import ConfigurationError, checked
from ingress.declared.declaration import DeclarationError, read, read_file
from ingress.declared.schemes import Hmac, Standard
from ingress.sources.source import Source

_DURATION = re.compile(r"([0-9]{1,6})\s*([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def configuration(
    before: Mapping[str, Any],
    file: Path | None,
    networks: Sequence[str] | None,
    certificate_names: Sequence[str] | None,
) -> dict[str, Any]:
    """What was before, or the file in its place, with what the options name. Not yet judged; raises ConsoleError."""
    try:
        found = dict(before) if file is None else read_file(file)
    except DeclarationError as error:
        raise ConsoleError(str(error)) from None
    if networks:
        found["networks"] = list(networks)
    if certificate_names:
        found["client_certificate"] = {"names": list(certificate_names)}
    return found


def accepted(source: Source, given: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration, if this source can use it; raises ConsoleError with every problem."""
    try:
        return checked(source, given)
    except ConfigurationError as error:
        raise ConsoleError(str(error)) from None


def check_secret(source: str, secret: str, config: Mapping[str, Any]) -> None:
    """Raises ConsoleError for a secret that could never verify anything."""
    weak = weakness(secret.encode())
    if weak is not None:
        raise ConsoleError(
            f"the secret does not count, for {weak}: copy the sender's own, or unset HOOKLINE_NEW_SECRET to have one made"
        )
    scheme = read(config).verify if source == "custom" else None
    if isinstance(scheme, Hmac) and scheme.key(secret.encode()) is None:
        raise ConsoleError(
            f"the secret is not {scheme.secret}, as `verify.secret` declares: copy it whole from the sender"
        )
    if source == "standard_webhooks" or isinstance(scheme, Standard):
        _check_standard(secret)


def _check_standard(secret: str) -> None:
    try:
        long_enough = bool(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
    except ValueError:
        long_enough = False
    if not long_enough:
        raise ConsoleError(
            "a Standard Webhooks secret is base64, mostly with `whsec_` in front: copy it from the sender, "
            "or unset HOOKLINE_NEW_SECRET to have one made"
        )


def duration(text: str) -> float:
    """Seconds of `90s`, `30m`, `24h` or `7d`; raises ConsoleError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ConsoleError(f"{text!r} is no length of time: write 90s, 30m, 24h or 7d")
    return float(int(match[1]) * _SECONDS[match[2]])
