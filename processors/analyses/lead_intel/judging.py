"""Whether a small model's answer on lead intelligence will do: its factors are held against the facts that it was given.

Law: pure and lenient in form (white space, case) as grounding is; it decides who is asked, and never what is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_gateway.prompt import Judgement
from processors.analyses.facts import plain
from processors.analyses.lead_intel import rules
from processors.analyses.lead_intel.answer import LeadIntelAnswer
from processors.analyses.lead_intel.scoring import MIN_FACTORS

_ENOUGH = 3
"""Factors that the prompt asks for at least."""


def judged(answer: LeadIntelAnswer, facts: Mapping[str, Any]) -> Judgement:
    """`facts` as `view.questions` made them. Confident is who found as many reasons as
    plain rules find (three are enough), and says what to do.
    """
    values = {str(fact["field"]): plain(str(fact["value"])) for fact in facts["facts"]}
    fields = [factor.field for factor in answer.factors]
    borne_out = sum(values.get(factor.field) == plain(factor.value) for factor in answer.factors)
    grounded = borne_out / len(fields) if fields else 1.0
    wanted = min(_ENOUGH, len(rules.answer(facts).factors))
    if wanted < MIN_FACTORS:
        # Whoever answers: there is not enough to score, and our own sentences will say so.
        return Judgement(grounded, 1.0)
    distinct = len({field for field in fields if field in values})
    said = bool(answer.summary.strip()) and bool(answer.next_action.strip())
    return Judgement(grounded, min(1.0, distinct / wanted) if said else 0.0)
