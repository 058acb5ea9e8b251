"""Salesforce's descriptions of objects, and custom fields made through the Tooling API.

Law: a custom field's API name ends with `__c` and never changes; permissions are not modelled, so that a new field is
visible at once (in a real org a permission set has to grant it).
"""

from __future__ import annotations

from typing import Any

from infra.local.sandbox.catalogue_hubspot import Property
from infra.local.sandbox.identifiers import salesforce_id
from infra.local.sandbox.objects import SALESFORCE
from infra.local.sandbox.salesforce_call import Call, kind_of
from infra.local.sandbox.salesforce_values import SalesforceError
from infra.local.sandbox.state import Account, World
from infra.local.sandbox.web import Response, Router, answer

_TYPES: dict[str, tuple[str, int]] = {
    "Text": ("string", 255),
    "TextArea": ("textarea", 255),
    "LongTextArea": ("textarea", 131_072),
    "Html": ("textarea", 131_072),
    "Number": ("double", 0),
    "Currency": ("currency", 0),
    "Percent": ("percent", 0),
    "Checkbox": ("boolean", 0),
    "Date": ("date", 0),
    "DateTime": ("datetime", 0),
    "Picklist": ("picklist", 255),
    "Url": ("url", 255),
    "Email": ("email", 80),
    "Phone": ("phone", 40),
}


def create_field(account: Account, full_name: str, metadata: dict[str, Any], now: int) -> str:
    """Add a custom field such as `Lead.Hookline_Score__c`; returns its id, or raises Salesforce's error."""
    kind_name, _, name = full_name.partition(".")
    kind = kind_of(kind_name).name
    if (
        not name.endswith("__c")
        or not name.removesuffix("__c").replace("_", "a").isalnum()
        or "__" in name.removesuffix("__c")
    ):
        raise SalesforceError(
            400, "FIELD_INTEGRITY_EXCEPTION", f"Invalid fullName {full_name!r}: expected Object.Field_Name__c"
        )
    if name.lower() in {known.lower() for known in account.catalogue[kind]}:
        developer = name.removesuffix("__c")
        raise SalesforceError(
            400, "DUPLICATE_DEVELOPER_NAME", f"There is already a field named {developer} on {kind}.", ["DeveloperName"]
        )
    label, type_name = metadata.get("label"), str(metadata.get("type", ""))
    if not label or type_name not in _TYPES:
        raise SalesforceError(
            400, "FIELD_INTEGRITY_EXCEPTION", f"Metadata needs a label and a type of {sorted(_TYPES)}"
        )
    if type_name in {"Number", "Currency", "Percent"} and ("precision" not in metadata or "scale" not in metadata):
        raise SalesforceError(400, "FIELD_INTEGRITY_EXCEPTION", "Must specify 'precision' and 'scale' for a number")
    if type_name in {"Text", "LongTextArea", "Html"} and "length" not in metadata:
        raise SalesforceError(400, "FIELD_INTEGRITY_EXCEPTION", f"Must specify 'length' for a {type_name} field")
    field_type, most = _TYPES[type_name]
    values = ((metadata.get("valueSet") or {}).get("valueSetDefinition") or {}).get("value") or ()
    field_id = salesforce_id("00N", 1000 + sum(len(fields) for fields in account.catalogue.values()))
    account.catalogue[kind][name] = Property(
        name=name,
        label=str(label),
        type=field_type,
        field_type=type_name,
        options=tuple((str(value["fullName"]), str(value.get("label", value["fullName"]))) for value in values),
        description=str(metadata.get("description") or ""),
        custom=True,
        length=min(int(metadata.get("length") or most), most) if most else 0,
        unique=bool(metadata.get("externalId")),
        created=now,
        extra={"id": field_id, "help": str(metadata.get("inlineHelpText") or "")},
    )
    return field_id


class Metadata:
    """`/sobjects`, `/describe` and `/tooling/sobjects/CustomField`."""

    def __init__(self, world: World) -> None:
        self.world = world

    def register(self, router: Router) -> None:
        """Add the routes."""
        base = "/services/data/{version}"
        router.add("GET", base + "/sobjects", "describe", self._all)
        router.add("GET", base + "/sobjects/{type}", "describe", self._basic)
        router.add("GET", base + "/sobjects/{type}/describe", "describe", self._describe)
        router.add("POST", base + "/tooling/sobjects/CustomField", "tooling.create", self._create)
        router.add("DELETE", base + "/tooling/sobjects/CustomField/{id}", "tooling.delete", self._delete)

    @staticmethod
    def _summary(kind: str) -> dict[str, Any]:
        return {
            "name": kind,
            "label": kind,
            "labelPlural": f"{kind}s",
            "keyPrefix": SALESFORCE[kind].prefix,
            "custom": False,
            "createable": True,
            "updateable": True,
            "deletable": True,
            "queryable": True,
            "retrieveable": True,
        }

    def _all(self, call: Call) -> Response:  # noqa: ARG002 - every handler takes its call
        return answer(
            {"encoding": "UTF-8", "maxBatchSize": 200, "sobjects": [self._summary(kind) for kind in SALESFORCE]}
        )

    def _basic(self, call: Call, name: str) -> Response:
        kind = kind_of(name).name
        recent = [{"attributes": {"type": kind}, "Id": record.id} for record in call.account.live(kind)[-5:]]
        return answer({"objectDescribe": self._summary(kind), "recentItems": recent})

    def _describe(self, call: Call, name: str) -> Response:
        kind = kind_of(name).name
        fields = [
            {
                "name": definition.name,
                "label": definition.label,
                "type": definition.type,
                "length": definition.length
                if definition.type not in {"double", "currency", "percent", "int", "boolean"}
                else 0,
                "custom": definition.custom,
                "createable": not definition.read_only,
                "updateable": not definition.read_only,
                "nillable": definition.type != "boolean",
                "externalId": definition.unique,
                "inlineHelpText": definition.extra.get("help") or None,
                "picklistValues": [
                    {"active": True, "label": label, "value": value, "defaultValue": False}
                    for value, label in definition.options
                ],
            }
            for definition in call.account.catalogue[kind].values()
        ]
        return answer({**self._summary(kind), "fields": fields})

    def _create(self, call: Call) -> Response:
        metadata = call.body.get("Metadata")
        if not isinstance(metadata, dict):
            raise SalesforceError(
                400, "REQUIRED_FIELD_MISSING", "Required fields are missing: [Metadata]", ["Metadata"]
            )
        field_id = create_field(call.account, str(call.body.get("FullName", "")), metadata, self.world.clock())
        return answer({"id": field_id, "success": True, "errors": [], "warnings": [], "infos": []}, 201)

    @staticmethod
    def _delete(call: Call, field_id: str) -> Response:
        for fields in call.account.catalogue.values():
            for name, definition in fields.items():
                if definition.extra.get("id") == field_id:
                    del fields[name]
                    return Response(204)
        raise SalesforceError(404, "NOT_FOUND", "The requested resource does not exist")
