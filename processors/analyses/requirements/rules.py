"""Requirements without a model: sentences that ask for something, by the words that customers use, English and German.

Law: pure; every requirement quotes its sentence verbatim.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from processors.analyses.facts import number
from processors.analyses.requirements.answer import ProposedContradiction, ProposedRequirement, RequirementsAnswer
from processors.analyses.requirements.texts import sentences
from processors.analyses.suspicion import addresses_machine, machine_text

MOST_STATEMENTS = 30
"""The newest that are told of at once."""
Kind = Literal["functional", "integration", "security", "budget", "timeline", "commercial", "support", "other"]
Priority = Literal["must", "should", "could"]

_I = re.IGNORECASE
_MUST = re.compile(
    r"\b(must|have to|has to|required?|requirement|requires?|mandatory|essential|critical|need(s|ed)?|cannot|can't|can not|won't|deal.?breaker|no go|non-negotiable|at the latest|"
    r"mandatory|muss|müssen|brauchen|benötig\w+|zwingend|erforderlich|unbedingt|spätestens|voraussetzung)\b",
    _I,
)
_SHOULD = re.compile(
    r"\b(should|want(s|ed)?|would like|expect(s|ed)?|looking for|asked (for|about|whether|if)|prefer(s|red)?|important|plan(s|ning)? to|request(s|ed)?|wish(es)?|interested in|"
    r"hoping|soll(te|en|ten)?|möchten?|wollen|will|wünsch\w+|erwarte\w*|bevorzug\w+|wichtig|suchen|interessier\w+)\b",
    _I,
)
_COULD = re.compile(
    r"\b(nice to have|could|optional(ly)?|ideally|would be (nice|great|good|helpful)|maybe|perhaps|later on|bonus|"
    r"schön wäre|wäre (schön|gut|toll)|könnten?|optional|idealerweise|vielleicht|später)\b",
    _I,
)
_NEGATED = re.compile(
    r"\b(must not|may not|mustn't|cannot|can't|can not|not allowed|no longer|don't (need|want)|do not (need|want)|doesn't need|does not need|not (needed|required|necessary|interested)|"
    r"without|never|dropped|darf nicht|dürfen nicht|nicht (nötig|erforderlich|mehr)|brauchen (kein|nicht)\w*|kein(e|en)?)\b|^\s*no\b",
    _I,
)
_WITHDRAWN = re.compile(
    r"\b(no longer|don't need|do not need|doesn't need|does not need|not (needed|required|necessary|interested)|dropped|nicht mehr|brauchen (kein|nicht)\w*|nicht (nötig|erforderlich))\b",
    _I,
)
_MONEY = re.compile(
    r"(?:(?P<sign>[€$£])|(?P<code>\b(?:EUR|USD|GBP|CHF)))\s?(?P<a>\d[\d.,' ]*\d|\d)\s?(?P<ka>k|m|mio|million|thousand|tsd)?\b"
    r"|(?<![\w.,])(?P<b>\d[\d.,' ]*\d|\d)\s?(?P<kb>k|m|mio\.?|million|thousand|tsd\.?)?\s?(?P<unit>€|\$|£|EUR\b|USD\b|GBP\b|CHF\b|euros?\b|dollars?\b|pounds?\b|franken\b)"
    r"|\bbudget\w*\D{0,40}?(?P<c>\d[\d.,' ]*\d)\s?(?P<kc>k|m|mio|million|thousand|tsd)?\b",
    _I,
)
_MONTHS = "jan(?:uary|uar)?|feb(?:ruary|ruar)?|mar(?:ch)?|märz|apr(?:il)?|may|mai|jun[ei]?|jul[yi]?|aug(?:ust)?|sep(?:t|tember)?|o[ck]t(?:ober)?|nov(?:ember)?|de[cz](?:ember)?"
_DATE = re.compile(
    rf"\b\d{{4}}-\d{{2}}-\d{{2}}\b|\b\d{{1,2}}[./]\d{{1,2}}[./]\d{{2,4}}\b|\b(?:\d{{1,2}}(?:st|nd|rd|th)?\.?\s+)?(?:of\s+)?(?:{_MONTHS})\b\.?(?:\s+\d{{1,2}}(?:st|nd|rd|th)?\b)?(?:,?\s+\d{{4}}\b)?|"
    r"\bq[1-4](?:\s*/?\s*\d{2,4})?\b|\b(?:end|beginning|start|middle|ende|anfang|mitte) (?:of )?(?:the |des |der )?(?:month|quarter|year|week|monats?|quartals?|jahres?)\b|"
    r"\b(?:next|this|nächste[nsr]?|diese[nsrm]?) (?:week|month|quarter|year|summer|spring|autumn|fall|winter|woche|monat|quartal|jahr)\b|\bin \d+ (?:days|weeks|months|tagen|wochen|monaten)\b",
    _I,
)
_TIMELINE = re.compile(
    r"\b(go.?live|live by|launch|deadline|roll.?out|start(s|ed|ing)?|by the|until|before|deliver\w*|implement\w*|migrat\w*|ready|decision|decide|in place|sign|by|ab|bis|termin|einführung|entscheid\w*|start)\b",
    _I,
)
_BUDGET = re.compile(
    r"\b(budget\w*|spend|price (limit|cap)|at most|no more than|ceiling|maximal|höchstens|kostenrahmen|preisgrenze)\b",
    _I,
)
_KINDS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    (
        "security",
        re.compile(
            r"\b(sso|single sign.?on|saml|oidc|oauth|mfa|2fa|two.factor|encrypt\w*|gdpr|dsgvo|soc ?2|iso ?27001|hipaa|pen(etration)? test|audit (log|trail)s?|data residency|"
            r"hosted in|hosting in|data protection|datenschutz|verschlüssel\w*|security|sicherheit\w*|compliance|permissions?|role.based|eu.hosting|data cent(er|re)|rechenzentrum|on.?prem\w*|cloud)\b",
            _I,
        ),
    ),
    (
        "integration",
        re.compile(
            r"\b(integrat\w*|api|connect(s|or|ors|ion)?|sync\w*|(?<!user )interface|schnittstelle\w*|anbind\w*|sap|erp|salesforce|hubspot|dynamics|netsuite|datev|slack|teams|jira|webhook\w*|import|export|"
            r"csv|single source|active directory|azure ad|okta|snowflake|power ?bi|tableau|oracle|workday|shopify|zendesk)\b",
            _I,
        ),
    ),
    (
        "support",
        re.compile(
            r"\b(support|sla|24/7|help ?desk|training\w*|onboarding|schulung\w*|documentation|account manager|response time|reaktionszeit|hotline|betreuung)\b",
            _I,
        ),
    ),
    (
        "commercial",
        re.compile(
            r"\b(discount|rabatt|payment terms?|zahlungs\w+|contract|vertrag\w*|licen[cs]e\w*|lizenz\w*|per (user|seat)|pro (nutzer|benutzer)|invoice|rechnung|trial|pilot|proof of concept|poc|"
            r"term|laufzeit|renewal|cancel\w*|kündig\w*|monthly|annual(ly)?|quote|angebot|pricing|nda|references?|referenz\w*)\b",
            _I,
        ),
    ),
)
_FUNCTIONAL = re.compile(
    r"\b(dashboard\w*|user interface|benutzeroberfläche|report\w*|mobile|offline|app|search|workflow\w*|automat\w*|users?|seats?|alert\w*|notif\w*|multi.?lingual|language|bulk|upload|approval\w*|feature\w*|function\w*|"
    r"track\w*|scan\w*|forecast\w*|template\w*|real.?time|languages|benutzer|nutzer|berichte?|auswertung\w*|funktion\w*|echtzeit)\b",
    _I,
)
_JOINT = re.compile(r";\s+|,\s+(?:and|but|und|aber)\s+", _I)
_SMALL_TALK = re.compile(
    r"\b(thank|thanks|danke|let me know|looking forward|kind regards|best regards|call me|have a (nice|great)|hope (you|this)|vielen dank|mit freundlichen|freue mich|attached|anbei|"
    r"need to (talk|call|check|follow|send|think)|have to (check|talk|call)|wanted to (say|check|let)|i will|i'll|we'll send|will send|sent (the|them)|left (a )?voicemail)\b",
    _I,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence that asks for something, or limits it."""

    kind: Kind
    priority: Priority
    quote: str
    source: str
    negated: bool
    amount: float | None
    when: str | None


