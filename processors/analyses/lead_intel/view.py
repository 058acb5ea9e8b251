"""What lead intelligence knows about a record, from the facts it asks with; and the sentences that rest on nothing else.

Law: only presentable values enter a sentence; every sentence is a function of the facts, so that it needs no checking.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Protocol

from processors.analyses.facts import day, facts_of, filled, label_of, number
from processors.analyses.feedback import feedback_of
from processors.analyses.lead_intel.opinions import closed
from processors.analyses.lead_intel.scoring import READS, important
from processors.analyses.suspicion import presentable
from schemas.record import Note, RecordSnapshot

RECENT_TEXTS = 6
"""Notes and e-mails that the model gets to see, newest first."""
TEXT_LENGTH = 700


class Reason(Protocol):
    """A factor, proposed or grounded."""

    @property
    def label(self) -> str:
        """In a few words."""
        ...

    @property
    def direction(self) -> str:
        """`up` or `down`."""
        ...

    @property
    def weight(self) -> int:
        """Points."""
        ...


def is_incoming(note: Note) -> bool:
    """Whether the customer wrote it."""
    return note.kind == "email" and (note.author or "").casefold().startswith("incoming")


def newest_first(notes: Sequence[Note]) -> list[Note]:
    """By time; of the same moment, in one order whatever the CRM's."""
    return sorted(notes, key=lambda note: (note.at, note.id), reverse=True)


def questions(snapshot: RecordSnapshot) -> dict[str, Any]:
    """The facts that lead intelligence asks with, JSON-able; the same snapshot gives the same bytes."""
    read = facts_of(snapshot, READS.get(snapshot.object, READS["contact"]))
    notes = newest_first(snapshot.notes)
    feedback = feedback_of(snapshot)
    return {
        "object": snapshot.object,
        "crm": snapshot.crm,
        "as_of": snapshot.modified_at.date().isoformat(),
        "facts": [fact.as_json() for fact in read.values()],
        "empty": [label_of(concept) for concept in important(snapshot) if concept not in read],
        "conversation": {
            "texts": len(notes),
            "last_at": notes[0].at.date().isoformat() if notes else None,
            "last_kind": notes[0].kind if notes else None,
            "customer_wrote_last": bool(notes) and is_incoming(notes[0]),
            "recent": [
                {
                    "kind": n.kind,
                    "at": n.at.date().isoformat(),
                    "subject": n.subject or "",
                    "text": n.text[:TEXT_LENGTH],
                }
                for n in notes[:RECENT_TEXTS]
            ],
        },
        **({"feedback": feedback} if feedback else {}),
    }


@dataclass(frozen=True, slots=True)
class View:
    """The facts, ready to speak about."""

    object: str
    crm: str
    as_of: date
    values: Mapping[str, str]
    """All filled ones, by concept."""
    empty: tuple[str, ...]
    customer_wrote_last: bool
    last_at: date | None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> View:
        """Read what `questions` made."""
        talk = facts["conversation"]
        return cls(
            object=facts["object"],
            crm=facts["crm"],
            as_of=date.fromisoformat(facts["as_of"]),
            values={fact["concept"]: fact["value"] for fact in facts["facts"]},
            empty=tuple(facts["empty"]),
            customer_wrote_last=talk["customer_wrote_last"],
            last_at=day(talk["last_at"]),
        )

    @classmethod
    def on(cls, snapshot: RecordSnapshot) -> View:
        """What `of(questions(snapshot))` is, without the writing and reading of what a model is shown."""
        values = filled(snapshot, READS.get(snapshot.object, READS["contact"]))
        latest = max(snapshot.notes, key=lambda note: (note.at, note.id), default=None)
        return cls(
            object=snapshot.object,
            crm=snapshot.crm,
            as_of=snapshot.modified_at.date(),
            values=values,
            empty=tuple(label_of(concept) for concept in important(snapshot) if concept not in values),
            customer_wrote_last=latest is not None and is_incoming(latest),
            last_at=latest.at.date() if latest else None,
        )

    def shown(self, concept: str) -> str | None:
        """A value that may stand in a sentence."""
        value = self.values.get(concept)
        return " ".join(value.split()) if value and presentable(concept, value) else None

    @property
    def name(self) -> str | None:
        """A person's or a deal's name."""
        if self.object == "deal":
            return self.shown("deal_name")
        parts = [self.shown("first_name"), self.shown("last_name")]
        name = " ".join(part for part in parts if part) or self.shown("full_name") or ""
        return name if re.fullmatch(r"[^\W\d_][\w'’.\- ]{0,60}", name) else None

    @property
    def over(self) -> str | None:
        """`won` or `lost` when its stage or status says that it has ended."""
        return closed(self.values.get("deal_stage") or self.values.get("lead_status"))


