"""What the model is asked to fill in for lead intelligence; the score is not among it.

Law: strict structured output: every property required, none beside them, no bounds that a vendor's schema dialect lacks.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ProposedFactor(BaseModel):
    """One reason, before it is checked against the record."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field(description="Two to five words for a sales rep, without numbers, e.g. 'Decision maker'.")
    direction: Literal["up", "down"] = Field(description="'up' when it makes a sale likelier, else 'down'.")
    weight: int = Field(description="1 (a hint) to 25 (decisive).")
    field: str = Field(description="The 'field' of the fact that shows it, exactly as given.")
    value: str = Field(description="The 'value' of that fact, exactly as given.")


class LeadIntelAnswer(BaseModel):
    """The model's whole answer."""

    model_config = ConfigDict(extra="forbid")

    factors: list[ProposedFactor] = Field(description="The three to eight facts that matter most, strongest first.")
    summary: str = Field(description="Two plain sentences on who this is and where it stands, from the facts alone.")
    next_action: str = Field(description="One sentence that starts with a verb: what the rep should do next.")
    next_action_why: str = Field(description="Half a sentence: why that, from the facts alone.")
    due_in_business_days: int = Field(description="In how many business days it should be done, 0 to 60.")
