"""Whether a sentence that a model wrote may reach a record: said in words that sell, about values that stand there, nothing else.

Law: what cannot be decided is refused, since a sentence of ours stands ready for each that is refused. Nothing is repaired.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import date

from processors.analyses.facts import day
from processors.analyses.suspicion import addresses_machine, folded
from processors.grounding.evidence import Evidence, numbers, runs_of, words

_ADDRESS = re.compile(
    r"@|://|\bwww\b|\b(?:https?|hxxps?|mailto|tel|ftp)\b|\b[\w-]+\.[a-z]{2,24}\b(?!\s*[A-Z])|\[dot\]|\(dot\)|\bdot\s+(?:com|net|org|example|io)\b|\[at\]",
    re.IGNORECASE,
)
_SIGNS = re.compile(r"[^\w\s.,;:!?'’\"“”()%&/\-–—€$£+·…#→]")
_FORBIDDEN = re.compile(
    r"\b(?:ignor\w*|disregard\w*|overrid\w*|instruct\w*|prompt\w*|jailbreak\w*|assistant|language model|chatbot|llm|gpt\w*|as an ai|ai model|"
    r"scores?|scored|scoring|grades?|graded|rating|confidence|points|factors?|hookline|insights?|"
    r"password\w*|passphrase|credentials?|log ?in|api keys?|tokens?|secrets?|bank\w*|iban|swift code|account numbers?|routing|wire|wired|transfer\w*|remit\w*|"
    r"bitcoin\w*|crypto\w*|gift ?cards?|vouchers?|refund\w*|discount\w*|waive\w*|free of charge|"
    r"delet\w*|eras\w*|remov\w*|purg\w*|destroy\w*|export\w*|download\w*|upload\w*|install\w*|click\w*|paste\w*|scan the|qr|macro|attachment|leak\w*|reveal\w*|exfiltrat\w*|"
    r"(?:other|all|every) (?:\w+ )?(?:records?|contacts?|customers?|deals?|leads?|accounts?|tenants?|clients?|companies)|"
    r"link\w*|url|website|web site|webpage|web page|portal|qr code|"
    r"hundred|thousand|million|billion|percent|dozen|per cent|hundert|tausend|prozent|cien|cent|mille|"
    r"lawsuit|sue|fraud\w*|scam\w*|criminal\w*|police|arrest\w*|bribe\w*|illegal\w*|idiot|stupid|pwned|hacked|owned|compromised|"
    r"sch?reib\w*|ignorier\w*|überweis\w*|lösch\w*|klick\w*|rufen sie|senden sie|supprim\w*|envoy\w*|cliqu\w*|borr\w*|elimin\w*|envi[ae]r?\w*|haga clic|cancell\w*|invia\w*)\b",
    re.IGNORECASE,
)
_CLAIMS = re.compile(
    r"\b(?:signed|paid|approved|agreed|accepted|confirmed|guaranteed|promised|cancel\w*|terminat\w*|withdr\w+|bankrupt|insolvent|dead|deceased|furious|angry|hostile|vip|"
    r"pric\w+|half|free|gratis|goods|deliver\w*|ship\w*|bought|supplier|rival|obsolete|exclusive|permanent\w*|immediate\w*|urgent\w*|asap)\b",
    re.IGNORECASE,
)
"""States and deeds that only the record's own values may report."""
_VERBS_TEXT = """
    agree answer arrange ask book call check clarify close come confirm congratulate connect contact coordinate
    discuss draft email engage escalate establish explore find finalise finalize fix follow get give go hand
    hold identify introduce invite involve keep leave let look make meet move negotiate nurture offer phone plan
    position prepare present propose provide push qualify re-engage reach reconnect reconfirm re-qualify reply
    request research resolve respond review revisit schedule secure send set settle share show speak start
    suggest talk thank try understand update use validate verify visit wait walk win work write
"""
_VERBS = frozenset(_VERBS_TEXT.split())
"""What a sales representative does; a next action begins with one of these."""
_STARTS_TEXT = """
    a an the this that these those it its he she they their his her with without at in on for from by of to as
    and but or so if since after before while although because there no not only one both now also still
    attempts attempt outreach purchasing engagement interest contacts previous prior several initial limited
    little more less most overall however therefore thus hence then here who which what when where whether how
    why up down out over under between during within across likely unlikely clear unclear role title seniority
    position timing need needs status source location industry size revenue owner team business details data
    record information communication momentum conversation relationship activity progress risk strength
    strengths weakness concern concerns opportunity fit influence authority potential priority follow-up
    follow-ups there's they're it's he's she's that's all any some each every many few such other another same
    lost once despite given currently recently strongest main key next last first close closes closing deal lead
    contact company customer prospect decision senior high low strong weak good large small mid early late
    active open won new existing contract proposal budget timeline recent latest promising known unknown missing
    stage amount probability expected value is are was were has have had reach
"""
_STARTS = frozenset(_STARTS_TEXT.split())
_PROPER_TEXT = """
    i crm ceo cfo cto cio coo cmo cro cpo vp svp evp hr it pr qa erp sso b2b b2c saas api gdpr eu us uk usa emea
    apac dach q1 q2 q3 q4 roi poc rfp nda sla linkedin hubspot salesforce monday tuesday wednesday thursday
    friday saturday sunday january february march april may june july august september october november december
    english german french european american british
"""
_PROPER = frozenset(_PROPER_TEXT.split())
_STOP_TEXT = """
    a an the and or of to in on at by for with is are was be as it this that we you they i from has have not our
    your their will would can
"""
_STOP = frozenset(_STOP_TEXT.split())
_MONTH = {
    name: i
    for i, names in enumerate(
        (
            "jan january",
            "feb february",
            "mar march",
            "apr april",
            "may",
            "jun june",
            "jul july",
            "aug august",
            "sep sept september",
            "oct october",
            "nov november",
            "dec december",
        ),
        1,
    )
    for name in names.split()
}
_ISO = re.compile(r"\b\d{4}-\d{2}-\d{2}\b")
_DATE = re.compile(
    rf"\b(?:(\d{{1,2}})(?:st|nd|rd|th)?\.? (?:of )?({'|'.join(_MONTH)})\.?|({'|'.join(_MONTH)})\.? (\d{{1,2}})(?:st|nd|rd|th)?),? (\d{{4}})\b",
    re.IGNORECASE,
)


