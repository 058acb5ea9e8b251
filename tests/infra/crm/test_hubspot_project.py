"""The HubSpot project app: its scopes and subscriptions are what the product asks for and reads."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from infra.crm.concepts import MAPS
from infra.crm.hubspot_project import SOURCE, files, write
from infra.crm.oauth import HUBSPOT_SCOPES
from ingress.dialects.hubspot import OBJECT_TYPES

PROJECT = SOURCE.parents[1]
SUBSCRIPTIONS = json.loads(files()["webhooks/webhooks-hsmeta.json"])["config"]["subscriptions"]


def test_the_files_in_the_project_are_what_the_product_reads() -> None:
    """INVARIANT: an app hears of every property that is read. Mend with `python -m infra.crm.hubspot_project`."""
    assert {name: (SOURCE / name).read_text() for name in files()} == files()


def test_they_can_be_written_anew(tmp_path: Path) -> None:
    assert [path.relative_to(tmp_path).as_posix() for path in write(tmp_path)] == sorted(files())


def test_no_subscription_is_on_a_property_of_ours_and_none_comes_twice() -> None:
    """INVARIANT: what we write brings no event. If it fails, every insight brings its own next one."""
    every = [json.dumps(one, sort_keys=True) for one in SUBSCRIPTIONS["crmObjects"]]
    assert max(Counter(every).values()) == 1
    assert not [one for one in every if "hookline" in one]


@pytest.mark.parametrize("name", ["contact", "company", "deal", "ticket"])
def test_every_kind_of_event_of_a_record_is_heard(name: str) -> None:
    own = [one for one in SUBSCRIPTIONS["crmObjects"] if one["objectType"] == name]
    actions = {one["subscriptionType"] for one in own}
    assert actions == {
        f"object.{action}"
        for action in ("creation", "deletion", "merge", "restore", "associationChange", "propertyChange")
    }
    heard = {one["propertyName"] for one in own if one["subscriptionType"] == "object.propertyChange"}
    derived = {"num_notes", "num_associated_deals", "num_associated_contacts", "notes_last_updated"}
    assert heard == set(MAPS["hubspot"][name].values()) - derived
    assert name in OBJECT_TYPES.values()


def test_notes_and_erasures_are_heard() -> None:
    notes = {one["subscriptionType"] for one in SUBSCRIPTIONS["crmObjects"] if one["objectType"] == "note"}
    assert notes == {
        f"object.{action}" for action in ("creation", "deletion", "restore", "associationChange", "propertyChange")
    }
    assert SUBSCRIPTIONS["hubEvents"] == [{"subscriptionType": "contact.privacyDeletion", "active": True}]


def test_the_app_asks_for_what_signing_in_asks_for() -> None:
    config = json.loads((SOURCE / "app-hsmeta.json").read_text())["config"]
    assert config["auth"]["requiredScopes"] == list(HUBSPOT_SCOPES)
    assert config["auth"]["redirectUrls"] == ["${HOOKLINE_API_URL}/oauth/hubspot/callback"]
    assert config["permittedUrls"]["fetch"] == ["${HOOKLINE_API_URL}"]


def test_every_component_has_a_uid_of_its_own_and_its_entry_point() -> None:
    found = [json.loads(path.read_text()) for path in sorted(SOURCE.rglob("*-hsmeta.json"))]
    assert len({one["uid"] for one in found}) == len(found) == 4
    for one in found:
        if one["type"] == "card":
            assert (PROJECT / "src" / one["config"]["entrypoint"].lstrip("/")).is_file()
            assert one["config"]["objectTypes"] == ["contacts", "companies", "deals"]


def test_the_lockfile_names_no_registry() -> None:
    assert "resolved" not in (PROJECT / "package-lock.json").read_text()


def test_hubspots_own_parser_finds_every_component_in_its_place() -> None:
    """(That the card fits the types of HubSpot's components takes a compiler: `make test-apps`.)"""
    if shutil.which("node") is None:
        pytest.skip("no node on this machine: install Node 20")
    if not (PROJECT / "node_modules").is_dir():
        pytest.skip("infra/crm_apps/hubspot has no node_modules: run `make apps`")
    done = subprocess.run(
        ["node", "check-project.mjs"], cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False
    )
    assert json.loads(done.stdout) == {"components": {"APPLICATION": 1, "CARD": 2, "WEBHOOKS": 1}, "problems": []}