def money(sentence: str) -> float | None:
    """The first amount of money in a sentence, `k` and `million` worked in; None without one."""
    match = _MONEY.search(sentence)
    if match is None:
        return None
    value = number(match["a"] or match["b"] or match["c"])
    unit = (match["ka"] or match["kb"] or match["kc"] or "").casefold().rstrip(".")
    if value is None:
        return None
    return value * (1_000 if unit in {"k", "thousand", "tsd"} else 1_000_000 if unit in {"m", "mio", "million"} else 1)


def _when(sentence: str) -> str | None:
    match = _DATE.search(sentence)
    return re.sub(r"\W+", " ", match.group().casefold()).strip() if match else None


def statement(sentence: str, source: str) -> Statement | None:
    """What a sentence asks for; None for a sentence that asks for nothing."""
    must, should, could = _MUST.search(sentence), _SHOULD.search(sentence), _COULD.search(sentence)
    negated = _NEGATED.search(sentence) is not None
    amount, when = money(sentence), _when(sentence)
    kind: Kind | None = None
    if amount is not None and (
        _BUDGET.search(sentence)
        or must
        or should
        or re.search(r"\b(up to|about|around|roughly|approved|available|bis zu|rund|etwa)\b", sentence, _I)
    ):
        kind = "budget"
    elif when and _TIMELINE.search(sentence):
        kind = "timeline"
    else:
        kind = next((name for name, pattern in _KINDS if pattern.search(sentence)), None)
        if kind is None and _FUNCTIONAL.search(sentence):
            kind = "functional"
        if not (must or should or could or negated):
            return None
        if kind is None and not (must or re.search(r"\b(looking for|want|would like|möchten|suchen)\b", sentence, _I)):
            return None
    if _SMALL_TALK.search(sentence) and (kind is None or not (must or when or amount)):
        return None
    if sentence.rstrip().endswith("?") and not (must or amount):
        return None
    priority: Priority = "could" if could and not (must and not should) else "must" if must else "should"
    return Statement(kind or "other", priority, sentence, source, negated, amount, when)