def _hidden(text: str) -> bool:
    return any(unicodedata.category(c) in {"Cf", "Co", "Cn", "Cs"} or (unicodedata.category(c) == "Cc") for c in text)


def _mixed_scripts(text: str) -> bool:
    for word in re.findall(r"[^\W\d_]+", text):
        scripts = {unicodedata.name(c, "?").split()[0] for c in word}
        if len(scripts & {"LATIN", "CYRILLIC", "GREEK"}) > 1:
            return True
    return False


def _without_values(text: str, values: Iterable[str]) -> str:
    """The text with every presentable value of the record taken out, longest first."""
    low = text.casefold()
    for value in sorted({v for v in values if len(v) >= 2}, key=len, reverse=True):
        # Most values are in no sentence, and each pattern is a new one: compiling them would cost more than all else here.
        if value.casefold() not in low:
            continue
        text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", " ", text, flags=re.IGNORECASE)
        low = text.casefold()
    return text


def _dates_stand(text: str, dates: frozenset[date]) -> tuple[bool, str]:
    """Whether every full date in it is the record's; and the text without dates."""
    for match in _ISO.finditer(text):
        if day(match.group()) not in dates:
            return False, text
    for match in _DATE.finditer(text):
        dom, month = match[1] or match[4], match[2] or match[3]
        try:
            said = date(int(match[5]), _MONTH[month.casefold()], int(dom))
        except ValueError:
            return False, text
        if said not in dates:
            return False, text
    return True, _DATE.sub(" ", _ISO.sub(" ", text))


def refusal(text: str, evidence: Evidence, *, sources: Sequence[str] = (), length: int = 400) -> str | None:  # noqa: C901, PLR0911 - a list of walls: one condition, one reason
    """Why a text may not reach the record; None when it may. `sources`: passages beside the record's values that it may draw on."""
    if not text.strip() or len(text) > length:
        return "empty or too long"
    plain = folded(text)
    if _hidden(text) or plain != unicodedata.normalize("NFC", text) or _mixed_scripts(text):
        return "characters that people do not write"
    given = [*evidence.values.values(), *sources]
    rest = _without_values(plain, given)
    if _SIGNS.search(rest):
        return "characters that people do not write"
    if _ADDRESS.search(rest):
        return "an address that is not the record's"
    stand, rest = _dates_stand(rest, evidence.dates)
    if not stand:
        return "a date that is not the record's"
    known = evidence.numbers | {value for source in sources for value in numbers(source)}
    if not numbers(rest) <= known or re.search(r"\d", re.sub(r"\d[\d.,'’ ]*", " ", rest)):
        return "a number that is not the record's"
    if found := _FORBIDDEN.search(rest):
        return f"it speaks of what is not its business ({len(found.group())} characters)"
    if addresses_machine(text):
        return "it talks to a machine"
    allowed = evidence.words | {word for source in sources for word in words(source)}
    if any(found.group().casefold() not in allowed for found in _CLAIMS.finditer(rest)) and not text.rstrip().endswith(
        "?"
    ):
        return "a state of things that no value shows"
    if name := _stranger(rest, allowed):
        return f"a name that is not the record's ({len(name)} characters)"
    if any(not _is_latin(word) and word not in allowed for word in words(rest)):
        return "a script that the record does not use"
    return "copied from a note" if _copied(plain, evidence, sources) else None


def _is_latin(word: str) -> bool:
    return all(unicodedata.name(c, "?").startswith("LATIN") for c in word if c.isalpha())


def _stranger(text: str, allowed: Iterable[str]) -> str | None:
    """A capitalised word that is neither the record's nor everyday English."""
    known = set(allowed)
    for sentence in re.split(r"(?<=[.!?:;])\s+", text):
        for position, match in enumerate(re.finditer(r"[^\W\d_][\w'’-]*", sentence)):
            word = match.group()
            low = word.casefold().replace("’", "'")
            parts = [part for part in re.split(r"[-']", low) if part]
            if (
                not word[:1].isupper()
                or low in known
                or low in _PROPER
                or all(part in known or part in _PROPER for part in parts)
            ):
                continue
            if position == 0 and (low in _STARTS or low in _VERBS):
                continue
            return word
    return None


def _copied(text: str, evidence: Evidence, sources: Sequence[str]) -> bool:
    own = {tuple(words(source)) for source in sources}
    telling = {run for run in runs_of(words(text)) if sum(word not in _STOP for word in run) >= 3}
    return any(
        not any(_within(run, source) for source in own)
        for prose, there in evidence.runs.items()
        if telling and prose not in own
        for run in telling & there
    )


def _within(run: tuple[str, ...], source: tuple[str, ...]) -> bool:
    return any(source[i : i + len(run)] == run for i in range(len(source) - len(run) + 1))


def begins_with_a_deed(text: str) -> bool:
    """Whether a next action begins as one: with a verb of a sales representative's."""
    first = re.match(r"\s*([^\W\d_]+(?:-[^\W\d_]+)?)", text)
    return bool(first) and (first or [""])[0].strip().casefold() in _VERBS
