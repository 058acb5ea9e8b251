"""What an earlier insight found in texts that still stand as they were read: it is carried on, and they are not read again.

Law: pure. What rested on a text that is gone or was changed goes with it, unless another text that was read says the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from processors.analyses.analysis import Context
from processors.analyses.facts import plain
from processors.analyses.requirements.texts import Text
from schemas.insight import Contradiction, Requirement, Requirements

CONTEXT_TEXTS = 2
"""The newest texts that were read are shown once more, so that an answer to one of them is understood."""
CONTEXT_LENGTH = 700


@dataclass(frozen=True, slots=True)
class Earlier:
    """What stands of the last insight."""

    known: frozenset[str]
    """Sources of the texts that were read."""
    items: tuple[Requirement, ...]
    contradictions: tuple[Contradiction, ...]
    open_questions: tuple[str, ...]
    context: tuple[Text, ...]

    def unread(self, texts: Iterable[Text]) -> list[Text]:
        """Those that are to be read."""
        return [text for text in texts if text.source not in self.known]

    def as_json(self) -> dict[str, Any]:
        """As a model is shown it, and what the rules read."""
        return {
            "found": [{"source": item.source, "quote": item.quote} for item in self.items],
            "contradictions": [clash.model_dump(mode="json") for clash in self.contradictions],
            "open_questions": list(self.open_questions),
            "context": [text.as_json() for text in self.context],
        }


def earlier_of(context: Context, texts: Mapping[str, Text]) -> Earlier | None:
    """None where nothing was read before, or not as it is now. `texts`: the snapshot's, by source, oldest first."""
    before = context.previous.payload if context.previous else None
    known = context.known & texts.keys()
    if not known or not isinstance(before, Requirements):
        return None
    read = [texts[source] for source in texts if source in known]
    words = [(text.source, plain(f"{text.subject} {text.text}")) for text in read]

    def stands(source: str, quote: str) -> str | None:
        """The text that says it now."""
        if source in known:
            return source
        said = plain(quote)
        return next((other for other, text in words if said and said in text), None)

    items = [item for item in before.items if item.source in known]
    told = [plain(item.quote) for item in items]
    for item in before.items:
        if item.source not in known and not any(plain(item.quote) in quote for quote in told):
            source = stands(item.source, item.quote)
            items += [item.model_copy(update={"source": source, "said_at": texts[source].at})] if source else []
    clashes = [
        clash.model_copy(update={"first_source": first, "second_source": second})
        for clash in before.contradictions
        if (first := stands(clash.first_source, clash.first_quote)) is not None
        and (second := stands(clash.second_source, clash.second_quote)) is not None
    ]
    return Earlier(known, tuple(items), tuple(clashes), before.open_questions, tuple(_shown(read)))


def _shown(read: Sequence[Text]) -> list[Text]:
    return [replace(text, text=text.text[:CONTEXT_LENGTH]) for text in read[-CONTEXT_TEXTS:]]
