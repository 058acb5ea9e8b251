"""What we tell people about a record: one payload type an analysis, each claim with its evidence.

Law: every claim that a person reads cites what it rests on; what could not be grounded is not in here.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from schemas.record import Message, ObjectType, RecordRef, Timestamp


class Version(NamedTuple):
    """Which of two insights is newer: compared in this order, never by arrival."""

    epoch: int
    """Epoch of `crm.records`; raised when that topic is made anew (more partitions)."""
    offset: int
    """Offset of the snapshot in `crm.records`; a record always lies on one partition."""
    generation: int
    """Raised when a prompt or model is promoted."""

    def __str__(self) -> str:
        return f"{self.epoch}.{self.offset}.{self.generation}"


class Evidence(Message):
    """A field of the record and its value, as the CRM shows it."""

    field: str
    value: str
    since: Timestamp


class Factor(Message):
    """One reason for a score."""

    label: str
    direction: Literal["up", "down"]
    weight: int = Field(ge=1, le=25)
    """Points that it adds to or takes from the score."""
    evidence: Evidence


class NextAction(Message):
    """What the rep should do next, and until when."""

    text: str
    due: date
    why: str = ""


class LeadIntel(Message):
    """Lead intelligence of a contact, lead or deal."""

    analysis: Literal["lead_intel"] = "lead_intel"
    status: Literal["scored", "not_enough_data"]
    score: int | None = Field(default=None, ge=0, le=100)
    grade: Literal["A", "B", "C", "D", "E"] | None = None
    factors: tuple[Factor, ...] = ()
    summary: str = ""
    changes: tuple[str, ...] = ()
    """What changed since the last insight, in a rep's words."""
    next_action: NextAction | None = None
    confidence: float = Field(default=0.0, ge=0, le=1)
    missing: tuple[str, ...] = ()
    """With `not_enough_data`: the fields that would help most."""


class Requirement(Message):
    """Something that the customer asked for."""

    text: str
    kind: Literal["functional", "integration", "security", "budget", "timeline", "commercial", "support", "other"]
    priority: Literal["must", "should", "could"]
    quote: str
    """Verbatim from `source`."""
    source: str
    """`note:ID`, `email:ID`, `task:ID` or `field:NAME`."""
    said_at: Timestamp
    status: Literal["open", "superseded"] = "open"


class Contradiction(Message):
    """Two statements that cannot both hold."""

    about: str
    first_quote: str
    first_source: str
    second_quote: str
    second_source: str


class Requirements(Message):
    """What the customer asked for, read from notes, e-mails and deal texts."""

    analysis: Literal["requirements"] = "requirements"
    items: tuple[Requirement, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()
    open_questions: tuple[str, ...] = ()
    summary: str = ""


class Defect(Message):
    """One thing that is wrong with a record's data."""

    field: str
    kind: Literal["missing", "malformed", "misspelt", "contradictory", "stale"]
    severity: Literal["high", "medium", "low"]
    message: str
    value: str | None = None
    proposed: str | None = None
    other_field: str | None = None
    """For `contradictory`: the field that disagrees."""


class Duplicate(Message):
    """Another record that is likely the same person or company."""

    id: str
    probability: float = Field(ge=0, le=1)
    evidence: tuple[str, ...]
    """Such as `same e-mail`, `name 0.94 alike`; no value of the other record."""


class DataQuality(Message):
    """Missing, malformed, misspelt, contradictory and stale fields, and likely duplicates."""

    analysis: Literal["data_quality"] = "data_quality"
    health: int = Field(ge=0, le=100)
    """100: nothing found."""
    defects: tuple[Defect, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()
    summary: str = ""


Payload = Annotated[LeadIntel | Requirements | DataQuality, Field(discriminator="analysis")]


class Usage(Message):
    """What the answer cost."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    cached: bool = False


class Insight(Message):
    """Topic `crm.insights`, compacted: the newest insight per record and analysis."""

    tenant: str
    account: str
    object: ObjectType
    id: str
    crm: str
    analysis: str
    version: Version
    as_of: Timestamp
    """The record's last-modified time in the snapshot that it was made from."""
    analyzed_at: Timestamp
    model: str
    """The model that answered; `offline-rules` for the offline provider, `rules` where no model was asked."""
    prompt_version: str = ""
    payload: Payload | None = None
    retracted: bool = False
    """The record is gone: destinations drop what they show of it."""
    dropped_claims: int = 0
    """Claims that cited what is not in the snapshot."""
    usage: Usage = Usage()

    @property
    def ref(self) -> RecordRef:
        """The record's identity."""
        return RecordRef(self.tenant, self.account, self.object, self.id)
