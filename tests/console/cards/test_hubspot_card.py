"""The app card in a real browser: HubSpot's host is a stand-in, its signature, our endpoint and the insight are real."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from functools import partial

import pytest
import pytest_asyncio

from console.cards.refusals import Refused
from console.cards.shelf import shown
from tests.console.cards.browser import APPS, browser, bundled, page_of, picture
from tests.console.cards.showing import insights, row
from tests.console.cards.signed import API, Card
from tests.ingress.fakes import PORTAL

pytestmark = [pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]
FOLDER = APPS / "hubspot"
CONTEXT = {
    "location": "crm.record.tab",
    "crm": {"objectId": 51, "objectTypeId": "0-1"},
    "portal": {"id": int(PORTAL.partition(":")[2])},
    "user": {"id": 7, "email": "dana.reyes@hookline.example"},
    "variables": {"HOOKLINE_API_URL": API},
}


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> str:
    return bundled(FOLDER, tmp_path_factory.mktemp("card") / "card.js")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started(script):
    async with browser() as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def open_card(started, script):
    """The card on a record page whose host signs as HubSpot does."""
    return partial(opened, started, script)


@asynccontextmanager
async def opened(started, script: str, card: Card, *, held: dict[str, str] | None = None, context=CONTEXT):
    """`held`: what the record's properties say."""
    alerts: list[dict] = []

    async def fetch(url: str, method: str, body: str) -> dict:
        assert url.startswith(f"{API}/cards/hubspot/")
        answer = await card.call(url.rpartition("/")[2], body.encode(), method=method)
        return {"status": answer.status_code, "text": answer.text}

    async with page_of(started, (FOLDER / "test" / "page.html").read_text(), width=720) as (page, complaints):
        await page.expose_function("hostFetch", fetch)
        await page.expose_function("hostProperties", lambda names: {name: (held or {}).get(name) for name in names})
        await page.expose_function("hostAlert", lambda alert: alerts.append(alert))  # noqa: PLW0108 -- playwright marks the function
        await page.evaluate("given => { window.host = { context: given } }", context)
        await page.add_script_tag(content=script)
        yield page, alerts
        assert complaints == []


@pytest_asyncio.fixture(loop_scope="module")
async def card() -> Card:
    found = {one.analysis: shown(row(one)) for one in await insights("hubspot", "contact", PORTAL, "51")}
    at = Card()
    at.shelf.held = {(PORTAL, "contact", "51"): found}
    return at


async def test_a_rep_reads_the_insight_and_says_what_it_should_have_said(open_card, card) -> None:
    async with open_card(card) as (page, alerts):
        await page.get_by_text("What changed").wait_for()
        text = await page.locator("#card").inner_text()
        lead, asked, quality = (one["payload"] for one in card.shelf.held[PORTAL, "contact", "51"].values())
        for expected in (
            str(lead["score"]), f"Grade {lead['grade']}", lead["summary"], lead["next_action"]["text"], "by 24 Nov 2026",
            "Job title: Sales Manager → VP of Sales", "jobtitle: VP of Sales, since 18 Nov 2026", "+15", "−6",
            asked["items"][0]["text"], "note 310", asked["open_questions"][0], f"health {quality['health']} of 100",
            "→ dana.reyes@acme-logistics.com", "97%", "same phone", "rules, no language model", "version 1.4711.1",
        ):  # fmt: skip
            assert expected in text
        assert await page.get_by_text("Record 4812").get_attribute("href") == "/contacts/145883449/record/0-1/4812"
        await picture(page, "#frame", "hubspot-card.png")

        await page.get_by_role("button", name="No").click()
        await page.get_by_label("What should it have said?").fill("She left the company in October.")
        await page.get_by_role("button", name="Send").click()
        await page.get_by_text("Saved. Thank you.").wait_for()
        await page.get_by_role("button", name="Yes").click()
        await page.get_by_label("What should it have said?").wait_for(state="detached")

        assert [said[2:] for said in card.shelf.said] == [
            ("51", "down", ""),
            ("51", "down", "She left the company in October."),
            ("51", "up", ""),
        ]
        assert await page.get_by_role("button", name="Yes").get_attribute("aria-pressed") == "true"
        assert alerts == []


async def test_what_was_said_before_is_shown(open_card, card) -> None:
    held = {"hookline_feedback": "down", "hookline_feedback_note": "Wrong person."}
    async with open_card(card, held=held) as (page, _):
        await page.get_by_label("What should it have said?").wait_for()
        assert await page.get_by_label("What should it have said?").input_value() == "Wrong person."


async def test_too_little_data_is_said_and_no_score_is_shown(open_card) -> None:
    at = Card()
    at.shelf.held[PORTAL, "contact", "51"] = {
        "lead_intel": {
            "model": "rules", "version": "1.2.1", "analyzed_at": "2026-11-18T09:12:02.000Z", "as_of": "2026-11-18T09:12:00.000Z",
            "payload": {"status": "not_enough_data", "missing": ["job title", "company"], "summary": "", "factors": [], "changes": [], "next_action": None},
        }
    }  # fmt: skip
    async with open_card(at) as (page, _):
        await page.get_by_text("Not enough data for a score yet").wait_for()
        assert "Most helpful would be: job title, company." in await page.locator("#card").inner_text()
        assert await page.get_by_role("img").count() == 0


async def test_what_customers_wrote_is_text_and_never_markup(open_card, card) -> None:
    found = card.shelf.held[PORTAL, "contact", "51"]
    found["lead_intel"]["payload"]["summary"] = '<img src=x onerror="document.title=1"><b>bold</b>'
    async with open_card(card) as (page, _):
        await page.get_by_text("<b>bold</b>").wait_for()
        assert await page.locator("#card img, #card b").count() == 0


async def test_nothing_yet_a_refusal_and_a_save_that_fails_are_told(open_card, card) -> None:
    async with open_card(Card()) as (page, _):
        await page.get_by_text("Not analysed yet").wait_for()
    async with open_card(card) as (page, alerts):
        await page.get_by_text("What changed").wait_for()
        card.shelf.fails = Refused("NOT_WRITTEN")
        await page.get_by_role("button", name="Yes").click()
        await page.wait_for_function("() => !document.querySelector('button').disabled")
        assert [alert["title"] for alert in alerts] == ["Your feedback was not saved"]
        assert "HubSpot refused to save the feedback." in alerts[0]["message"]
        assert await page.get_by_role("button", name="Yes").get_attribute("aria-pressed") == "false"
    refused = Card(public_url="https://elsewhere.example")
    async with open_card(refused) as (page, _):
        await page.get_by_text("The insight could not be read").wait_for()
        assert "api_public_url" in await page.locator("#card").inner_text()
        refused.public_url = API
        refused.shelf = card.shelf
        card.shelf.fails = None
        await page.get_by_role("button", name="Try again").click()
        await page.get_by_text("What changed").wait_for()


async def test_an_app_that_was_uploaded_without_its_address_says_so(open_card, card) -> None:
    async with open_card(card, context={**CONTEXT, "variables": {}}) as (page, _):
        await page.get_by_text(re.compile("without the variable HOOKLINE_API_URL")).wait_for()
