"""The `hookline` command on real servers, as a person types it: what it prints, what it never prints, what it says when it fails."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import subprocess
import sys
from datetime import UTC, datetime

import psycopg
import pytest

from console.main import main
from infra.accounts import Registry
from infra.database.engine import build_engine
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec
from infra.keyring import Keyring
from infra.local.sandbox.server import Sandbox
from infra.set_aside import Aside, SetAside
from schemas.change import Change
from schemas.record import RecordRef
from schemas.topics import CHANGES
from sinks.destinations.destination import Needs
from sinks.destinations.postgres import PostgresDestination
from tests.sinks.making import FakeAccounts, fingerprint, insight, lead, quality, requirements

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

CLIENT_SECRET = "client-secret-0d55ecae"
TOKEN = "token-of-the-portal"


class Command:
    """Runs the command in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str) -> str:
        """What a command prints that ends well; white space folded."""
        code, said = self._run(arguments)
        assert code == 0, said
        return said

    def fails(self, *arguments: str) -> str:
        """What a command says that fails."""
        code, said = self._run(arguments)
        assert code == 2, said
        return said

    def _run(self, arguments: tuple[str, ...]) -> tuple[int, str]:
        self._capsys.readouterr()
        self._monkeypatch.setattr(sys, "argv", ["hookline", *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = self._capsys.readouterr()
        said = " ".join((printed.out + printed.err).split())
        assert "Traceback" not in said
        return code, said


@pytest.fixture
def environment(settings, monkeypatch, tmp_path):
    """The variables of an operator's shell, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    given = {
        "HOOKLINE_ENVIRONMENT": "development",
        "KAFKA_URL": settings.kafka_url,
        "HOOKLINE_KAFKA_REPLICATION": "1",
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "HOOKLINE_MASTER_KEYS": settings.master_keys.get_secret_value(),
        "HOOKLINE_PUBLIC_URL": "https://hooks.test",
        "COLUMNS": "250",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return given


@pytest.fixture
def hookline(environment, monkeypatch, capsys):
    return Command(monkeypatch, capsys)


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    running = Sandbox(tmp_path / "sandbox")
    monkeypatch.setenv("HOOKLINE_SANDBOX_URL", asyncio.run(running.start()))
    running.controls.create_app(4711, CLIENT_SECRET)
    running.controls.create_portal(145883449, 4711, TOKEN, size=0)
    yield running
    asyncio.run(running.stop())


@pytest.fixture
def door(hookline, monkeypatch):
    """A tenant with a HubSpot endpoint."""
    hookline("tenant", "add", "acme")
    monkeypatch.setenv("HOOKLINE_NEW_SECRET", CLIENT_SECRET)
    hookline("endpoint", "add", "hubspot", "--tenant", "acme", "--name", "app")
    return "app"


class TestServers:
    def test_migrate_may_be_repeated(self, hookline):
        assert "database: up to date" in hookline("migrate")
        assert "topics: up to date" in hookline("migrate")

    @pytest.mark.parametrize(
        "command", [("endpoint", "list"), ("account", "list"), ("status",), ("insight", "show", "a/hubspot:1/deal/1")]
    )
    def test_an_empty_database_is_told_how_to_fill(self, hookline, database_url, addresses, monkeypatch, command):
        empty = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(addresses.database_url, autocommit=True) as connection:
            connection.execute(f'create database "{empty}"')
            monkeypatch.setenv("DATABASE_URL", database_url.rpartition("/")[0] + f"/{empty}")
            try:
                assert "hookline migrate" in hookline.fails(*command)
            finally:
                connection.execute(f'drop database "{empty}" with (force)')

    @pytest.mark.parametrize(
        "command", [("migrate",), ("status",), ("topics", "list"), ("topics", "tail", "crm.changes")]
    )
    def test_kafka_away(self, hookline, monkeypatch, command):
        monkeypatch.setenv("KAFKA_URL", "127.0.0.1:1")
        said = hookline.fails(*command)
        assert "KAFKA_URL" in said

    @pytest.mark.parametrize("command", [("migrate",), ("status",), ("tenant", "add", "acme"), ("account", "list")])
    def test_postgres_away(self, hookline, monkeypatch, command):
        monkeypatch.setenv("DATABASE_URL", "postgresql://app:hunter2@127.0.0.1:1/hookline")
        said = hookline.fails(*command)
        assert "DATABASE_URL" in said
        assert "hunter2" not in said

    @pytest.mark.parametrize("command", [("migrate",), ("status",), ("tenant", "add", "acme"), ("topics", "list")])
    def test_nothing_is_set(self, hookline, monkeypatch, command):
        for name in ("KAFKA_URL", "DATABASE_URL", "REDIS_URL", "HOOKLINE_MASTER_KEYS"):
            monkeypatch.delenv(name)
        said = hookline.fails(*command)
        assert "hookline up" in said
        assert "DATABASE_URL" in said

    def test_a_setting_that_cannot_be_read(self, hookline, monkeypatch):
        monkeypatch.setenv("HOOKLINE_INGRESS_PORT", "many")
        assert "HOOKLINE_INGRESS_PORT" in hookline.fails("config")

    def test_a_master_key_that_is_none(self, hookline, monkeypatch):
        monkeypatch.setenv("HOOKLINE_MASTER_KEYS", "c2hvcnQ=")
        assert "HOOKLINE_MASTER_KEYS" in hookline.fails("tenant", "add", "acme")

    def test_config_names_sources_and_hides_secrets(self, hookline, environment):
        said = hookline("config", "--set")
        assert "environment" in said
        assert "https://hooks.test" in said
        assert environment["HOOKLINE_MASTER_KEYS"] not in said
        assert "HOOKLINE_COALESCE_WINDOW_SECONDS" not in said
        assert len(base64.b64decode(hookline("config", "new-master-key"))) == 32


class TestEndpoints:
    def test_hubspot_needs_the_apps_secret(self, hookline, monkeypatch):
        monkeypatch.delenv("HOOKLINE_NEW_SECRET", raising=False)
        hookline("tenant", "add", "acme")
        said = hookline.fails("endpoint", "add", "hubspot", "--tenant", "acme")
        assert "HOOKLINE_NEW_SECRET" in said
        assert "none" in hookline.fails("endpoint", "show", "hubspot"), "nothing may have been made"

    def test_hubspot_prints_the_address_and_no_secret(self, hookline, monkeypatch):
        hookline("tenant", "add", "acme")
        monkeypatch.setenv("HOOKLINE_NEW_SECRET", CLIENT_SECRET)
        said = hookline("endpoint", "add", "hubspot", "--tenant", "acme", "--app-id", "4711")
        assert "https://hooks.test/hooks/" in said
        assert "hookline account add hubspot" in said
        shown = [said, hookline("endpoint", "list"), hookline("endpoint", "show", "hubspot", "--reveal")]
        assert not any(CLIENT_SECRET in each for each in shown)

    def test_a_standard_webhooks_sender_gets_a_secret_in_its_own_form(self, hookline):
        hookline("tenant", "add", "acme")
        said = hookline("endpoint", "add", "standard_webhooks", "--tenant", "acme")
        made = next(word for word in said.split() if word.startswith("whsec_"))
        assert len(base64.b64decode(made.removeprefix("whsec_"))) == 32
        assert made not in hookline("endpoint", "show", "standard_webhooks")
        assert "hookline account add CRM ID" in said

    def test_a_standard_webhooks_secret_of_another_form_is_refused(self, hookline, monkeypatch):
        hookline("tenant", "add", "acme")
        monkeypatch.setenv("HOOKLINE_NEW_SECRET", "not base64!")
        assert "whsec_" in hookline.fails("endpoint", "add", "standard_webhooks", "--tenant", "acme")

    def test_salesforces_address_is_its_secret(self, hookline):
        hookline("tenant", "add", "acme")
        said = hookline("endpoint", "add", "salesforce", "--tenant", "acme", "--name", "org")
        address = next(word for word in said.split() if word.startswith("https://hooks.test/hooks/"))
        identity = address.rpartition("/")[2]
        assert identity not in hookline("endpoint", "list") + hookline("endpoint", "show", "org")
        assert identity in hookline("endpoint", "show", "org", "--reveal")

    def test_what_is_unknown_is_named_with_what_there_is(self, hookline, door):
        assert "hookline tenant add nobody" in hookline.fails("endpoint", "add", "hubspot", "--tenant", "nobody")
        assert "standard_webhooks" in hookline.fails("endpoint", "add", "sugar", "--tenant", "acme")
        assert "app" in hookline.fails("endpoint", "show", "other")
        assert "lower-case" in hookline.fails("tenant", "add", "Acme GmbH")

    def test_show_lists_accounts_and_refusals(self, hookline, door):
        said = hookline("endpoint", "show", door)
        assert "hookline account add" in said
        assert "nothing in the last 24 hours" in said


class TestAccounts:
    GOOD = json.dumps({"access_token": TOKEN})

    def add(
        self, hookline, *more: str, id_: str = "145883449", endpoint: str = "app", tenant: str = "acme"
    ) -> tuple[str, ...]:
        return ("account", "add", "hubspot", id_, "--tenant", tenant, "--endpoint", endpoint, *more)

    def test_added_with_its_fields_and_shown_without_credentials(self, hookline, sandbox, door, monkeypatch):
        monkeypatch.setenv("HOOKLINE_NEW_CREDENTIALS", self.GOOD)
        said = hookline(*self.add(hookline, "--name", "Main portal"))
        assert "hubspot:145883449" in said
        assert "properties made" in said
        assert " 0 properties made" in hookline(*self.add(hookline)), "the second time all are there"
        for shown in (hookline("account", "list"), hookline("account", "show", "hubspot:145883449")):
            assert "active" in shown
            assert TOKEN not in shown
        assert "access_token" in hookline("account", "show", "hubspot:145883449")
        assert "hubspot:145883449" in hookline("endpoint", "show", door)

    @pytest.mark.parametrize(
        ("credentials", "says"),
        [
            ("", "HOOKLINE_NEW_CREDENTIALS"),
            ("{'access_token': 'x'}", "not JSON"),
            ("[]", "JSON object"),
            ('"x"', "JSON object"),
        ],
    )
    def test_malformed_credentials(self, hookline, door, monkeypatch, credentials, says):
        monkeypatch.setenv("HOOKLINE_NEW_CREDENTIALS", credentials)
        assert says in hookline.fails(*self.add(hookline))
        assert "hubspot:145883449" not in hookline("account", "list")

    def test_what_is_unknown_or_malformed_is_said_before_anything_is_made(self, hookline, sandbox, door, monkeypatch):
        monkeypatch.setenv("HOOKLINE_NEW_CREDENTIALS", self.GOOD)
        assert "hookline tenant add nobody" in hookline.fails(*self.add(hookline, tenant="nobody"))
        assert "there are: app" in hookline.fails(*self.add(hookline, endpoint="other"))
        assert "hubspot:" in hookline.fails(*self.add(hookline, id_="my portal"))
        said = hookline.fails("account", "add", "zoho", "1", "--tenant", "acme", "--endpoint", "app")
        assert "hubspot" in said
        assert "salesforce" in said
        assert "--instance" in hookline.fails(
            "account", "add", "salesforce", "00D5g000004XyzA", "--tenant", "acme", "--endpoint", "app"
        )
        assert "account list" in hookline.fails("account", "show", "hubspot:1")
        assert "hubspot" not in hookline("account", "list")

    def test_a_token_that_the_crm_refuses(self, hookline, sandbox, door, monkeypatch):
        monkeypatch.setenv("HOOKLINE_NEW_CREDENTIALS", json.dumps({"access_token": "a-token-of-nobody"}))
        said = hookline.fails(*self.add(hookline))
        assert "run this again" in said
        assert "a-token-of-nobody" not in said

    def test_credentials_that_lack_a_part(self, hookline, sandbox, door, monkeypatch):
        monkeypatch.setenv("HOOKLINE_NEW_CREDENTIALS", json.dumps({"token": "x-secret-x"}))
        said = hookline.fails(*self.add(hookline))
        assert "access_token" in said
        assert "x-secret-x" not in said


class TestLooking:
    @pytest.fixture
    def told(self, settings, tenant):
        """Insights of one record, a change on its topic, and something set aside."""

        async def write() -> None:
            engine = build_engine(settings)
            keyring = Keyring(engine, settings.master_keys)
            await keyring.start()
            registry = Registry(engine, keyring)
            await registry.add_tenant(tenant)
            await registry.add_account(tenant, "hubspot", "hubspot:123", name="Portal")

            async def disconnect(_account: str, _reason: str) -> None:
                raise AssertionError

            destination = PostgresDestination(
                Needs(settings, engine, FakeAccounts(), fingerprint, registry.touch, disconnect)
            )
            await destination.write(
                [insight(payload, 1, tenant=tenant) for payload in (lead(72), requirements(), quality(80))]
            )
            await SetAside(engine).put(
                [Aside(RecordRef(tenant, "hubspot:123", "contact", "1"), "hydrator", "QUOTA_SPENT", 60.0)]
            )
            publisher = Publisher(settings, Codec(keyring, "test"), client_id="test")
            await publisher.start()
            change = Change(
                tenant=tenant,
                account="hubspot:123",
                object="contact",
                id="1",
                kind="updated",
                occurred_at=datetime.now(UTC),
            )
            await publisher.publish(CHANGES, [change])
            await publisher.stop()
            await keyring.stop()
            await engine.dispose()

        asyncio.run(write())
        return tenant

    def test_an_insight_for_people_and_for_programs(self, hookline, told):
        shape = insight(lead(72), 1)
        record = f"{told}/{shape.account}/{shape.object}/{shape.id}"
        said = hookline("insight", "show", record)
        assert "72 (" in said
        assert "lead_intel" in said
        assert "“" in said, "requirements are quoted"
        assert "80 of 100" in said
        whole = hookline("insight", "show", record, "--json")
        decoder, found, place = json.JSONDecoder(), [], 0
        while place < len(whole):
            value, end = decoder.raw_decode(whole, place)
            found.append(value["analysis"])
            place = end + 1
        assert found == ["data_quality", "lead_intel", "requirements"]

    def test_an_insight_that_is_not_there(self, hookline, told):
        assert "hookline status" in hookline.fails("insight", "show", f"{told}/hubspot:123/contact/999")
        assert "tenant/account/object/id" in hookline.fails("insight", "show", "contact 999")

    def test_topics(self, hookline, told):
        listed = hookline("topics", "list")
        assert "crm.changes" in listed
        assert "newest per key" in listed
        assert "missing" not in listed
        line = json.loads(hookline("topics", "tail", "crm.changes", "--tenant", told, "-n", "1000"))
        assert (line["tenant"], line["payload"]["id"], line["payload"]["kind"]) == (told, "1", "updated")
        assert "crm.dead-letters" in hookline.fails("topics", "tail", "crm.nothing")

    def test_status(self, hookline, told):
        said = hookline("status")
        assert "crm.deliveries" in said
        assert "hookline serve translator" in said, "nobody reads, and it says how to mend that"
        assert "QUOTA_SPENT" in said
        assert "hubspot:123" in said
        whole = json.loads(hookline("status", "--json"))
        assert {lag["role"] for lag in whole["roles"]} == {"translator", "hydrator", "analyst", "sinks"}
        assert {lag["group"] for lag in whole["roles"]} >= {"hookline.sink.postgres", "hookline.analyst"}
        assert all(lag["messages"] >= 0 and lag["members"] == 0 for lag in whole["roles"])
        (aside,) = whole["set_aside"]
        assert (aside["account"], aside["stage"], aside["cause"], aside["records"]) == (
            "hubspot:123",
            "hydrator",
            "QUOTA_SPENT",
            1,
        )
        (account,) = whole["accounts"]
        assert (account["tenant"], account["state"], account["last_delivery_at"]) == (told, "active", None)
        assert datetime.fromisoformat(account["last_insight_at"])


@pytest.mark.parametrize(
    ("arguments", "kafka", "says"),
    [
        (("account", "show", "hubspot:1"), "", "error account 'hubspot:1' is not known"),
        (("serve", "hydrator"), "127.0.0.1:1", "error Kafka cannot be reached: check KAFKA_URL"),
        (("serve", "everything"), "", "error there is no role 'everything'"),
    ],
)
def test_as_a_process_it_ends_with_two_and_one_message(environment, arguments, kafka, says):
    """Through the real entry point: nothing of Python is shown."""
    done = subprocess.run(
        [sys.executable, "-m", "console", *arguments],
        env={**os.environ, **environment, **({"KAFKA_URL": kafka} if kafka else {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(says)
    assert "Traceback" not in done.stderr
