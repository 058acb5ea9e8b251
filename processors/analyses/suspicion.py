"""Whether a text of the CRM talks to a machine instead of to people, and whether a value may be shown inside our sentences.

Law: pure and deterministic; it recognises, it never repairs. It is one of several walls (docs/adr/0005): what it misses
still has to pass the checks on what the model returns.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import unquote

_CONFUSABLE = str.maketrans(
    "аеорсухіјѕһԁɡӏνκοαιρτυχвнмтьАВЕКМНОРСТХУІЈЅ",
    "aeopcyxijshdglvkoaiptuxbhmtbABEKMHOPCTXYIJS",
)
_LEET = str.maketrans("013457@$", "oieastas")

_MACHINE = re.compile(
    r"""
    # "Ignore your instructions", in the languages that people try it in.
    \b(ignor|disregard|overrid|forget|bypass|vergiss|missacht|olvid|oubli|dimentic|esque[cç]|negeer|zignoruj)\w*\W+(?:\w+\W+){0,5}?
        (instruct|instruk|prompt|guideline|anweisung|vorgabe|instruc|istruzion|r[eè]gles|reglas|your\s+(rule|system)|polecen|everything\s+(above|before)|all\s+(of\s+)?the\s+above)
    # Turns of a conversation and roles.
    | \b(system|developer|assistant)\s+(prompt|message|override|instruction)s?\b
    | \b(ai|llm|bot)\s+(prompt|override|instruction|command)s?\b
    | (^|[\n.;|>\]\-*#"'(])\s*(assistant|llm|gpt)\s*[:>\]]
    | (^|[\n.;|>\]\-*#"'(])\s*(system|developer|user|ai|ki)\s*[:>\]]\s*(you|output|recommend|ignor|this|the|write|say|set|score|grade|always|never|from\s+now|new|policy|override|must|act|give|all)
    | \[/?\s*(inst|system|assistant|admin|override|end\s+of\s+(data|record|note))\s*\]
    | "role"\s*:\s*"(system|assistant|user|developer)"
    | "\s*(factors|next_action|open_questions|contradictions|defects|grade)\s*"\s*:
    | <\|?\s*/?\s*(im_start|im_end|system|assistant|endoftext|eot|instructions?|prompt|tool_call)\b
    | \b(you\s+are|you're|act\s+as|behave\s+as|du\s+bist|tu\s+es|eres)\s+(now|jetzt|ahora|maintenant|a|an|the|in|ein|eine)\s+(\w+\s+){0,3}?
        (ai|assistant|language\s+model|bot|developer\s+mode|dan|analy[sz]er|scorer)\b
    | \b(jailbreak|do\s+anything\s+now)\b
    # Somebody speaks to the program.
    | (^|[\n.;:(\-]\s*)((dear|hey|hello|hi|attention|liebe|cher|hola)\s+|(note|message|hint|reminder|instructions?|hinweis)?\s*(to|for|an)\s+)
        (the\s+|any\s+|all\s+|die\s+|das\s+)?(ai|ki|llm|language\s+model|sprachmodell|bot|ai\s+\w+|crm\s+analy\w+|automated\s+\w+|scoring\s+\w+)\s*[,:!\-]
    | \b(dear|hey)\s+(ai|llm|chatbot|assistant)\b
    # What only this product writes.
    | \b(set|give|make|mark|raise|lower|change|put|return|output|assign|report|setz\w*|gib|vergib|pon|mets|donne|imposta|zet)\b[^.\n]{0,40}?
        \b(score|grade|confidence|hookline\w*|puntuaci[oó]n|punktzahl|bewertung|punteggio)\b
    | \b(score|grade|punktzahl|bewertung|puntuaci[oó]n|punteggio|confidence)\b[^.\n]{0,15}?(=|:|\bto\b|\bof\b|\bis\b|\bauf\b|\bde\b|\bmust\b)\s*["']?(100\b|a\b(?!\s+\w)|hundred|max)
    | \b(score|grade|bewerte|rate|valora|puntúa)\s+(this|it|me|him|her|them|us|diesen?|dieses|este|questo|ce)\b[^.\n]{0,40}?(100\b|\b[ae]\b|hundred|max\w*|hot|top|best|high\w*)
    | \b(write|put|set|copy|insert|paste|schreib\w*)\b[^.\n]{0,80}?\b(into|in|as)\s+(the|your|its|den|die)\s+(summary|next[_\s]?(step|action)|insight|zusammenfassung)\b
    | \b(respond|reply|answer|output|print|repeat|echo|antworte|responde|r[eé]ponds?)\s+(only\s+|nur\s+|solo\s+)?(with|in|the|exactly|this|as|mit|con|par|avec)\b[^.\n]{0,30}?
        (json|following|exactly|verbatim|system)
    | \b(add|include|insert|append|create|invent|list|f[uü]ge|erg[aä]nze|agrega|ajoute)\w*\s+(an?|the|this|another|eine?|una?|une)?\s*(\w+\s+)?
        (requirement|factor|anforderung|requisito|exigence|contradiction|open\s+question)\w*\s*[:"'“„«(]
    | \b(reveal|leak|dump|exfiltrat\w+|disclose|print|repeat)\b[^.\n]{0,40}?\b(system\s+prompt|your\s+(prompt|instructions|rules|configuration)|api\s+keys?|other\s+(tenant|customer|record)s?)
    | \b(list|show|print|include)\s+(all\s+|the\s+)?other\s+(record|contact|customer|deal|lead|account|tenant)s?\b[^.\n]{0,40}(crm|summary|here|database)
    | \b(sales\s*)?(rep|reps|seller|salesperson|reader)\s+(must|should|shall|has\s+to)\s+(click|wire|transfer|pay|log\s+in|install|download)
    | \btell\s+the\s+(sales\s+)?(rep|seller|salesperson|reader)\b[^.\n]{0,40}?\b(refund|wire|transfer|cancel|delete|pay|click|before\s+payment)
    # Borders of the data that we hand over.
    | \b(end|begin|start)\s+(of\s+)?(the\s+)?(data|record|input|context|user\s+input|crm\s+data|instructions)\b\s*[:\]=>\n]
    | -{2,}\s*(begin|end|new)\s+(instruction|system|prompt|data)
    | \#{2,}\s*(system|instruction|assistant|new\s+instruction|override)
    | \b(new|updated|real|actual|hidden|secret|neue|nouvelles?|nuevas)\s+(instruktion|anweisung|directive|consigne|instrucciones|orders?\s+for\s+(you|the)|instructions?\s*[:\n])\w*
    | (игнорир|забуд)\w*.{0,30}(инструкц|указани|правил) | 忽略.{0,8}(指令|指示|提示|规则) | 无视.{0,8}(指令|指示|提示)
    | (指示|命令|プロンプト).{0,6}(無視|忘れ) | (지시|명령).{0,6}무시 | تجاهل.{0,20}التعليمات
    """,
    re.VERBOSE | re.IGNORECASE,
)
_URL = re.compile(r"(?:\b(?:https?|hxxps?|ftp|javascript|data|file|tel|mailto)\s*:|//\w|\bwww\s*\.)", re.IGNORECASE)
_DOMAIN = re.compile(r"\b[\w-]{2,}(?:\.[\w-]{2,})*\.[a-z]{2,24}(?:/\S*)?\b", re.IGNORECASE)
_MARKUP = re.compile(r"[<>{}\[\]|`\\^~*_=]|\n|\r")
_ORDER = re.compile(
    r"\b(click|delete|erase|download|install|exfiltrat\w+|leak|reveal|bitcoin|gift\s*cards?|iban|ignore|score|grade|instructions?|the\s+reader|"
    r"sales\s*rep(resentative)?s?\s+(must|should)|you\s+(must|should)|must|urgent(ly)?|(wire|transfer|pay|send|remit)\s+(it|me|us|the|all|every|money|funds|\d+)|"
    r"(call|text)\s+(me|us|this|the|now|\+?\d+)|visit\s+(our|the|this|my|us)|approve\s+(this|the|all|it)|(grant|give|offer)\s+(\w+\s+)?(discount|access|\d+))\b|\d{6,}|\d\s*%",
    re.IGNORECASE,
)
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/_-]{4}\s?){5,}[A-Za-z0-9+/_-]{0,3}={0,2}")
_HEX = re.compile(r"\b(?:[0-9a-fA-F]{2}[\s:]?){12,}\b")

NUMERIC_CONCEPTS = frozenset(
    {
        "amount",
        "probability",
        "close_date",
        "created_at",
        "last_contacted_at",
        "last_activity_at",
        "employees",
        "annual_revenue",
        "phone",
        "mobile_phone",
    }
)
"""Where digits are what belongs there."""
MAX_VALUE = 120
"""Characters of a field's value that our sentences show at most; a longer one is a text, not a value."""

_CODED = frozenset(
    {
        "lead_status",
        "lead_source",
        "lifecycle_stage",
        "deal_stage",
        "pipeline",
        "rating",
        "priority",
        "deal_type",
        "industry",
    }
)
ADDRESS_CONCEPTS = frozenset({"email", "website", "domain", "linkedin"})
"""Where an address is what belongs there."""


def folded(text: str) -> str:
    """Text without tricks: compatibility forms and look-alikes resolved, invisible characters removed, accents kept."""
    shown = "".join(
        c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) not in {"Cf", "Co", "Cn", "Cs"}
    )
    return re.sub(r"[。．｡]", ".", shown)


def _latin(text: str) -> str:
    """Look-alikes of other scripts as Latin letters, in words that mix scripts only."""
    return re.sub(
        r"\S+", lambda m: m.group().translate(_CONFUSABLE) if re.search(r"[A-Za-z]", m.group()) else m.group(), text
    )


def readings(text: str) -> Iterator[str]:
    """The text, and what it says to somebody who decodes it: base64, hex, percent, rot13, backwards, leet, spaced letters."""
    plain = folded(text)
    yield plain
    yield _latin(plain)
    yield plain.translate(_CONFUSABLE)
    # Mathematical and combining decorations: the letters below them.
    yield "".join(c for c in unicodedata.normalize("NFD", plain) if not unicodedata.combining(c))
    if tags := "".join(chr(ord(c) - 0xE0000) for c in text if 0xE0020 <= ord(c) <= 0xE007E):
        yield tags
    if re.search(r"(?:\b\w[\W_]){6,}", plain):
        yield re.sub(r"(?<=\b\w)[\W_](?=\w\b)", "", plain)
        yield re.sub(
            r"\s+",
            " ",
            re.sub(r"(?<!\w)((?:\w[ .\-_]){3,}\w)(?!\w)", lambda m: re.sub(r"[ .\-_]", "", m.group()), plain),
        )
    yield plain.translate(_LEET)
    yield codecs.decode(plain, "rot13")
    yield plain[::-1]
    if "%" in plain:
        yield unquote(plain)
    if re.search(r"&#?\w+;", plain):
        yield re.sub(r"&#(x?)([0-9a-fA-F]+);", lambda m: chr(int(m[2], 16 if m[1] else 10) % 0x110000), plain)
    for match in _BASE64.finditer(plain):
        yield from _decoded(match.group())
    for match in _HEX.finditer(plain):
        try:
            yield bytes.fromhex(re.sub(r"[\s:]", "", match.group())).decode("utf-8")
        except (ValueError, UnicodeDecodeError):
            continue


def _decoded(block: str) -> Iterator[str]:
    raw = re.sub(r"\s", "", block).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        text = base64.b64decode(raw + "=" * (-len(raw) % 4)).decode("utf-8")
    except (binascii.Error, ValueError, UnicodeDecodeError):
        return
    if sum(c.isprintable() for c in text) >= 0.9 * len(text):
        yield text


def hides_text(text: str) -> bool:
    """Whether it carries text that a person does not see or read: encoded sentences, invisible characters, right-to-left tricks."""
    if any(0xE0020 <= ord(c) <= 0xE007E or c in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068" for c in text):
        return True
    return any(" " in word for match in _BASE64.finditer(folded(text)) for word in _decoded(match.group()))


@lru_cache(maxsize=4096)
def addresses_machine(text: str) -> bool:
    """Whether a text gives orders to whatever reads it for people: about scores, prompts, records, outputs."""
    return hides_text(text) or any(_MACHINE.search(reading) for reading in readings(text))


def presentable(concept: str, value: str) -> bool:
    """Whether a value may be cited and stand inside a sentence of ours: short, one line, no address out of place, no order."""
    plain = folded(value)
    if (
        not plain.strip()
        or len(plain) > MAX_VALUE
        or (_MARKUP.search(plain) and concept not in {*ADDRESS_CONCEPTS, *_CODED})
    ):
        return False
    if plain != value and any(unicodedata.category(c) == "Cf" for c in value):
        return False
    if addresses_machine(value):
        return False
    if concept in ADDRESS_CONCEPTS:
        return len(plain.split()) == 1
    if concept in NUMERIC_CONCEPTS:
        return (
            re.fullmatch(r"[\d\s.,:+\-()/TZ'%€$£A-Za-z]{1,40}", plain) is not None
            and sum(c.isalpha() for c in plain) <= 12
        )
    return not (
        _URL.search(plain)
        or (concept not in {"company_name", "deal_name"} and _DOMAIN.search(plain))
        or "@" in plain
        or _ORDER.search(plain)
    )
