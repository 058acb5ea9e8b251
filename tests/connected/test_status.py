"""`hookline status` and `hookline account show`: what is wrong, whose it is, and what to do."""

from __future__ import annotations

import json

import pytest
from aiokafka import AIOKafkaConsumer

from console import status_lag
from console.status_section import Sight
from infra.accounts import Registry
from infra.kafka.connection import options
from infra.set_aside import Aside, SetAside
from ingress.translator import named
from processors.app import HYDRATOR_GROUP
from schemas.dead_letter import Cause
from schemas.topics import CHANGES, DELIVERIES, INSIGHTS
from tests.connected.test_console import environment, hookline  # noqa: F401 -- fixtures
from tests.connected.test_dead_letters import House
from tests.connected.test_topics_command import Desk
from tests.sinks.making import insight

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]


@pytest.fixture
def desk(settings, tenant):
    return Desk(settings, tenant)


def test_an_accounts_own_trouble_is_told_as_its_health_and_poison_as_ours(hookline, desk, tenant):  # noqa: F811
    desk.register()

    async def trouble(house):
        mine = insight().model_copy(update={"tenant": tenant, "account": house.account})
        await house.letter(INSIGHTS, mine, stage="sink:hubspot", cause=Cause.CRM_REFUSED_WRITE)
        await house.letter(CHANGES, house.change(1), stage="hydrator", cause=Cause.HANDLER_BUG)
        await SetAside(house.engine).put(
            [Aside(house.change(number).ref, "hydrator", "FORBIDDEN") for number in range(3)]
        )

    desk(trouble)
    shown = hookline("account", "show", desk.account)
    assert "dead letters 1, CRM_REFUSED_WRITE. The CRM refuses our write" in shown
    assert "set aside 3, FORBIDDEN. The CRM forbids it" in shown
    assert "HANDLER_BUG" not in shown, "a bug of ours is not the admin's"
    whole = json.loads(hookline("status", "--json"))
    (account,) = [one for one in whole["accounts"] if one["account"] == desk.account]
    assert {one["cause"] for one in account["troubles"]} == {"CRM_REFUSED_WRITE", "FORBIDDEN"}
    kinds = {one["cause"]: one["kind"] for one in whole["dead_letters"]}
    assert (kinds["HANDLER_BUG"], kinds["CRM_REFUSED_WRITE"]) == ("poison", "account")
    (aside,) = whole["set_aside"]
    assert (aside["tenant"], aside["records"], aside["held"]) == (tenant, 3, False)
    assert "scopes" in aside["remedy"]
    lanes = {(lag["topic"], lag["lane"]) for lag in whole["roles"]}
    assert {("crm.changes", "live"), ("crm.changes.bulk", "bulk"), ("crm.insights.redriven", "redriven")} <= lanes
    assert {("crm.records", "live+bulk"), ("crm.insights", "live+bulk")} <= lanes
    remedies = {lag["name"]: lag["remedy"] for lag in whole["roles"]}
    poisoned = {one["stage"].replace("sink:", "sinks ") for one in whole["dead_letters"] if one["kind"] == "poison"}
    assert {name for name, said in remedies.items() if "Mend or roll back" in said} == poisoned & remedies.keys()
    assert all(f"`hookline serve {name.split()[0]}`" in said for name, said in remedies.items())
    assert "redrive --stage hydrator --kind poison" in remedies["hydrator"]
    behind = next(lag for lag in whole["roles"] if lag["topic"] == "crm.insights" and lag["messages"] >= 0)
    assert behind["seconds"] >= 0
    said = hookline("status")
    for wanted in (
        "HANDLER_BUG",
        "Mend or roll back",
        "poison",
        "FORBIDDEN",
        "hookline dead-letters list",
        desk.account,
    ):
        assert wanted in said


async def test_a_role_that_reads_and_gets_nowhere_says_so(settings, tenant):
    """A member that joined and has paused, and a message of five minutes ago."""
    member = AIOKafkaConsumer(CHANGES.name, **options(settings), group_id=HYDRATOR_GROUP, enable_auto_commit=False)
    await member.start()
    try:
        while not member.assignment():
            await member.getmany(timeout_ms=100)
        # What other tests left there is younger, and would stand before it.
        await member.seek_to_end()
        await member.commit({place: await member.position(place) for place in member.assignment()})
        async with House(settings, tenant) as house:
            (sealed,) = await house.codec.seal(CHANGES, [house.change(1)])
            sealed.timestamp_ms -= 300_000
            await house.publisher.publish_to(CHANGES.name, [sealed])
            found = await status_lag.SECTION.look(
                Sight(settings, house.engine, Registry(house.engine, house.keyring), house.keyring)
            )
    finally:
        await member.stop()
    (row,) = [lag for lag in found if lag["topic"] == CHANGES.name]
    assert (row["members"], row["partitions"]) == (1, 6)
    assert row["seconds"] > 290
    assert row["remedy"].startswith("Paused or too slow: its /health/ready")
    assert "up to the 6 partitions" in row["remedy"]


def test_bodies_that_nobody_could_read_are_their_accounts_and_their_endpoints_trouble(hookline, desk, tenant):  # noqa: F811
    id_ = desk.register()

    async def trouble(house):
        sent = {"stage": "translator", "cause": Cause.MALFORMED_BODY, "detail": f"{named(id_)}: not JSON: byte 0"}
        for account in (house.account, house.account, None):
            await house.letter(DELIVERIES, house.delivery(), account=account, **sent)
        await house.letter(DELIVERIES, house.delivery(), **{**sent, "detail": f"{named('another')}: not JSON: byte 0"})

    desk(trouble)
    assert "dead letters 2, MALFORMED_BODY. The body is not what this source sends" in hookline(
        "account", "show", desk.account
    )
    assert "3 open dead letters, MALFORMED_BODY. The body is not what" in hookline("endpoint", "show", id_)
    whole = json.loads(hookline("status", "--json"))
    (homeless,) = [one for one in whole["accounts"] if not one["account"] and one["tenant"] == tenant]
    assert [(one["cause"], one["records"]) for one in homeless["troubles"]] == [("MALFORMED_BODY", 2)]
    assert f"{tenant}: dead letters 2, MALFORMED_BODY" in hookline("status")
    listed = json.loads(hookline("dead-letters", "list", "--tenant", tenant, "--kind", "account", "--json"))
    assert [(one["cause"], one["letters"]) for one in listed["counts"]] == [("MALFORMED_BODY", 4)]
    poison = json.loads(hookline("dead-letters", "list", "--tenant", tenant, "--kind", "poison", "--json"))
    assert poison["counts"] == []


def test_a_disconnected_account_says_so_and_what_waits_for_it_says_why(hookline, desk):  # noqa: F811
    desk.register()

    async def revoke(house):
        await Registry(house.engine, house.keyring).set_account_state(
            house.account, "disconnected", "HubSpot refuses our access"
        )
        await SetAside(house.engine).put([Aside(house.change(1).ref, "hydrator", "TOKEN_REVOKED")])

    desk(revoke)
    assert "disconnected, HubSpot refuses our access. Connect the account again" in hookline(
        "account", "show", desk.account
    )
    (aside,) = json.loads(hookline("status", "--json"))["set_aside"]
    assert aside["held"]
    assert "when it is connected" in hookline("status")


def test_a_healthy_account_says_so(hookline, desk):  # noqa: F811
    desk.register()
    assert "health good" in hookline("account", "show", desk.account)
