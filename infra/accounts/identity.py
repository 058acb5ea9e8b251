"""Endpoints, accounts, and how an account's id is written.

Law: secrets and credentials are in these objects, opened, and never in their text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

State = Literal["active", "disconnected"]

_SALESFORCE_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"


class RegistryError(ValueError):
    """What was asked for cannot be registered; the text says what to do next and holds no secret."""


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret of an endpoint; several are valid while one replaces another."""

    valid_from: datetime
    valid_until: datetime | None
    value: bytes = field(repr=False)

    def valid_at(self, now: datetime) -> bool:
        """Whether it holds at `now`; its end is exclusive."""
        return self.valid_from <= now and (self.valid_until is None or now < self.valid_until)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one sender delivers: `/hooks/{id}`."""

    id: str
    tenant: str
    source: str
    name: str
    config: Mapping[str, Any]
    enabled: bool
    secrets: tuple[Secret, ...] = field(repr=False)
    accounts: frozenset[str] = frozenset()

    def valid_secrets(self, now: datetime) -> list[bytes]:
        """The values that hold at `now`, newest first."""
        return [
            found.value
            for found in sorted(self.secrets, key=lambda s: s.valid_from, reverse=True)
            if found.valid_at(now)
        ]


@dataclass(frozen=True, slots=True)
class Account:
    """One CRM org that we read and write."""

    id: str
    tenant: str
    crm: str
    name: str
    config: Mapping[str, Any]
    credentials: Mapping[str, Any] | None = field(repr=False)
    """Opened; None where there are none, or where the master keys given cannot open them."""
    state: State = "active"
    state_reason: str = ""
    last_delivery_at: datetime | None = None
    last_insight_at: datetime | None = None


def salesforce_id(text: str) -> str:
    """An 18-character Salesforce id from its 15- or 18-character form.

    The last three characters say which of the fifteen are capitals, five a character (Salesforce, "Record ID formats").

    Raises:
        ValueError: neither 15 nor 18 letters and digits, or a suffix that does not fit.
    """
    if not re.fullmatch(r"[A-Za-z0-9]{15}(?:[A-Za-z0-9]{3})?", text):
        raise ValueError("a Salesforce id has 15 or 18 letters and digits")
    suffix = "".join(
        _SALESFORCE_ALPHABET[
            sum(1 << place for place, letter in enumerate(text[start : start + 5]) if letter.isupper())
        ]
        for start in (0, 5, 10)
    )
    if len(text) == 18 and text[15:].upper() != suffix:
        raise ValueError("the last three characters do not fit the first fifteen: was its case changed?")
    return text[:15] + suffix


def account_id(text: str) -> str:
    """The one form of an account id: `hubspot:<portal id>` or `salesforce:<18-character org id>`.

    Raises:
        RegistryError: it is neither.
    """
    crm, _, own = text.strip().partition(":")
    if crm == "hubspot":
        if not re.fullmatch(r"[1-9][0-9]{0,18}", own):
            raise RegistryError(
                f"account {text!r}: write hubspot:<portal id>, the number after your name in HubSpot's account menu"
            )
        return f"hubspot:{own}"
    if crm == "salesforce":
        try:
            found = salesforce_id(own)
        except ValueError as error:
            raise RegistryError(f"account {text!r}: {error}; find the org id in Setup, Company Information") from None
        if not found.startswith("00D"):
            raise RegistryError(f"account {text!r}: an org id starts with 00D; find it in Setup, Company Information")
        return f"salesforce:{found}"
    raise RegistryError(f"account {text!r}: write hubspot:<portal id> or salesforce:<org id>")
