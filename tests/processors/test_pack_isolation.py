"""A stranger's text beside another record: what it asks of a model that obeys does not reach that other record."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from llm_gateway.metered import Asked
from llm_gateway.packing import Packer
from llm_gateway.prompt import Answer, Prompt
from llm_gateway.providers.provider import Completed
from llm_gateway.question import Grant, Line, Question
from llm_gateway.question import Usage as Taken
from processors.analyses import lead_intel, requirements
from processors.analyses.analysis import Context
from processors.analyses.lead_intel.answer import LeadIntelAnswer
from processors.analyses.requirements.answer import RequirementsAnswer
from processors.grounding import ground
from processors.grounding.evidence import Evidence
from schemas.insight import Usage
from schemas.record import RecordSnapshot
from tests.processors.lures import LURES, Lure, asked, factor, record, said, wish

TODAY = date(2026, 11, 20)
HONEST: dict[type, dict[str, Any]] = {
    LeadIntelAnswer: {
        "factors": [],
        "summary": "",
        "next_action": "",
        "next_action_why": "",
        "due_in_business_days": 2,
    },
    RequirementsAnswer: {"items": [], "contradictions": [], "open_questions": []},
}
"""An obedient model that was told to say nothing: the neighbour's answer must be the same."""
NEIGHBOUR = {
    "firstname": "Jonas",
    "lastname": "Weber",
    "email": "jonas@nordlicht.example",
    "jobtitle": "Head of Facilities",
    "company": "Nordlicht AG",
    "lifecyclestage": "opportunity",
}


class Obedient:
    """A model that does what any text of its prompt tells it, for every record of that prompt."""

    provider = "groq"
    structured = "strict"

    def __init__(self, lure: Lure) -> None:
        self._lure = lure
        self.together = 0

    async def ask(self, prompt: Prompt[Any], _turns: Any, _grant: Any, _deadline: float) -> Asked:
        steered = self._lure.visible in json.dumps(prompt.facts, ensure_ascii=False).replace('\\"', '"')
        value = self._lure.obeys if steered else prompt.rules(prompt.facts)  # type: ignore[misc]
        return Asked(Completed(value.model_dump_json(), "obedient"), Taken("obedient"))

    async def ask_unsettled(self, _prompt: Any, turns: Any, _grant: Any, _deadline: float) -> Asked:
        ids = [json.loads(line)["id"] for line in turns[1].content.splitlines()]
        self.together += 1
        obeyed = self._lure.obeys.model_dump(mode="json")
        return Asked(
            Completed(json.dumps({"answers": [{"id": id_, "answer": obeyed} for id_ in ids]}), "obedient"),
            Taken("obedient"),
        )

    def give_back(self, grant: Grant, error: BaseException) -> None: ...


def door(packer: Packer, model: Obedient, snapshot: RecordSnapshot, *, recognised: bool) -> Any:
    """As the analyst and the gateway ask: alone what talks to a machine, else in company."""

    async def ask(prompt: Prompt[Any]) -> Answer[Any]:
        question = Question("t", "", prompt.name, Line("groq", "obedient"), 1, 1)
        grant, deadline = Grant(question, "1", "", "", "", 0), asyncio.get_running_loop().time() + 30
        if recognised and Evidence(snapshot).tainted:
            asked = await model.ask(prompt, (), grant, deadline)
        else:
            asked = await packer.ask(model, prompt, (), grant, deadline)  # type: ignore[arg-type]
        value = prompt.answer.model_validate_json(asked.completed.text)
        return Answer(value, "obedient", "scripted", Usage(), cached=False, prompt_version=prompt.version)

    return ask


async def both(lure: Lure, *, recognised: bool) -> tuple[Obedient, RecordSnapshot, Any]:
    plugin = lead_intel.PLUGIN if isinstance(lure.obeys, LeadIntelAnswer) else requirements.PLUGIN
    neighbour = record("We want a quote for twelve parking spaces.", **NEIGHBOUR).model_copy(update={"id": "8"})
    model, packer = Obedient(lure), Packer(seconds=0.005, most_items=8, most_tokens=50_000)
    _, finding = await asyncio.gather(
        *(
            plugin.analyse(Context(each, None, door(packer, model, each, recognised=recognised), (), TODAY))
            for each in (lure.snapshot, neighbour)
        )
    )
    return model, neighbour, finding


@pytest.mark.parametrize("lure", LURES, ids=lambda lure: lure.name)
async def test_what_is_recognised_never_stands_beside_another_record(lure: Lure):
    model, neighbour, finding = await both(lure, recognised=True)
    grounded = ground(finding.payload, neighbour).payload
    if not Evidence(lure.snapshot).tainted:
        assert not lure.carries(grounded)
        return
    assert model.together == 0
    _, _, honest = await both(
        replace(lure, obeys=type(lure.obeys).model_validate(HONEST[type(lure.obeys)])), recognised=True
    )
    assert grounded == ground(honest.payload, neighbour).payload, "as if the stranger had written nothing"


@pytest.mark.parametrize("lure", LURES, ids=lambda lure: lure.name)
async def test_what_nobody_recognises_does_not_reach_the_neighbour_either(lure: Lure):
    """INVARIANT: the wall behind the model holds for each record of a pack by itself."""
    model, neighbour, finding = await both(lure, recognised=False)
    assert model.together == 1, "they must have shared a call, or this proves nothing"
    grounded = ground(finding.payload, neighbour).payload
    assert not lure.carries(grounded)


# Questions of several prompts in one call


