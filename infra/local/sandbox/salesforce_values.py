"""Field values as Salesforce takes, keeps and shows them.

Law: values have JSON types; what Salesforce would refuse is named with its own status code.
"""

from __future__ import annotations

from typing import Any

from infra.local.sandbox.identifiers import iso, millis, salesforce_time
from infra.local.sandbox.state import Account, Record, Value
from infra.local.sandbox.web import Response, answer


class SalesforceError(Exception):
    """An error that is answered in Salesforce's shape."""

    def __init__(self, status: int, code: str, message: str, fields: list[str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.fields = fields

    def response(self) -> Response:
        """A list of one error, as the REST API answers."""
        entry: dict[str, Any] = {"message": self.message, "errorCode": self.code}
        if self.fields is not None:
            entry["fields"] = self.fields
        return answer([entry], self.status)

    def row(self) -> dict[str, Any]:
        """A failed row of a collections call."""
        return {
            "success": False,
            "errors": [{"statusCode": self.code, "message": self.message, "fields": self.fields or []}],
        }


def accept(account: Account, kind: str, given: dict[str, Any], *, creating: bool = False) -> dict[str, Value]:
    """What to store; raises SalesforceError for the first value that would be refused."""
    catalogue = account.catalogue[kind]
    folded = {name.lower(): name for name in catalogue}
    values: dict[str, Value] = {}
    for raw_name, value in given.items():
        if raw_name in {"attributes", "id", "Id"}:
            continue
        name = folded.get(raw_name.lower())
        if name is None:
            raise SalesforceError(400, "INVALID_FIELD", f"No such column '{raw_name}' on sobject of type {kind}", [])
        definition = catalogue[name]
        if definition.read_only:
            raise SalesforceError(
                400,
                "INVALID_FIELD_FOR_INSERT_UPDATE",
                f"Unable to create/update fields: {name}. Please check the security settings",
                [name],
            )
        values[name] = _converted(name, definition.type, definition.length, value)
    if creating:
        needed = {
            "Lead": ("LastName", "Company"),
            "Contact": ("LastName",),
            "Account": ("Name",),
            "Opportunity": ("Name", "StageName", "CloseDate"),
        }
        missing = [name for name in needed.get(kind, ()) if not values.get(name)]
        if missing:
            raise SalesforceError(
                400, "REQUIRED_FIELD_MISSING", f"Required fields are missing: [{', '.join(missing)}]", missing
            )
    return values


def _converted(name: str, kind: str, length: int, value: Any) -> Value:
    if value is None or value == "":
        return False if kind == "boolean" else None
    if kind == "boolean":
        if str(value).lower() in {"true", "false"}:
            return str(value).lower() == "true"
        raise _wrong(name, kind, value)
    if kind in {"currency", "percent", "double", "int"}:
        return _number(name, kind, value)
    if isinstance(value, bool | dict | list):
        raise _wrong(name, kind, value)
    text = str(value)
    if kind in {"datetime", "date"}:
        moment = None if text.isdigit() else millis(text)
        if moment is None:
            raise _wrong(name, kind, value)
        return salesforce_time(moment) if kind == "datetime" else iso(moment)[:10]
    if length and len(text) > length:
        raise SalesforceError(400, "STRING_TOO_LONG", f"{name}: data value too large (max length={length})", [name])
    return text


def _number(name: str, kind: str, value: Any) -> Value:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise _wrong(name, kind, value) from None
    return int(number) if kind == "int" else number


def _wrong(name: str, kind: str, value: Any) -> SalesforceError:
    return SalesforceError(
        400,
        "JSON_PARSER_ERROR",
        f"Cannot deserialize instance of {kind} from {type(value).__name__} value of {name}",
        [],
    )


def attributes(kind: str, record_id: str, version: str) -> dict[str, str]:
    """The `attributes` that each record carries."""
    return {"type": kind, "url": f"/services/data/{version}/sobjects/{kind}/{record_id}"}


def show(account: Account, record: Record, names: list[str] | None, version: str) -> dict[str, Any]:
    """A record as REST answers it: the fields asked for, or all; raises SalesforceError for an unknown field."""
    catalogue = account.catalogue[record.type]
    shown: dict[str, Any] = {"attributes": attributes(record.type, record.id, version)}
    values = record.values
    if names is None:
        names = list(catalogue)
    for name in names:
        if name not in catalogue:
            raise SalesforceError(400, "INVALID_FIELD", f"No such column '{name}' on entity '{record.type}'.")
        shown[name] = values.get(name)
    shown.setdefault("Id", record.id)
    return shown
