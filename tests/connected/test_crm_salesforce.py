"""The Salesforce adapter, through simple-salesforce, against the sandbox."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from infra.accounts import Account
from infra.crm.client import AccountUnavailable, Read
from infra.crm.salesforce import SalesforceClient
from infra.crm.salesforce_org import Orgs
from tests.connected.crm_suite import CrmSuite, calls, settings_for

pytestmark = pytest.mark.connected

ORG = "00D5g000004XyzAEAS"
NOWHERE = "http://127.0.0.1:9/sf"
INSTANCE = "https://acme.my.salesforce.com"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


class TestSalesforce(CrmSuite):
    objects = ("contact", "company", "deal", "lead")
    batch = 200
    batch_read = "collections.retrieve"
    batch_write = "collections.update"
    reads_records = ("_records", 2)
    reads_notes = "_notes"
    reads = "collections.*"

    refuses_text_numbers = False
    """The adapter itself cannot make a number of a text; rendering never does."""

    def make(self, sandbox, **more):
        settings = settings_for(sandbox, **more)
        return SalesforceClient(settings, orgs=Orgs(settings, calls=calls("salesforce")))

    def account_of(self, sandbox):
        public = KEY.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        made = sandbox.controls.create_org(
            ORG,
            "token-1",
            NOWHERE,
            consumer_key="key",
            consumer_secret="hush",
            public_key=public.decode(),
            refresh_token="refresh-1",
        )
        sandbox.controls.set_manners(f"org:{made['account']}", paused=True)
        config = {"instance_url": INSTANCE}
        return Account(
            id=made["account"],
            tenant="acme",
            crm="salesforce",
            name="",
            config=config,
            credentials={"access_token": "token-1"},
        )

    @pytest.mark.parametrize("given", ["client credentials", "refresh token", "signed assertion"])
    @pytest.mark.parametrize("before", [{}, {"access_token": "long-gone"}])
    async def test_every_flow_gets_a_token(self, sandbox, ready, account, given, before):
        private = KEY.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        flows = {
            "client credentials": {"consumer_key": "key", "consumer_secret": "hush"},
            "refresh token": {"consumer_key": "key", "consumer_secret": "hush", "refresh_token": "refresh-1"},
            "signed assertion": {
                "consumer_key": "key",
                "username": "integration@sandbox.example",
                "private_key": private,
            },
        }
        one = sandbox.controls.records(account.id, "lead")[0]
        found = await ready.read(self.with_credentials(account, {**flows[given], **before}), "lead", [one])
        assert isinstance(found[one], Read)

    async def test_refused_credentials_say_what_to_check(self, ready, account):
        wrong = self.with_credentials(account, {"consumer_key": "key", "consumer_secret": "wrong-secret"})
        with pytest.raises(AccountUnavailable, match="external client app") as caught:
            await ready.read(wrong, "lead", ["00Q5g0000000004EAA"])
        assert caught.value.cause == "TOKEN_REVOKED"
        assert "wrong-secret" not in str(caught.value)

    async def test_a_spent_quota_sets_the_account_aside(self, sandbox, ready, account):
        one = sandbox.controls.records(account.id, "lead")[0]
        sandbox.controls.set_limits(account.id, daily=1, used_today=1)
        with pytest.raises(AccountUnavailable) as caught:
            await ready.read(account, "lead", [one])
        assert caught.value.cause == "QUOTA_SPENT"
        assert caught.value.retry_after >= 600

    async def test_a_row_that_is_locked_for_a_moment_is_tried_again(self, sandbox, ready, account):
        from infra.crm.client import Written

        ids = sandbox.controls.records(account.id, "lead")[:3]
        sandbox.controls.plant_fault(account.id, "collections.update", "207", count=1, rows=1)
        found = await ready.write(account, "lead", {one: {"score": "5"} for one in ids})
        assert set(found.values()) == {Written()}

    async def test_fifteen_character_ids_are_understood(self, sandbox, ready, account):
        one = sandbox.controls.records(account.id, "lead")[0]
        assert isinstance((await ready.read(account, "lead", [one[:15]]))[one[:15]], Read)

    async def test_the_integration_user_is_the_tokens_user(self, ready, account):
        assert (await ready.integration_user(account) or "").startswith("005")
