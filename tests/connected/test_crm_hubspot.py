"""The HubSpot adapter, through HubSpot's own library, against the sandbox."""

import pytest

from infra.accounts import Account
from infra.crm.client import AccountUnavailable, Read, Refused, Written
from infra.crm.hubspot import HubSpotClient
from infra.crm.hubspot_portal import Portals
from tests.connected.crm_suite import CrmSuite, calls, settings_for

pytestmark = pytest.mark.connected

APP = 14947547
NOWHERE = "http://127.0.0.1:9/hub"


class TestHubSpot(CrmSuite):
    objects = ("contact", "company", "deal")
    batch = 100
    batch_read = "objects.batch_read"
    batch_write = "objects.batch_update"
    reads = "objects.*"
    reads_records = ("_read_many", 1)
    reads_notes = "_links_of_many"

    def make(self, sandbox, **more):
        settings = settings_for(sandbox, **more)
        return HubSpotClient(settings, portals=Portals(settings, calls=calls("hubspot")))

    def account_of(self, sandbox):
        sandbox.controls.create_app(APP, "app-secret", NOWHERE)
        sandbox.controls.set_manners(f"app:{APP}", paused=True)
        made = sandbox.controls.create_portal(145883449, APP, "token-1", refresh_token="refresh-1")
        return Account(
            id=made["account"],
            tenant="acme",
            crm="hubspot",
            name="",
            config={"app_id": str(APP)},
            credentials={"access_token": "token-1"},
        )

    async def test_a_refresh_token_gets_a_new_access_token_once_it_is_refused(self, sandbox, ready, account):
        one = sandbox.controls.records(account.id, "contact")[0]
        credentials = {
            "client_id": f"client-{APP}",
            "client_secret": "app-secret",
            "refresh_token": "refresh-1",
            "access_token": "long-gone",
        }
        renewing = self.with_credentials(account, credentials)
        assert isinstance((await ready.read(renewing, "contact", [one]))[one], Read)

    async def test_without_an_access_token_one_is_asked_for_first(self, sandbox, ready, account):
        one = sandbox.controls.records(account.id, "contact")[0]
        given = {"client_id": f"client-{APP}", "client_secret": "app-secret", "refresh_token": "refresh-1"}
        assert isinstance((await ready.read(self.with_credentials(account, given), "contact", [one]))[one], Read)

    async def test_a_refused_refresh_token_says_to_install_again(self, sandbox, ready, account):
        given = {"client_id": f"client-{APP}", "client_secret": "app-secret", "refresh_token": "gone"}
        with pytest.raises(AccountUnavailable, match="install the app again") as caught:
            await ready.read(self.with_credentials(account, given), "contact", ["1"])
        assert caught.value.cause == "TOKEN_REVOKED"
        assert "app-secret" not in str(caught.value)

    async def test_too_many_calls_set_the_account_aside(self, sandbox, ready, account):
        one = sandbox.controls.records(account.id, "contact")[0]
        sandbox.controls.plant_fault(account.id, "*", "429", count=1000)
        with pytest.raises(AccountUnavailable) as caught:
            await ready.read(account, "contact", [one])
        assert caught.value.cause == "QUOTA_SPENT"
        assert caught.value.retry_after

    async def test_one_call_too_many_is_waited_for(self, sandbox, ready, account):
        one = sandbox.controls.records(account.id, "contact")[0]
        sandbox.controls.plant_fault(account.id, "objects.get", "429", count=1)
        assert isinstance((await ready.read(account, "contact", [one]))[one], Read)

    async def test_what_the_app_may_not_see_is_left_out_and_named(self, sandbox, ready, account):
        """A missing scope for e-mails costs the e-mails, not the deal."""
        deals = sandbox.controls.records(account.id, "deal")
        sandbox.controls.plant_fault(account.id, "associations.batch_read", "403", count=1)
        found = await ready.read(account, "deal", deals)
        assert all(isinstance(one, Read) for one in found.values())
        assert any("no permission" in name for one in found.values() for name in one.omitted)

    async def test_a_record_that_the_app_may_not_read_is_refused(self, sandbox, ready, account):
        ids = sandbox.controls.records(account.id, "contact")
        sandbox.controls.plant_fault(account.id, "objects.*", "403", count=100)
        found = await ready.read(account, "contact", ids)
        assert set(found.values()) == {Refused("MISSING_SCOPES")}

    async def test_a_bad_value_is_refused_alone(self, sandbox, ready, account):
        first, second = sandbox.controls.records(account.id, "contact")[:2]
        found = await ready.write(account, "contact", {first: {"score": "many"}, second: {"score": "5"}})
        assert isinstance(found[first], Refused)
        assert found[first].category == "VALIDATION_ERROR"
        assert "hookline_score" in found[first].detail
        assert found[second] == Written()

    async def test_the_integration_user_is_the_app(self, client, account):
        assert await client.integration_user(account) == str(APP)
