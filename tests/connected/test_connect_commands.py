"""What an admin types to connect an account: keys, guided set-up left and resumed, check, backfill."""

from __future__ import annotations

import asyncio
import json
import secrets

import pytest
import typer
from typer.testing import CliRunner

from console.accounts_setup import guide
from console.main import app
from console.runtime import ConsoleError
from infra.local.sandbox.server import Sandbox

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]


@pytest.fixture
def sandbox(tmp_path):
    found = Sandbox(tmp_path)
    asyncio.run(found.start())
    yield found
    asyncio.run(found.stop())


@pytest.fixture
def hookline(settings, sandbox, monkeypatch, tmp_path):
    """Runs a command in an operator's shell, with what they type; its exit code and output."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "HOOKLINE_ENVIRONMENT": "development",
        "KAFKA_URL": settings.kafka_url,
        "HOOKLINE_KAFKA_REPLICATION": "1",
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "HOOKLINE_MASTER_KEYS": settings.master_keys.get_secret_value(),
        "HOOKLINE_SANDBOX_URL": sandbox.base,
        "HOOKLINE_PUBLIC_URL": "http://127.0.0.1:9",
        "COLUMNS": "200",
    }.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, typed: str = "", of: typer.Typer = app) -> tuple[int, str]:
        result = CliRunner().invoke(of, list(arguments), input=typed)
        told = str(result.exception) if isinstance(result.exception, ConsoleError) else ""
        assert told or result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, " ".join(f"{result.output} {told}".split())

    return run


def test_keys_are_made_listed_and_revoked_and_shown_once(hookline):
    assert hookline("tenant", "add", "acme")[0] == 0
    code, said = hookline("key", "create", "--tenant", "acme", "--role", "engineer", "--name", "night shift")
    assert (code, "shown once" in said) == (0, True)
    text = next(word for word in said.split() if word.startswith("hlk_"))
    listed = hookline("key", "list", "--json")[1]
    (key,) = [json.loads(listed)]
    assert (key["role"], key["name"], key["state"], text in listed) == ("engineer", "night shift", "active", False)
    assert hookline("key", "revoke", key["id"])[0] == 0
    assert json.loads(hookline("key", "list", "--json")[1])["state"] == "revoked"
    assert "choose one of viewer, engineer, admin" in hookline("key", "create", "--tenant", "acme", "--role", "root")[1]


def test_a_guided_set_up_is_left_and_resumed_where_it_was(hookline, sandbox, monkeypatch):
    made = sandbox.controls.create_org("00D5g000004XyzA", size=6)
    guided = typer.Typer()
    guided.command()(guide)
    secret = made["consumer_secret"]
    asked = [made["consumer_key"], secret, made["account"].partition(":")[2], "acme.my.salesforce.com"]
    code, said = hookline("salesforce", "acme", typed="\n".join([*asked, "n"]) + "\n", of=guided)
    assert code == 1, "left at the question whether the address was entered"
    assert "3 of 8" in said
    assert secret not in said
    code, said = hookline("salesforce", "acme", typed="y\nn\nn\n", of=guided)
    assert "Going on: 2 of 8 steps are behind." in said
    assert "External client app" not in said
    assert "72 made" in said, "our fields are made"
    assert ("delivery salesforce" in said, "mend what failed" in said) == (True, True), "there is no front door"
    assert "Later: `hookline account events" in said
    assert "Going on: 6 of 8" in hookline("salesforce", "acme", of=guided)[1]
    status = hookline("account", "check", made["account"], "--json", "--echo-seconds", "0")
    points = {point["name"]: point["result"] for point in json.loads(status[1])["points"]}
    assert (status[0], points["credentials"], points["write-back"]) == (1, "passed", "passed")
    assert points["change events"] == "unknown", "they are off"
    assert "All of our properties are there." in hookline("account", "provision", made["account"])[1]
    planned = json.loads(hookline("backfill", "plan", made["account"], "--json", "--rate", "5000")[1])
    code, said = hookline("backfill", "run", planned["id"])
    assert (code, "done" in said) == (0, True), said
    assert json.loads(hookline("backfill", "show", planned["id"], "--json")[1])["records_done"] == planned["records"]
    assert "is done" in hookline("backfill", "run", planned["id"])[1]


def test_without_a_terminal_what_is_missing_is_named(hookline):
    said = hookline("account", "add", "hubspot")[1]
    assert "an ID and --tenant and --endpoint missing" in said
    assert "choose one of hubspot, salesforce" in hookline("account", "add", "pipedrive")[1]


def test_what_is_held_on_a_person_is_written_where_no_crm_answers(hookline, tmp_path):
    tenant = f"t{secrets.token_hex(5)}"
    assert hookline("tenant", "add", tenant)[0] == 0
    code, said = hookline("privacy", "export", f"{tenant}/hubspot:145883449/contact/1", "--out", str(tmp_path / "held"))
    assert (code, "nothing is held" in said) == (0, True), said
    assert json.loads((tmp_path / "held").read_text())["person"]["tenant"] == tenant
    assert "0 snapshots read" in hookline("privacy", "index", "--tenant", tenant)[1]
    assert "No erasures." in hookline("privacy", "list", "--tenant", tenant)[1], "an export is none"
