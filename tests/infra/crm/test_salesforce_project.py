"""The Salesforce DX project: its fields are the product's, and Salesforce's own tools accept it."""

from __future__ import annotations

import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from infra.crm.own_fields import OWN_FIELDS
from infra.crm.salesforce_project import OBJECTS, SOURCE, files, write
from infra.crm.salesforce_shapes import OWN_NAMES

PROJECT = SOURCE.parents[2]
NAMESPACE = "{http://soap.sforce.com/2006/04/metadata}"


def test_the_files_in_the_project_are_what_our_fields_say() -> None:
    """INVARIANT: what an admin deploys and what provisioning creates are the same fields. Mend with `python -m infra.crm.salesforce_project`."""
    assert {name: (SOURCE / name).read_text() for name in files()} == files()


def test_a_field_that_is_ours_no_longer_is_removed_from_the_project(tmp_path: Path) -> None:
    write(tmp_path)
    stale = tmp_path / "objects/Lead/fields/Hookline_Mood__c.field-meta.xml"
    stale.write_text("<CustomField/>")

    written = write(tmp_path)

    assert not stale.exists()
    assert len([path for path in written if path.parent.name == "fields"]) == len(OBJECTS) * len(OWN_FIELDS)


def test_a_rep_may_write_the_feedback_and_nothing_else() -> None:
    root = ET.fromstring(files()["permissionsets/Hookline_Rep.permissionset-meta.xml"])
    editable = {
        found.findtext(f"{NAMESPACE}field")
        for found in root.iter(f"{NAMESPACE}fieldPermissions")
        if found.findtext(f"{NAMESPACE}editable") == "true"
    }
    wanted = {OWN_NAMES["feedback"], OWN_NAMES["feedback_note"]}

    assert editable == {f"{sobject}.{name}" for sobject in OBJECTS for name in wanted}
    assert not list(root.iter(f"{NAMESPACE}objectPermissions"))


def test_the_component_asks_for_fields_that_exist() -> None:
    source = (SOURCE / "lwc/hooklineInsight/fields.js").read_text()
    asked = {word for word in source.replace("'", " ").split() if word.startswith("Hookline_")}

    assert asked <= set(OWN_NAMES.values())
    assert set(OWN_NAMES.values()) - asked == {OWN_NAMES["as_of"]}


@pytest.mark.skipif(
    shutil.which("node") is None or not (PROJECT / "node_modules").is_dir(),
    reason="needs Node 20 and `make apps` (npm ci in infra/crm_apps)",
)
@pytest.mark.parametrize("script", ["test", "check"])
def test_salesforces_own_tools_accept_the_project(script: str) -> None:
    ended = subprocess.run(
        [str(shutil.which("npm")), "run", script], cwd=PROJECT, capture_output=True, text=True, timeout=110, check=False
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
