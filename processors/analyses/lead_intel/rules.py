"""Lead intelligence without a model: what the offline provider answers with.

Law: the same question, the same answer shape and the same grounding as for a model; nothing random, nothing hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from processors.analyses.feedback import doubts
from processors.analyses.lead_intel.answer import LeadIntelAnswer, ProposedFactor
from processors.analyses.lead_intel.opinions import opinion
from processors.analyses.lead_intel.scoring import NEVER_CITED
from processors.analyses.lead_intel.view import View, advice_of, summary_of

MOST_FACTORS = 8


def answer(facts: Mapping[str, Any]) -> LeadIntelAnswer:
    """Judge by `opinions` and say it in the sentences of `view`."""
    view = View.of(facts)
    found: list[ProposedFactor] = []
    labels: set[str] = set()
    for fact in facts["facts"]:
        concept, value = fact["concept"], fact["value"]
        if concept in NEVER_CITED or doubts(facts.get("feedback", {}), value):
            continue
        judged = opinion(concept, value, crm=view.crm, on=view.as_of, object=view.object, over=view.over is not None)
        # Two fields may say the same (phone and mobile, last contact and last activity): it counts once.
        if judged and judged.label not in labels:
            labels.add(judged.label)
            found.append(
                ProposedFactor(
                    label=judged.label,
                    direction=judged.direction,
                    weight=judged.weight,
                    field=fact["field"],
                    value=value,
                )
            )
    found.sort(key=lambda factor: (-factor.weight, factor.field))
    advice = advice_of(view)
    return LeadIntelAnswer(
        factors=found[:MOST_FACTORS],
        summary=summary_of(view, found[:MOST_FACTORS]),
        next_action=advice.text,
        next_action_why=advice.why,
        due_in_business_days=advice.days,
    )
