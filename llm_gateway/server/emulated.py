"""A JSON schema where the model takes none: said in words, validated here, repaired once, or refused by name.

Law: what reaches the client matches its schema, or it is an `output_invalid`; so nothing is streamed before it is validated.
Both answers are paid for and accounted. The repair tells the model where it was wrong, not what it had said.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from llm_gateway import pricing
from llm_gateway.prompt import InputRefused, Outcome, OutputInvalid
from llm_gateway.question import Grant, Hit, Question, Usage
from llm_gateway.server import schema
from llm_gateway.server.call import Call
from llm_gateway.server.errors import TakenBack
from llm_gateway.server.flights import Answered
from llm_gateway.server.meter import ANALYSIS, Meter
from llm_gateway.server.schema import Checker, Mismatch

if TYPE_CHECKING:
    from llm_gateway.server.chat import Chat

_NOT_JSON = "json_validate_failed"
"""Groq's own word for an answer in JSON mode that is none."""


async def answer(chat: Chat, meter: Meter, question: Question, grant: Grant, call: Call) -> Answered:
    """The answer, held against the schema. Raises OutputInvalid, Refusal for a schema that is none, and what asking raises."""
    try:
        checker = Checker(call.asked.schema)
        body, usage = await _once(chat, meter, question, grant, call, checker, None)
    except Mismatch as first:
        if first.outcome == "REFUSED":
            raise _invalid(first) from None
        held = await chat.again(question, call.deadline)
        if isinstance(held, Hit):
            raise _invalid(first) from None
        try:
            body, usage = await _once(chat, meter, question, held, call, checker, first)
        except Mismatch as second:
            raise _invalid(second, first) from None
        except BaseException as error:
            chat.give_back(held, error)
            raise
    except BaseException as error:
        chat.give_back(grant, error)
        raise
    return Answered(body, "miss", grant.warnings, usage.model, usage.cost_usd)


async def _once(  # noqa: PLR0917 -- one attempt of `answer`, with all that it has
    chat: Chat, meter: Meter, question: Question, grant: Grant, call: Call, checker: Checker, first: Mismatch | None
) -> tuple[bytes, Usage]:
    """One answer, settled if there was one. Raises Mismatch."""
    asked = call.asked
    try:
        sent = await chat.sent(meter, grant, call, asked.passed(() if first is None else (schema.advice(first),)))
    except InputRefused as refused:
        back = refused.__cause__
        if isinstance(back, TakenBack) and back.code == _NOT_JSON:
            wrong = Mismatch("PROSE", "the provider's JSON mode got no JSON from the model")
            chat.give_back(grant, _invalid(wrong, first))
            raise wrong from None
        raise
    usage = pricing.usage_of(
        meter.upstream.name,
        sent.passed,
        sent.attempts,
        monotonic() - sent.began,
        question.line.model,
    )
    repair = first is not None
    try:
        body = schema.checked(sent.passed.body, checker)
    except Mismatch as wrong:
        told = _invalid(wrong, first) if repair or wrong.outcome == "REFUSED" else None
        meter.settle(question, grant, asked, usage, b"", whole=False, error=told, repair=repair)
        raise
    except BaseException as error:
        meter.settle(question, grant, asked, usage, b"", whole=False, error=error, repair=repair)
        raise
    meter.settle(question, grant, asked, usage, body, whole=True, repair=repair)
    return body, usage


def _invalid(wrong: Mismatch, first: Mismatch | None = None) -> OutputInvalid:
    at_first = f" (at first {first.outcome}: {first.detail})" if first is not None else ""
    outcome: Outcome = wrong.outcome
    return OutputInvalid(ANALYSIS, outcome, f"{wrong.detail}{at_first}")