def _clauses(sentence: str, source: str) -> list[str]:
    """The halves of a sentence that asks for two things, each verbatim; else the sentence."""
    parts = [part.strip() for part in _JOINT.split(sentence)]
    whole = len(parts) > 1 and all(len(part) >= 12 and statement(part, source) for part in parts)
    return parts if whole else [sentence]


def _phrase(found: Statement) -> str:
    text = re.sub(
        r"^(?:and|but|also|so|then|und|aber|auch|ausserdem|außerdem)[,:]?\s+", "", found.quote.strip(), flags=_I
    )
    text = text[:1].upper() + text[1:]
    return text if len(text) <= 160 else text[:157].rsplit(" ", 1)[0] + " …"


_STOP_TEXT = """
    the and for with from that this our we you they must have need needs should would like want not no any can
    could will be is are was to of in on at it by a an as or also all i wir ihr sie die der das den dem ein eine
    und mit von für auf ist sind nicht kein keine muss müssen soll sollte auch zu im am may cannot dont don't
    longer require required requires without allowed do does please but only more must-have brauchen benötigen
    möchten
"""
_STOP = frozenset(_STOP_TEXT.split())


def _topic(sentence: str) -> frozenset[str]:
    words = re.findall(r"[^\W\d_][\w-]+", sentence.casefold())
    return frozenset(re.sub(r"(ing|ed|s)$", "", word) for word in words if word not in _STOP and len(word) > 2)


def contradictions(statements: Iterable[Statement], known: int = 0) -> list[ProposedContradiction]:
    """Two budgets, two dates for one thing, or must against must-not; the earlier statement first. What the first `known` of them
    say of each other is not told.
    """
    found: list[ProposedContradiction] = []
    seen = list(statements)
    for i, first in enumerate(seen):
        for j, second in enumerate(seen[i + 1 :], i + 1):
            about = _disagree(first, second)
            if about and j < known:
                break
            if about and len(found) < 8:
                found.append(
                    ProposedContradiction(
                        about=about,
                        first_quote=first.quote,
                        first_source=first.source,
                        second_quote=second.quote,
                        second_source=second.source,
                    )
                )
                break  # what follows disagrees with the later one, and is told there
    return found