_STAGES = {
    "appointmentscheduled": "Appointment scheduled",
    "qualifiedtobuy": "Qualified to buy",
    "presentationscheduled": "Presentation scheduled",
    "decisionmakerboughtin": "Decision maker bought in",
    "contractsent": "Contract sent",
    "closedwon": "Closed won",
    "closedlost": "Closed lost",
    "marketingqualifiedlead": "Marketing qualified lead",
    "salesqualifiedlead": "Sales qualified lead",
}


def _readable(value: str) -> str:
    return _STAGES.get(value, value.replace("_", " ").capitalize() if value.isupper() and "_" in value else value)


def _money(view: View) -> str | None:
    amount = number(view.values.get("amount"))
    if amount is None:
        return None
    currency = view.shown("currency")
    return f"{amount:,.0f}" + (f" {currency}" if currency and re.fullmatch(r"[A-Z]{3}", currency) else "")


def summary_of(view: View, factors: Iterable[Reason]) -> str:
    """Who or what this is, where it stands, what speaks for and against it: two or three sentences."""
    return " ".join(
        part for part in (_deal(view) if view.object == "deal" else _person(view), _balance(factors)) if part
    )


def _deal(view: View) -> str:
    stage, close = view.shown("deal_stage"), day(view.values.get("close_date"))
    parts = [
        f"{view.name or 'This deal'} is in stage {_readable(stage)}"
        if stage
        else f"{view.name or 'This deal'} has no stage"
    ]
    if money := _money(view):
        parts.append(f"worth {money}")
    if close and not view.over:
        parts.append(f"{'was to close' if close < view.as_of else 'expected to close'} on {close.isoformat()}")
    return ", ".join(parts) + "."


def _person(view: View) -> str:
    title, company = view.shown("job_title"), view.shown("company_name")
    place = ", ".join(p for p in (view.shown("city"), view.shown("country")) if p)
    role = f"{title} at {company}" if title and company else title or (f"at {company}" if company else "")
    head = (view.name or f"This {view.object}") + (f", {role}" if role else "") + (f" ({place})" if place else "")
    state = view.shown("lifecycle_stage") or view.shown("lead_status")
    return f"{head}{f'; stage: {_readable(state)}' if state else ''}."


def _balance(factors: Iterable[Reason]) -> str:
    ordered = sorted(factors, key=lambda f: -f.weight)
    good = [f.label[:1].lower() + f.label[1:] for f in ordered if f.direction == "up"][:2]
    bad = [f.label[:1].lower() + f.label[1:] for f in ordered if f.direction == "down"][:2]
    parts = ([f"For it: {', '.join(good)}."] if good else []) + ([f"Against it: {', '.join(bad)}."] if bad else [])
    return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Advice:
    """A next action in words of ours."""

    text: str
    why: str
    days: int
    """Business days until it is due."""


def advice_of(view: View) -> Advice:
    """The next best action that the facts alone suggest."""
    return _deal_advice(view) if view.object == "deal" else _person_advice(view)


