"""Whether a small model's answer on requirements will do: its quotes are held against the texts that it was given.

Law: pure and lenient in form (white space, case) as grounding is; it decides who is asked, and never what is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_gateway.prompt import Judgement
from processors.analyses.facts import plain
from processors.analyses.requirements import rules
from processors.analyses.requirements.answer import RequirementsAnswer


def judged(answer: RequirementsAnswer, facts: Mapping[str, Any]) -> Judgement:
    """Confident is who found at least as many wishes as plain rules find in the same texts."""
    texts = {str(text["source"]): plain(f"{text['subject']} {text['text']}") for text in facts["texts"]}
    for found in facts.get("earlier", {}).get("found", ()):
        # A contradiction may cite what was found before.
        texts[found["source"]] = f"{texts.get(found['source'], '')}\n{plain(found['quote'])}"
    quotes = [(item.source, item.quote) for item in answer.items]
    for clash in answer.contradictions:
        quotes += [(clash.first_source, clash.first_quote), (clash.second_source, clash.second_quote)]
    borne_out = sum(bool(quote.strip()) and plain(quote) in texts.get(source, "") for source, quote in quotes)
    known = len(rules.answer(facts).items)
    return Judgement(borne_out / len(quotes) if quotes else 1.0, min(1.0, len(answer.items) / known) if known else 1.0)