def _disagree(first: Statement, second: Statement) -> str | None:
    common = _topic(first.quote) & _topic(second.quote)
    if first.kind == second.kind == "budget" and first.amount and second.amount and first.amount != second.amount:
        both = _BUDGET.search(first.quote) and _BUDGET.search(second.quote)
        return "Budget" if both or common - {"euro", "eur", "usd", "dollar"} else None
    if first.kind == second.kind == "timeline" and first.when and second.when and first.when != second.when:
        anchored = common & {
            "live",
            "go-live",
            "launch",
            "deadline",
            "rollout",
            "roll-out",
            "start",
            "decision",
            "decide",
            "sign",
            "deliver",
            "delivery",
            "ready",
            "termin",
            "einführung",
            "migration",
        }
        return "Timeline" if anchored else None
    if first.negated != second.negated and first.kind not in {"budget", "timeline"}:
        shorter = min(len(_topic(first.quote)), len(_topic(second.quote))) or 1
        if common and (len(common) >= 2 or len(common) / shorter >= 0.3) and first.kind == second.kind:
            return first.kind.capitalize()
    return None


def _questions(statements: list[Statement], clashes: list[ProposedContradiction]) -> list[str]:
    asked: list[str] = []
    for clash in clashes:
        question = {
            "Budget": "Which budget holds now?",
            "Timeline": "Which date holds now?",
        }.get(clash.about, f"Two statements disagree ({clash.about.casefold()}): which one holds now?")
        if question not in asked:
            asked.append(question)
    kinds = {s.kind for s in statements}
    if statements:
        if "budget" not in kinds:
            asked.append("What budget is set aside for this?")
        if "timeline" not in kinds:
            asked.append("By when does it have to be in place?")
        if not any(
            re.search(r"\b(decision|decide|approve|sign.?off|cfo|ceo|board|entscheid)", s.quote, _I) for s in statements
        ):
            asked.append("Who decides, and who else has to agree?")
        if "integration" in kinds:
            asked.append("Which systems and versions have to be connected?")
        if "security" in kinds:
            asked.append("Who on your side checks security and data protection?")
    return asked[:5]


def _known(earlier: Mapping[str, Any]) -> list[Statement]:
    """What was found before (`earlier.Earlier.as_json`), as statements in the order in which they were made."""
    said = [(each["source"], each["quote"]) for each in earlier.get("found", ())]
    for clash in _clashes(earlier):
        # A withdrawal stands in a contradiction alone; the earlier statement is the first.
        first, second = (clash.first_source, clash.first_quote), (clash.second_source, clash.second_quote)
        if first not in said:
            said.insert(said.index(second) if second in said else len(said), first)
        if second not in said:
            said.insert(said.index(first) + 1, second)
    found = [statement(quote, source) for source, quote in said]
    return [each for each in found if each is not None]


def said_as(text: str) -> str:
    """Words alone: what is left of a sentence when it is said twice."""
    return re.sub(r"\W+", " ", text.casefold()).strip()


def answer(facts: Mapping[str, Any]) -> RequirementsAnswer:
    """Read every text sentence by sentence, oldest first; a sentence said twice counts once, unless another one was said against it
    in between.
    """
    earlier = facts.get("earlier", {})
    known = _known(earlier)
    overruled = {(clash.first_source, clash.first_quote) for clash in _clashes(earlier)}
    found: list[Statement] = []
    last = {said_as(each.quote): (each, 0) for each in known}
    for text in facts["texts"]:
        if addresses_machine(machine_text(text["subject"], text["text"])):
            continue
        for sentence in (clause for whole in sentences(text["text"]) for clause in _clauses(whole, text["source"])):
            key = said_as(sentence)
            asked = statement(sentence, text["source"])
            if asked is None:
                continue
            if key in last:
                before, since = last[key]
                said_against = (before.source, before.quote) in overruled
                if not said_against and not any(_disagree(before, each) for each in found[since:]):
                    continue
            found.append(asked)
            last[key] = asked, len(found)
    found = found[-MOST_STATEMENTS:]
    clashes = contradictions([*known, *found], known=len(known))
    return RequirementsAnswer(
        # What is no longer wanted is not asked for; it only contradicts what was.
        items=[
            ProposedRequirement(text=_phrase(s), kind=s.kind, priority=s.priority, quote=s.quote, source=s.source)
            for s in found
            if not _WITHDRAWN.search(s.quote)
        ],
        contradictions=clashes,
        open_questions=_questions([*known, *found], [*_clashes(earlier), *clashes]),
    )


def _clashes(earlier: Mapping[str, Any]) -> list[ProposedContradiction]:
    return [ProposedContradiction(**clash) for clash in earlier.get("contradictions", ())]
