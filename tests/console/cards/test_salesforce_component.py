"""The Lightning component in a real browser, on Salesforce's own engine: the record's fields hold what the write-back would write."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from infra.crm.own_fields import OWN_FIELDS
from infra.crm.salesforce_shapes import OWN_NAMES
from sinks.rendering import render, stamp
from tests.console.cards.browser import APPS, browser, bundled, page_of, picture
from tests.console.cards.showing import insights

pytestmark = [pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]
FOLDER = APPS / "salesforce" / "page"
TEXT = """node => {
    const walk = (one) => one.nodeType === Node.TEXT_NODE ? one.data
        : one.tagName === 'STYLE' ? '' : [...(one.shadowRoot ?? one).childNodes].map(walk).join(' ');
    return walk(node).replace(/\\s+/g, ' ');
}"""
"""What a rep reads: `innerText` ends at a shadow root."""
LEAD = "00QWs000001abcDMAQ"


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> str:
    return bundled(FOLDER, tmp_path_factory.mktemp("component") / "component.js")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(script):
    async with browser() as found:
        yield found


async def fields() -> dict[str, Any]:
    """As Salesforce holds them: numbers as numbers, what is empty as null."""
    found = await insights("salesforce", "lead", "salesforce:00DWs000001abcDMAQ", LEAD)
    values = {name: text for one in found for name, text in render(one).items()}
    values |= {"analyzed_at": stamp(found[0].analyzed_at), "model": found[0].model, "version": str(found[0].version)}
    numbers = {name for name, field in OWN_FIELDS.items() if field.kind == "number"}
    return {
        OWN_NAMES[name]: None if text == "" else int(text) if name in numbers else text for name, text in values.items()
    }


@pytest_asyncio.fixture(loop_scope="module")
async def open_record(started, script):
    return partial(opened, started, script)


@asynccontextmanager
async def opened(started, script: str, held: dict[str, Any]):
    """The component on a lead's page, and what it saved."""
    saved: list[tuple[str, dict]] = []
    async with page_of(started, (FOLDER / "page.html").read_text(), width=560) as (page, complaints):
        await page.expose_function("hostSave", lambda record, values: saved.append((record, values)))
        await page.evaluate("given => { window.record = given }", {"id": LEAD, "apiName": "Lead", "fields": held})
        await page.add_script_tag(content=script)
        yield page, saved
        assert complaints == []


async def test_a_rep_reads_the_insight_and_votes(open_record) -> None:
    held = await fields()
    async with open_record(held) as (page, saved):
        await page.get_by_text("What changed").wait_for()
        text = await page.locator("#component").evaluate(TEXT)
        for expected in (
            str(held["Hookline_Score__c"]), held["Hookline_Grade__c"], held["Hookline_Summary__c"], "Book a meeting with Dana Reyes",
            "24 Nov 2026", "Sales Manager → VP of Sales", "+15", "Decision maker", "Title, since 2026-11-18",
            "single sign-on with Okta", "Who decides, and who else has to agree?", "dana.reyes@acme-logistics.com", "97%",
            "rules, no language model", "1.4711.1",
        ):  # fmt: skip
            assert expected in text
        await picture(page, "#frame", "salesforce-component.png")

        await page.get_by_title("This insight does not help").click()
        await page.get_by_label("What should it have said?").fill("She left the company in October.")
        await page.get_by_role("button", name="Send").click()
        await page.wait_for_function("() => window.record.fields.Hookline_Feedback_Note__c?.startsWith('She left')")
        await page.get_by_title("This insight helps").click()
        await page.get_by_label("What should it have said?").wait_for(state="detached")

        names = ("Hookline_Feedback__c", "Hookline_Feedback_Note__c")
        assert [(record, *(values[name] for name in names)) for record, values in saved] == [
            (LEAD, "down", ""),
            (LEAD, "down", "She left the company in October."),
            (LEAD, "up", ""),
        ]
        assert all(set(values) == set(names) for _, values in saved)


async def test_a_record_that_was_not_analysed_yet_says_so(open_record) -> None:
    async with open_record({}) as (page, _):
        await page.get_by_text("Not analysed yet").wait_for()
