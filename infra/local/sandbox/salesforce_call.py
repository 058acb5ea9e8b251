"""What Salesforce's calls have in common: the call itself, its object type and its record.

Law: raises Salesforce's own errors; answers nothing.
"""

from __future__ import annotations

from typing import Any

from infra.local.sandbox.identifiers import with_suffix
from infra.local.sandbox.limits import Fault
from infra.local.sandbox.objects import SalesforceType, salesforce_type
from infra.local.sandbox.salesforce_values import SalesforceError
from infra.local.sandbox.state import Account, Record, Token
from infra.local.sandbox.web import Request


class Call:
    """One authenticated call: the request, whose it is, and the fault it meets."""

    __slots__ = ("_body", "account", "fault", "request", "token", "version")

    def __init__(self, request: Request, account: Account, token: Token, fault: Fault | None, version: str) -> None:
        self.request = request
        self.account = account
        self.token = token
        self.fault = fault
        self.version = version
        self._body: dict[str, Any] | None = None

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body."""
        if self._body is None:
            self._body = self.request.json()
        return self._body

    @property
    def failing_rows(self) -> int:
        """How many of the first rows of a collection a planted fault lets fail."""
        return self.fault.rows if self.fault is not None and self.fault.kind == "207" else 0


def kind_of(name: str) -> SalesforceType:
    """The object type of a path, or Salesforce's 404."""
    kind = salesforce_type(name)
    if kind is None:
        raise SalesforceError(404, "NOT_FOUND", "The requested resource does not exist")
    return kind


def existing(call: Call, kind: SalesforceType, record_id: str) -> Record:
    """The record of a 15- or 18-character id, or Salesforce's error."""
    record = call.account.records[kind.name].get(with_suffix(record_id))
    if record is None:
        raise SalesforceError(404, "NOT_FOUND", "Provided external ID field does not exist or is not accessible: Id")
    if record.archived:
        raise SalesforceError(404, "ENTITY_IS_DELETED", "entity is deleted", [])
    return record
