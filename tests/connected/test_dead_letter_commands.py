"""`hookline dead-letters` as a person types it, on real servers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.kafka.raw import RawMessage
from schemas.dead_letter import Cause
from schemas.topics import CHANGES, CHANGES_BULK, DELIVERIES
from tests.connected.test_console import environment, hookline  # noqa: F401 -- fixtures
from tests.connected.test_dead_letters import House

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]


class TestCommand:
    @pytest.fixture
    def letters(self, hookline, settings, tenant):  # noqa: F811
        async def make():
            async with House(settings, tenant) as house:
                return [
                    await house.letter(
                        DELIVERIES,
                        house.delivery(body=b'[{"email": "ada@example.org"}]'),
                        stage="translator",
                        cause=Cause.FOREIGN_ACCOUNT,
                        account=house.account,
                    ),
                    await house.letter(
                        CHANGES, house.change(), stage="hydrator", cause=Cause.HANDLER_BUG, object="deal", record_id="1"
                    ),
                ]

        return asyncio.run(make())

    def test_counts_tell_poison_from_an_accounts_trouble_with_what_to_do(self, hookline, letters, tenant):  # noqa: F811
        said = hookline("dead-letters", "list", "--tenant", tenant)
        assert "FOREIGN_ACCOUNT" in said
        assert "hookline account add" in said
        assert "ada@example.org" not in said
        found = json.loads(hookline("dead-letters", "list", "--tenant", tenant, "--json"))
        assert [(one["cause"], one["kind"], one["letters"]) for one in found["counts"]] == [
            ("FOREIGN_ACCOUNT", "account", 1),
            ("HANDLER_BUG", "poison", 1),
        ]
        assert {one["id"] for one in found["letters"]} == {str(letter) for letter in letters}
        only = json.loads(hookline("dead-letters", "list", "--tenant", tenant, "--kind", "account", "--json"))
        assert [one["cause"] for one in only["letters"]] == ["FOREIGN_ACCOUNT"]

    def test_show_opens_the_original(self, hookline, letters):  # noqa: F811
        said = hookline("dead-letters", "show", str(letters[0]))
        assert "ada@example.org" in said
        assert "crm.deliveries" in said
        found = json.loads(hookline("dead-letters", "show", str(letters[0]), "--json"))
        assert found["original"]["payload"]["body"] == '[{"email": "ada@example.org"}]'
        assert found["redrive_to"] == "crm.deliveries"

    def test_a_plan_changes_nothing_and_nothing_is_done_unasked(self, hookline, letters, tenant):  # noqa: F811
        said = hookline("dead-letters", "redrive", "--tenant", tenant, "--plan")
        assert "2 letters: 1 to crm.changes.bulk, 1 to crm.deliveries" in said
        assert "say --yes" in hookline.fails("dead-letters", "redrive", "--tenant", tenant)
        assert "which letters?" in hookline.fails("dead-letters", "redrive", "--yes")
        assert len(json.loads(hookline("dead-letters", "list", "--tenant", tenant, "--json"))["letters"]) == 2

    def test_a_whole_filter_is_redriven_and_told(self, hookline, letters, tenant):  # noqa: F811
        said = hookline("dead-letters", "redrive", "--tenant", tenant, "--yes")
        assert "2 redriven: 1 to crm.changes.bulk, 1 to crm.deliveries" in said
        assert "No dead letters match" in hookline("dead-letters", "list", "--tenant", tenant)
        assert "is redriven, not open" in hookline.fails("dead-letters", "redrive", str(letters[0]), "--yes")

    def test_what_is_discarded_can_be_opened_again(self, hookline, letters, tenant):  # noqa: F811
        assert "1 letters discarded" in hookline("dead-letters", "discard", str(letters[0]), "--yes")
        found = json.loads(hookline("dead-letters", "list", "--tenant", tenant, "--state", "discarded", "--json"))
        assert [one["id"] for one in found["letters"]] == [str(letters[0])]
        assert "open it again" in hookline.fails("dead-letters", "redrive", str(letters[0]), "--yes")
        assert "1 letters are open again" in hookline("dead-letters", "discard", "--tenant", tenant, "--undo", "--yes")

    def test_mistakes_are_named(self, hookline):  # noqa: F811
        for arguments, said in (
            (("list", "--cause", "BAD_LUCK"), "there is no cause 'BAD_LUCK'"),
            (("list", "--kind", "odd"), "there is no kind 'odd'"),
            (("list", "--since", "yesterday"), "'yesterday' is no time"),
            (("show", "seven"), "'seven' is no letter's id"),
            (("show", "0-99999999"), "there is no letter 0-99999999"),
        ):
            assert said in hookline.fails("dead-letters", *arguments)

    def test_ctrl_c_ends_after_the_page_under_way_and_says_how_far_it_came(self, hookline, settings, tenant):  # noqa: F811
        """INVARIANT: after Ctrl-C each letter is redriven or open, and the same command goes on with the rest."""

        async def make():
            async with House(settings, tenant) as house:
                sealed = await house.codec.seal(CHANGES, [house.change(number) for number in range(60)])
                raws = [RawMessage(CHANGES.name, 0, 10**12, each.key, each.value, each.headers) for each in sealed]
                given = {"stage": "hydrator", "cause": Cause.HANDLER_BUG, "detail": "", "tenant": tenant}
                await asyncio.gather(*(house.publisher.dead_letter(raw, **given) for raw in raws))

        async def sent():
            async with House(settings, tenant) as house:
                return len(await house.on(CHANGES_BULK))

        asyncio.run(make())
        command = [
            sys.executable,
            "-m",
            "console",
            "dead-letters",
            "redrive",
            "--tenant",
            tenant,
            "--yes",
            "--rate",
            "1",
        ]
        root = Path(__file__).parents[2]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": str(root)}
        ) as running:  # fmt: skip
            until = time.monotonic() + 60
            while not asyncio.run(sent()) and running.poll() is None and time.monotonic() < until:
                time.sleep(0.2)  # the other process needs the processor
            running.send_signal(signal.SIGINT)
            said, _ = running.communicate(timeout=60)
        assert running.returncode == 130, said
        done = asyncio.run(sent())
        left = len(json.loads(hookline("dead-letters", "list", "--tenant", tenant, "-n", "100", "--json"))["letters"])
        assert 0 < done < 60
        assert done + left == 60
        assert f"{left} were not looked at and are as they were" in " ".join(said.split())
