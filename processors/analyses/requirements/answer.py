"""What the model is asked to fill in for requirements.

Law: strict structured output: every property required, none beside them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ProposedRequirement(BaseModel):
    """One thing that the customer asked for, before it is checked against its source."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(description="What is asked for, in one short sentence, in the words of the quote.")
    kind: Literal["functional", "integration", "security", "budget", "timeline", "commercial", "support", "other"]
    priority: Literal["must", "should", "could"]
    quote: str = Field(description="The words that say so, copied exactly from the source, one sentence at most.")
    source: str = Field(description="The 'source' of the text that the quote is from, exactly as given.")


class ProposedContradiction(BaseModel):
    """Two statements that cannot both hold."""

    model_config = ConfigDict(extra="forbid")

    about: str = Field(description="Two to four words: what they disagree on, e.g. 'Budget'.")
    first_quote: str = Field(description="Copied exactly from first_source; the earlier one.")
    first_source: str
    second_quote: str = Field(description="Copied exactly from second_source; the later one.")
    second_source: str


class RequirementsAnswer(BaseModel):
    """The model's whole answer."""

    model_config = ConfigDict(extra="forbid")

    items: list[ProposedRequirement] = Field(description="What the customer asked for; empty when nothing was.")
    contradictions: list[ProposedContradiction]
    open_questions: list[str] = Field(
        description="At most five short questions to ask the customer, each ending in '?'."
    )
