"""A model that answers nonsense, or never: over real HTTP, through the `groq` package, with all roles running."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from infra.local.groq_stand_in import GroqStandIn, smallest_answer
from schemas.dead_letter import Cause
from tests.journeys.groq import KEY, groq
from tests.journeys.house import House, open_house, until
from tests.journeys.place import Place, open_place

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

MODEL = "openai/gpt-oss-120b"


def answer(request: dict[str, Any]) -> str:
    """What the title on the record asks for: that is how one record has a bad model and the next a good one."""
    asked = json.dumps(request["messages"])
    good = json.loads(smallest_answer(request))
    if "Chief Prose Officer" in asked:
        return "Certainly! This contact looks very promising, I would call her at once."
    if "Chief Half Officer" in asked:
        return json.dumps(good)[: len(json.dumps(good)) // 2]
    if "Chief Enum Officer" in asked:
        factor = {
            "label": "Title",
            "direction": "sideways",
            "weight": 5,
            "field": "jobtitle",
            "value": "Chief Enum Officer",
        }
        return json.dumps({**good, "factors": [factor]})
    return json.dumps({**good, "summary": "She leads sales."})


@pytest.fixture(scope="module")
def model() -> Iterator[tuple[GroqStandIn, dict[str, str]]]:
    with groq(answer) as running:
        yield running


@pytest.fixture(scope="module")
def house(addresses, tmp_path_factory, model) -> Iterator[House]:
    """A house whose roles ask "Groq"."""
    environment = {**model[1], "HOOKLINE_PROVIDER": "groq", "HOOKLINE_MODEL_TIMEOUT_SECONDS": "2"}
    with open_house(addresses, tmp_path_factory.mktemp("house"), **environment) as opened:
        opened.secrets.append(KEY)
        yield opened


@pytest.fixture
async def place(house: House):
    async with open_place(house) as opened:
        yield opened


def contact(place: Place, title: str) -> str:
    values = {"firstname": "Ada", "lastname": "Lovelace", "email": "ada@engines.example", "jobtitle": title}
    return place.controls.create_record(place.portal, "contact", values)["id"]


async def test_nonsense_is_a_named_dead_letter_and_holds_up_nobody(place: Place, model):
    """INVARIANT: what a model says reaches a record only if it fits. If it breaks, one bad answer stops a partition, or is shown."""
    titles = ("Chief Prose Officer", "Chief Half Officer", "Chief Enum Officer")
    bad = {contact(place, title): title for title in titles}
    good = contact(place, "Head of Sales")

    async def laid_aside() -> bool:
        return {letter.record_id for letter in await place.dead_letters()} == set(bad)

    await until("each nonsense is a dead letter", laid_aside)
    letters = await place.dead_letters()
    assert {(letter.cause, letter.stage, letter.account) for letter in letters} == {
        (Cause.MODEL_OUTPUT_INVALID, "analyst", place.portal)
    }
    assert not any(word in letter.detail for letter in letters for word in ("Certainly", "sideways", "Officer", "Ada"))
    await until("the records have what needs no model, and the good one all", place.settled)
    assert place.insight("hubspot", "contact", good)["model"] == MODEL
    for record in bad:
        held = place.insight("hubspot", "contact", record)
        assert "score" not in held
        assert "health" in " ".join(held), "the checks that ask nobody still reach it"
    assert [secret for secret in place.house.secrets if secret in place.house.log()] == []


async def test_a_model_that_never_answers_only_delays(place: Place, model):
    """INVARIANT: without a model the backlog waits in Kafka. If it breaks, an outage of the vendor costs insights."""
    stand_in, _ = model
    stand_in.latency = 30.0
    record = contact(place, "Head of Patience")
    await until("the analyst says that it waits for the model", lambda: '"part": "model"' in place.house.log(), 20)
    assert place.insight("hubspot", "contact", record).get("model") != MODEL
    stand_in.latency = 0.0

    def answered() -> bool:
        return place.insight("hubspot", "contact", record).get("model") == MODEL

    await until("the insight came once the model was back", answered, 40)
    await until("everything is on the record", place.settled)
    assert await place.dead_letters() == []
    assert place.reconciled().duplicate_effects == []