_BY_STAGE: tuple[tuple[str, Advice], ...] = (
    ("contract", Advice("Call the customer about the open points of the contract", "the contract is with them", 1)),
    ("negotia", Advice("Settle the open points and ask for the decision", "the deal is in negotiation", 1)),
    ("proposal", Advice("Follow up on the quote and ask for feedback", "the quote is with the customer", 2)),
    ("quote", Advice("Follow up on the quote and ask for feedback", "the quote is with the customer", 2)),
    ("boughtin", Advice("Send the contract", "the decision maker is convinced", 2)),
    ("perception", Advice("Ask what still speaks against us", "the customer is weighing it", 2)),
    ("decisionmakers", Advice("Ask who decides and get a meeting with them", "the decision makers are being found", 3)),
    ("valueprop", Advice("Send a reference and the expected savings", "the value is being shown", 3)),
    ("presentation", Advice("Prepare the presentation and confirm who takes part", "a presentation is set", 2)),
    ("demo", Advice("Prepare the demo and confirm who takes part", "a demo is set", 2)),
    (
        "needs",
        Advice(
            "Go through the needs with the customer and confirm them in writing", "the needs are being worked out", 3
        ),
    ),
    ("qualif", Advice("Book a presentation with the decision maker", "the deal is being qualified", 3)),
    (
        "appointment",
        Advice("Prepare the first meeting: need, budget, decision maker, timeline", "a first meeting is set", 2),
    ),
)


def _deal_advice(view: View) -> Advice:  # noqa: PLR0911 - one line a situation, the most pressing first
    stage = re.sub(r"[^a-z]", "", (view.values.get("deal_stage") or "").casefold())
    close = day(view.values.get("close_date"))
    if view.over == "won":
        return Advice("Hand over to onboarding and ask for a reference", "the deal is won", 3)
    if view.over == "lost":
        return Advice("Note why it was lost and set a date to check back", "the deal is lost", 5)
    if view.customer_wrote_last:
        return Advice("Answer the customer's latest e-mail", "the customer wrote last", 1)
    if close and close < view.as_of:
        return Advice("Agree a new close date with the customer and update the deal", "the close date has passed", 1)
    found = next((advice for word, advice in _BY_STAGE if word in stage), None)
    if found:
        return found
    if not view.values.get("amount"):
        return Advice("Ask for the budget and fill in the amount", "the amount is empty", 3)
    return Advice("Qualify need, budget, decision maker and timeline", "the deal is at its beginning", 3)


def _person_advice(view: View) -> Advice:  # noqa: PLR0911 - one line a situation, the most pressing first
    who = view.name or f"the {view.object}"
    status = re.sub(r"[^a-z]", "", (view.values.get("lead_status") or "").casefold())
    stage = re.sub(r"[^a-z]", "", (view.values.get("lifecycle_stage") or "").casefold())
    reach = view.values.get("phone") or view.values.get("mobile_phone")
    if status in {"unqualified", "closednotconverted"}:
        return Advice("Leave it to nurturing and look again next quarter", "it is not qualified", 60)
    if view.customer_wrote_last:
        return Advice(f"Answer the latest e-mail of {who}", "the customer wrote last", 1)
    if not reach and not view.values.get("email"):
        return Advice(f"Find a phone number or an e-mail address of {who}", "there is no way to reach them", 2)
    if status == "badtiming":
        return Advice(f"Ask {who} when the timing is better", "the timing is bad", 20)
    if stage == "customer":
        return Advice(f"Check in with {who} and ask for further needs", "they are a customer", 10)
    if status == "opendeal" or stage == "opportunity":
        return Advice(f"Agree the next step of the open deal with {who}", "there is an open deal", 2)
    by = "Call" if reach else "Write to"
    if status in {"new", "opennotcontacted"}:
        return Advice(f"{by} {who} to qualify need, budget and timeline", "nobody has been in touch yet", 1)
    if status in {"connected", "workingcontacted", "inprogress", "open"} or stage == "salesqualifiedlead":
        return Advice(f"Book a meeting with {who}", "the conversation is under way", 2)
    if status == "attemptedtocontact":
        return Advice(
            f"Try {who} again by {'e-mail' if view.values.get('email') else 'phone'}", "they were not reached yet", 2
        )
    return Advice(f"{by} {who} to qualify need, budget and timeline", "they have not been qualified yet", 3)


def business_day(start: date, days: int) -> date:
    """The business day (Monday to Friday) that lies `days` business days after `start`; 0 is today or the next Monday."""
    due = start
    while due.weekday() >= 5:
        due += timedelta(days=1)
    for _ in range(max(0, min(days, 60))):
        due += timedelta(days=3 if due.weekday() == 4 else 1)
    return due
