"""What stands sealed in the table, and what names a question in it.

Law: pure. A question and its answer are sealed under the record's key: whoever destroys that has destroyed them. A question is
named by what its analysis reads, not by each of its words, as unchanged inputs are everywhere the reason to ask nothing anew: while
it waits our own write-backs move the record's last-modified time, and with it the day that stands in the question.
"""

from __future__ import annotations

from typing import Any

import orjson

from infra.keyring import DataKey, Undecryptable, open_sealed, seal
from llm_gateway.batch.rows import Item
from llm_gateway.cache import named
from llm_gateway.prompt import Caller, Prompt
from llm_gateway.providers.provider import Completed
from llm_gateway.question import Grant, Line, Question, Usage
from llm_gateway.render import canonical
from llm_gateway.shape import Shape

REQUEST = "llm_batch_requests.sealed_request"
ANSWER = "llm_batch_requests.sealed_answer"
_IN_NO_WINDOW = -1


def name_of(prompt: Prompt[Any], caller: Caller, line: Line, shape: Shape) -> bytes:
    """The digest that names a question that waits: 32 bytes, the same in every process. Raises TypeError when facts are not JSON-able."""
    asked = [caller.reads.hex()] if caller.reads else [prompt.user, prompt.facts]
    return named(
        caller.key,
        canonical(
            [
                *("batch", 1, caller.tenant, line.provider, line.model, caller.analysis, prompt.name, prompt.version),
                *(prompt.system, shape.digest, prompt.max_output_tokens, prompt.temperature, asked),
            ]
        ),
    )


def sealed_answer(key: DataKey, completed: Completed, usage: Usage) -> bytes:
    """An answer as its row keeps it."""
    plain = orjson.dumps(
        [
            *(completed.text, completed.model, completed.finish_reason, completed.refused),
            *(usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.cost_usd),
        ]
    )
    return seal(key, plain, purpose=ANSWER, compress=True)


def opened_answer(key: DataKey, sealed: bytes) -> tuple[Completed, Usage] | None:
    """The model's words and what they took; None when they cannot be read."""
    try:
        text, model, finish, refused, inputs, outputs, cached, cost = orjson.loads(
            open_sealed(key, sealed, purpose=ANSWER)
        )
    except (Undecryptable, ValueError):
        return None
    completed = Completed(text, model, inputs, outputs, cached, finish_reason=finish, refused=refused)
    return completed, Usage(model, inputs, outputs, cached, cost_usd=cost)


def grant_of(item: Item, line: Line) -> Grant:
    """The place that quotas hold for a question, to be settled or released by whoever has its answer."""
    question = Question(
        item.tenant, item.user, item.analysis, of_batches(line), 0, item.most_tokens, item.most_nano, lane="bulk",
        prompt=item.prompt, version=item.version,
    )  # fmt: skip
    return Grant(question, item.grant_id, "", item.day, item.month, _IN_NO_WINDOW)


def of_batches(line: Line) -> Line:
    """Batches have limits of their own at the provider: in no window of ours."""
    return Line(line.provider, "batch", line.key)
