"""What an earlier insight found in texts that still stand as they were read: it is carried on, and they are not read again.

Law: pure. Read again is every text from the first one on that is new or changed, or that bears on one that changed or went: it says
the same words, or was one side of a contradiction. So no finding moves from text to text, and what was read is older than
what is to be read. What rules read is read again, too: that costs nothing, and a model may be there now.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from llm_gateway.providers.offline import MODEL as OFFLINE_MODEL
from processors.analyses.analysis import RULES_MODEL, Context
from processors.analyses.requirements.rules import MOST_STATEMENTS, said_as
from processors.analyses.requirements.texts import MAX_TEXTS, Text
from schemas.insight import Contradiction, Requirement, Requirements

CONTEXT_TEXTS = 2
"""The newest texts that were read are shown once more, so that an answer to one of them is understood."""
CONTEXT_LENGTH = 700
LONG_LIST = MOST_STATEMENTS // 2
"""From so many wishes on some may have been left out of it: where one goes that was not just too old, all is read again."""


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

    def lists(self, quote: str, clashes: Iterable[Contradiction]) -> bool:
        """Whether these words stand there as a wish that nothing has overruled: a thread repeats its history with each e-mail."""
        said = said_as(quote)
        disputed = {side for each in clashes for side in _sides(each)}
        return any(
            said in said_as(item.quote)
            for item in self.items
            if item.status == "open" and (item.source, item.quote) not in disputed
        )

    def as_json(self) -> dict[str, Any]:
        """As a model is shown it, and what the rules read."""
        return {
            "found": [{"source": item.source, "quote": item.quote} for item in self.items],
            "contradictions": [clash.model_dump(mode="json") for clash in self.contradictions],
            "open_questions": list(self.open_questions),
            "context": [text.as_json() for text in self.context],
        }


def earlier_of(context: Context, texts: Mapping[str, Text]) -> Earlier | None:
    """None where nothing was read before, or all is to be read again. `texts`: the snapshot's, by source, oldest first."""
    previous = context.previous
    if previous is None or previous.model in {RULES_MODEL, OFFLINE_MODEL}:
        return None
    before = previous.payload
    if not isinstance(before, Requirements):
        return None
    known = _known(before, texts, context.known)
    if not known:
        return None
    clashes = [clash for clash in before.contradictions if {clash.first_source, clash.second_source} <= known]
    return Earlier(
        known=known,
        items=tuple(item for item in before.items if item.source in known),
        contradictions=tuple(clashes),
        open_questions=before.open_questions,
        context=tuple(_shown([texts[source] for source in texts if source in known])),
    )


def _known(before: Requirements, texts: Mapping[str, Text], standing: Collection[str]) -> frozenset[str]:
    """The oldest texts in a row that stand as they were, and on which nothing bears that does not."""
    gone = [item for item in before.items if item.source not in standing or item.source not in texts]
    if gone and len(before.items) >= LONG_LIST and len(texts) < MAX_TEXTS:
        return frozenset()
    lost = [said_as(item.quote) for item in gone]
    sound = {
        source
        for source, text in texts.items()
        if source in standing and not any(words in said_as(text.text) for words in lost)
    }
    while True:
        known = frozenset(takewhile(sound.__contains__, texts))
        torn = _torn(before.contradictions, known)
        if not torn:
            return known
        sound -= torn


def _torn(clashes: Iterable[Contradiction], known: Collection[str]) -> set[str]:
    """Texts of contradictions whose other side is not known."""
    sides = [(clash.first_source, clash.second_source) for clash in clashes]
    return {one for pair in sides for one, other in (pair, pair[::-1]) if one in known and other not in known}


def _sides(clash: Contradiction) -> tuple[tuple[str, str], tuple[str, str]]:
    return (clash.first_source, clash.first_quote), (clash.second_source, clash.second_quote)


def _shown(read: Sequence[Text]) -> list[Text]:
    return [replace(text, text=text.text[:CONTEXT_LENGTH]) for text in read[-CONTEXT_TEXTS:]]
