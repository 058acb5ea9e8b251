"""What of the Salesforce DX project follows from our own fields: field definitions and permission sets, as source files.

Law: written from `own_fields` alone, so that what an admin deploys and what `hookline account add` creates are the same
fields; a test compares the files with what this makes. Run `python -m infra.crm.salesforce_project` after a new field.
Source: Salesforce, "Metadata API Developer Guide" (CustomField, PermissionSet).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

from infra.crm import salesforce_shapes as shapes
from infra.crm.own_fields import OWN_FIELDS

SOURCE = Path(__file__).parents[1] / "crm_apps" / "salesforce" / "force-app" / "main" / "default"
OBJECTS = ("Account", "Contact", "Lead", "Opportunity")
_NAMESPACE = "http://soap.sforce.com/2006/04/metadata"


def files() -> dict[str, str]:
    """Every file that follows from our fields: its path below the source folder, and its text."""
    made = {
        f"objects/{sobject}/fields/{shapes.OWN_NAMES[name]}.field-meta.xml": _element(
            "CustomField", {"fullName": shapes.OWN_NAMES[name], **shapes.metadata(OWN_FIELDS[name])}
        )
        for sobject in OBJECTS
        for name in OWN_FIELDS
    }
    made["permissionsets/Hookline_Rep.permissionset-meta.xml"] = _permission_set(
        "Hookline: read insights",
        "For everyone who works with records: reads Hookline's fields, and writes the feedback alone.",
        editable={name for name, field in OWN_FIELDS.items() if field.written_by == "rep"},
    )
    made["permissionsets/Hookline_Integration.permissionset-meta.xml"] = _permission_set(
        "Hookline: integration",
        "For the user whom Hookline signs in as, and for nobody else.",
        editable=set(OWN_FIELDS),
        extra=_integration(),
    )
    return made


def write(folder: Path = SOURCE) -> list[Path]:
    """Write them; fields that are ours no longer are removed. Blocking."""
    made = {folder / name: text for name, text in files().items()}
    for stale in set(folder.glob("objects/*/fields/Hookline_*.field-meta.xml")) - set(made):
        stale.unlink()
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return sorted(made)


def _permission_set(label: str, description: str, *, editable: set[str], extra: Iterable[str] = ()) -> str:
    fields = [
        _child(
            "fieldPermissions",
            {"editable": name in editable, "field": f"{sobject}.{shapes.OWN_NAMES[name]}", "readable": True},
        )
        for sobject in OBJECTS
        for name in sorted(OWN_FIELDS)
    ]
    head = f"    <description>{escape(description)}</description>\n"
    tail = f"    <hasActivationRequired>false</hasActivationRequired>\n    <label>{escape(label)}</label>\n"
    return _document("PermissionSet", head + "".join(fields) + tail + "".join(extra))


def _integration() -> list[str]:
    every = [
        _child(
            "objectPermissions",
            {
                "allowCreate": False,
                "allowDelete": False,
                "allowEdit": True,
                "allowRead": True,
                "modifyAllRecords": True,
                "object": sobject,
                "viewAllRecords": True,
            },
        )
        for sobject in OBJECTS
    ]
    # The Setup pages call them "API Enabled" and "View Setup and Configuration"; the second lets us ask which fields exist.
    return every + [_child("userPermissions", {"enabled": True, "name": name}) for name in ("ApiEnabled", "ViewSetup")]


def _element(name: str, values: Mapping[str, object]) -> str:
    return _document(name, "".join(f"    <{key}>{_text(value)}</{key}>\n" for key, value in sorted(values.items())))


def _child(name: str, values: Mapping[str, object]) -> str:
    inner = "".join(f"        <{key}>{_text(value)}</{key}>\n" for key, value in values.items())
    return f"    <{name}>\n{inner}    </{name}>\n"


def _document(name: str, inner: str) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name} xmlns="{_NAMESPACE}">\n{inner}</{name}>\n'


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else escape(str(value))


if __name__ == "__main__":
    sys.stdout.write(f"{len(write())} files written below {SOURCE}\n")
