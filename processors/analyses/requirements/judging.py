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
    """Confident is who found at least as many wishes as plain rules find in the same texts; wishes of texts that were not to be
    read are none.
    """
    earlier = facts.get("earlier", {})
    new = {str(text["source"]): plain(f"{text['subject']} {text['text']}") for text in facts["texts"]}
    # A contradiction may cite what was found before.
    known = {str(text["source"]): plain(f"{text['subject']} {text['text']}") for text in earlier.get("context", ())}
    for found in earlier.get("found", ()):
        known[found["source"]] = f"{known.get(found['source'], '')}\n{plain(found['quote'])}"
    shown = known | new

    def stands(quote: str, text: str) -> bool:
        return bool(quote.strip()) and plain(quote) in text

    items = [stands(item.quote, new.get(item.source, "")) for item in answer.items]
    cited = [
        stands(quote, shown.get(source, ""))
        for clash in answer.contradictions
        for source, quote in ((clash.first_source, clash.first_quote), (clash.second_source, clash.second_quote))
    ]
    claims = [*items, *cited]
    wanted = len(rules.answer(facts).items)
    read = sum(item.source in new for item in answer.items)
    return Judgement(sum(claims) / len(claims) if claims else 1.0, min(1.0, read / wanted) if wanted else 1.0)