def words_of(lure: Lure) -> list[str]:
    """All that the lure wants said."""
    said = lure.obeys
    if isinstance(said, LeadIntelAnswer):
        found = [said.summary, said.next_action, said.next_action_why, *(factor.label for factor in said.factors)]
    else:
        found = [text for item in said.items for text in (item.text, item.quote)] + said.open_questions
        found += [text for clash in said.contradictions for text in (clash.about, clash.second_quote)]
    return list(dict.fromkeys(text for text in found if text))


def obeyed_as(kind: str, lure: Lure) -> dict[str, Any]:
    """What a model answers that does what the lure says to a question of any kind."""
    if kind == ("lead_intel" if isinstance(lure.obeys, LeadIntelAnswer) else "requirements"):
        return lure.obeys.model_dump(mode="json")
    words = words_of(lure)
    if kind == "requirements":
        wishes = [wish(text, source) for text in words for source in ("note:1", "note:2")]
        return asked(*wishes, questions=words).model_dump(mode="json")
    factors = [factor(name, text, label=text) for text in words for name in ("jobtitle", "company")]
    return said(summary=words[0], action=words[-1], why=words[0], factors=factors).model_dump(mode="json")


class Steered:
    """A model that does what any text of its call tells it, for every question of the call, of whatever prompt."""

    provider = "groq"
    structured = "strict"

    def __init__(self, lure: Lure) -> None:
        self._lure = lure
        self.calls: list[list[tuple[str, bool]]] = []
        """Kind of each question of a call, and whether it shows the lure."""
        self.instructions: list[str] = []

    async def ask(self, prompt: Prompt[Any], _turns: Any, _grant: Any, _deadline: float) -> Asked:
        """Alone: nothing stands beside it."""
        value = prompt.rules(prompt.facts)  # type: ignore[misc]
        return Asked(Completed(value.model_dump_json(), "steered"), Taken("steered"))

    async def ask_unsettled(self, _prompt: Any, turns: Any, _grant: Any, _deadline: float) -> Asked:
        self.instructions.append(turns[0].content)
        lines = [json.loads(line) for line in turns[1].content.splitlines()]
        shown = [self._lure.visible in line["input"].replace('\\"', '"') for line in lines]
        self.calls.append([(line["kind"], seen) for line, seen in zip(lines, shown, strict=True)])
        answers = [
            {
                "id": line["id"],
                "kind": line["kind"],
                "answer": obeyed_as(line["kind"], self._lure) if any(shown) else HONEST_BY_KIND[line["kind"]],
            }
            for line in lines
        ]
        return Asked(Completed(json.dumps({"answers": answers}), "steered"), Taken("steered"))

    def give_back(self, grant: Grant, error: BaseException) -> None: ...


HONEST_BY_KIND = {"lead_intel": HONEST[LeadIntelAnswer], "requirements": HONEST[RequirementsAnswer]}


async def mixed(lure: Lure, *, recognised: bool) -> tuple[Steered, RecordSnapshot, list[Any]]:
    """Both questions of the lured record and both of its neighbour, at once; the neighbour's findings."""
    neighbour = record("We want a quote for twelve parking spaces.", **NEIGHBOUR).model_copy(update={"id": "8"})
    model, packer = Steered(lure), Packer(seconds=0.005, most_items=8, most_tokens=50_000)
    findings = await asyncio.gather(
        *(
            plugin.analyse(Context(each, None, door(packer, model, each, recognised=recognised), (), TODAY))  # type: ignore[arg-type]
            for each in (lure.snapshot, neighbour)
            for plugin in (lead_intel.PLUGIN, requirements.PLUGIN)
        )
    )
    return model, neighbour, list(findings[2:])


def carried(lure: Lure, payload: Any) -> bool:
    """Whether it shows the lure; one that is about a score shows in scores alone."""
    if payload.analysis == "requirements" and lure.name.startswith("score_"):
        return False
    return lure.carries(payload)


@pytest.mark.parametrize("lure", LURES, ids=lambda lure: lure.name)
async def test_what_is_recognised_stands_in_no_call_of_several_prompts(lure: Lure):
    model, neighbour, findings = await mixed(lure, recognised=True)
    grounded = [ground(finding.payload, neighbour).payload for finding in findings]
    if Evidence(lure.snapshot).tainted:
        assert model.calls == [[("lead_intel", False), ("requirements", False)]], (
            "the neighbour's own two, and nobody else's"
        )
        _, _, honest = await mixed(replace(LURES[0], visible="\0nobody writes this"), recognised=False)
        assert grounded == [ground(finding.payload, neighbour).payload for finding in honest]
    assert not any(carried(lure, payload) for payload in grounded)


@pytest.mark.parametrize("lure", LURES, ids=lambda lure: lure.name)
async def test_what_nobody_recognises_steers_no_question_of_another_prompt_beside_it(lure: Lure):
    """INVARIANT: the wall behind the model holds for each question of a mixed call by itself, whatever kind of question the text that
    steers the model came with.
    """
    model, neighbour, findings = await mixed(lure, recognised=False)
    [call] = model.calls
    assert sorted(kind for kind, _ in call) == ["lead_intel"] * 2 + ["requirements"] * 2
    assert any(seen for _, seen in call), "the model must have seen the lure, or this proves nothing"
    for finding in findings:
        assert not carried(lure, ground(finding.payload, neighbour).payload)


CHARACTERS_A_TOKEN = 4.5
"""Of English prose, about."""


async def test_the_instructions_of_both_questions_are_long_enough_to_be_cached_by_the_provider():
    """Groq charges half for a beginning of 1,024 tokens that it has just seen, on all of its models."""
    model, _, _ = await mixed(LURES[0], recognised=False)
    [instructions] = model.instructions
    assert len(instructions) / CHARACTERS_A_TOKEN > 1_024
