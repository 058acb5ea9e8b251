"""What people write who mean to steer a program that reads the CRM; and nothing that people write to people.

Each rule names the pieces of which its pattern needs one, so that ordinary text costs a few substring searches.

Law: a product that sells language models, integrates with one or has a "system" must not be taken for an attack: a rule
needs an address to a program or an order about what only a program of this kind writes (scores, prompts, quoted JSON).
"""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to talk to a machine."""

    pieces: tuple[str, ...]
    """Lower-case; without any of them the pattern cannot match."""
    pattern: re.Pattern[str]


def _rule(pieces: str, pattern: str) -> Rule:
    return Rule(tuple(pieces.split("|")), re.compile(pattern, re.VERBOSE | re.IGNORECASE))


_START = r"""(^|[\n.;|>\]\-*\#"'(])\s*"""
_RULES = (
    _rule(  # "Ignore your instructions", in the languages that people try it in.
        "instruc|instruk|prompt|guideline|anweisung|vorgabe|istruzion|gles|reglas|your rule|your system|polecen|everything|all the above|all of the above",
        r"""\b(ignor|disregard|overrid|forget|bypass|vergiss|missacht|olvid|oubli|dimentic|esque[cç]|negeer|zignoruj)\w*\W+(?:\w+\W+){0,5}?
        (instruct|instruk|prompt|guideline|anweisung|vorgabe|instruc|istruzion|r[eè]gles|reglas|your\s+(rule|system)|polecen|everything\s+(above|before)|
        all\s+(of\s+)?the\s+above)""",
    ),
    _rule(
        "prompt|message|override|instruction",
        r"\b(system|developer|assistant)\s+(prompt|message|override|instruction)s?\b",
    ),
    _rule("prompt|override|instruction|command", r"\b(ai|llm|bot)\s+(prompt|override|instruction|command)s?\b"),
    _rule("assistant|llm|gpt", _START + r"(assistant|llm|gpt)\s*[:>\]]"),
    _rule(
        "system|developer|user|ai|ki",
        _START
        + r"""(system|developer|user|ai|ki)\s*[:>\]]\s*(you|output|recommend|ignore|this|the|write|say|set|score|grade|always|never|from\s+now|new|
        policy|override|must|act|give|all)\b""",
    ),
    _rule("[", r"\[/?\s*(inst|system|assistant|admin|override|end\s+of\s+(data|record|note))\s*\]"),
    _rule(
        '"',
        r'"role"\s*:\s*"(system|assistant|user|developer)"|"\s*(factors|next_action|open_questions|contradictions|defects|grade)\s*"\s*:',
    ),
    _rule("<", r"<\|?\s*/?\s*(im_start|im_end|system|assistant|endoftext|eot|instructions?|prompt|tool_call)\b"),
    _rule("<!--", r"<!--.{0,40}(system|assistant|\bai\b|instruction|say\s+that)"),
    _rule(
        "you are|you're|act as|behave as|du bist|tu es|eres",
        r"""\b(you\s+are|you're|act\s+as|behave\s+as|du\s+bist|tu\s+es|eres)\s+(now|jetzt|ahora|maintenant|a|an|the|in|ein|eine)\s+(\w+\s+){0,3}?
        (ai|assistant|language\s+model|bot|developer\s+mode|dan|analy[sz]er|scorer)\b""",
    ),
    _rule("jailbreak|do anything", r"\b(jailbreak|do\s+anything\s+now)\b"),
    _rule(  # Somebody speaks to the program.
        "ai|ki|llm|language model|sprachmodell|bot|crm|automated|scoring",
        r"""(^|[\n.;:(\-]\s*)((dear|hey|hello|hi|attention|liebe|cher|hola)\s+|(note|message|hint|reminder|instructions?|hinweis)?\s*(to|for|an)\s+)
        (the\s+|any\s+|all\s+|die\s+|das\s+)?(ai|ki|llm|language\s+model|sprachmodell|bot|ai\s+\w+|crm\s+analy\w+|automated\s+\w+|scoring\s+\w+)\s*[,:!\-]""",
    ),
    _rule("dear|hey", r"\b(dear|hey)\s+(ai|llm|chatbot|assistant)\b"),
    _rule(  # What only this product writes.
        "score|grade|confidence|hookline|puntuaci|punktzahl|bewertung|punteggio",
        r"""\b(set|give|make|mark|raise|lower|change|put|return|output|assign|report|setz\w*|gib|vergib|pon|mets|donne|imposta|zet)\b[^.\n]{0,40}?
        \b(score|grade|confidence|hookline\w*|puntuaci[oó]n|punktzahl|bewertung|punteggio)\b""",
    ),
    _rule(
        "score|grade|confidence|puntuaci|punktzahl|bewertung|punteggio",
        r"""\b(score|grade|punktzahl|bewertung|puntuaci[oó]n|punteggio|confidence)\b[^.\n]{0,15}?(=|:|\bto\b|\bof\b|\bis\b|\bauf\b|\bde\b|\bmust\b)\s*["']?
        (100\b|a\b(?!\s+\w)|hundred|max)""",
    ),
    _rule(
        "score|grade|bewerte|rate|valora|punt",
        r"""\b(score|grade|bewerte|rate|valora|puntúa)\s+(this|it|me|him|her|them|us|diesen?|dieses|este|questo|ce)\b[^.\n]{0,40}?
        (100\b|\b[ae]\b|hundred|max\w*|hot|top|best|high\w*)""",
    ),
    _rule(
        "summary|next|insight|zusammenfassung",
        r"""\b(write|put|set|copy|insert|paste|schreib\w*)\b[^.\n]{0,80}?\b(into|in|as)\s+(the|your|its|den|die)\s+
        (summary|next[_\s]?(step|action)|insight|zusammenfassung)\b""",
    ),
    _rule(
        "json|following|exactly|verbatim|system",
        r"""\b(respond|reply|answer|output|print|repeat|echo|antworte|responde|r[eé]ponds?)\s+(only\s+|nur\s+|solo\s+)?(with|in|the|exactly|this|as|mit|con|par|avec)\b
        [^.\n]{0,30}?(json|following|exactly|verbatim|system)""",
    ),
    _rule(
        "requirement|factor|anforderung|requisito|exigence|contradiction|open question",
        r"""\b(add|include|insert|append|create|invent|list|f[uü]ge|erg[aä]nze|agrega|ajoute)\w*\s+(an?|the|this|another|eine?|una?|une)?\s*(\w+\s+)?
        (requirement|factor|anforderung|requisito|exigence|contradiction|open\s+question)\w*\s*[:"'“„«(]""",
    ),
    _rule(
        "reveal|leak|dump|exfiltrat|disclose|print|repeat",
        r"""\b(reveal|leak|dump|exfiltrat\w+|disclose|print|repeat)\b[^.\n]{0,40}?
        \b(system\s+prompt|your\s+(prompt|instructions|rules|configuration)|api\s+keys?|other\s+(tenant|customer|record)s?)""",
    ),
    _rule(
        "other",
        r"""\b(list|show|print|include)\s+(all\s+|the\s+)?other\s+(record|contact|customer|deal|lead|account|tenant)s?\b[^.\n]{0,40}
        (crm|summary|here|database)""",
    ),
    _rule(
        "rep|seller|salesperson|reader",
        r"""\b(sales\s*)?(rep|reps|seller|salesperson|reader)\s+(must|should|shall|has\s+to)\s+(click|wire|transfer|pay|log\s+in|install|download)
        | \btell\s+the\s+(sales\s+)?(rep|seller|salesperson|reader)\b[^.\n]{0,40}?\b(refund|wire|transfer|cancel|delete|pay|click|before\s+payment)""",
    ),
    _rule(  # Borders of the data that we hand over.
        "begin|end|start",
        r"""\b(end|begin|start)\s+(of\s+)?(the\s+)?(data|record|input|context|user\s+input|crm\s+data|instructions)\b\s*[:\]=>\n]
        | -{2,}\s*(begin|end|new)\s+(instruction|system|prompt|data)""",
    ),
    _rule("##", r"\#{2,}\s*(system|instruction|assistant|new\s+instruction|override)"),
    _rule(
        "instru|anweisung|directive|consigne|order",
        r"""\b(new|updated|real|actual|hidden|secret|neue|nouvelles?|nuevas)\s+
        (instruktion|anweisung|directive|consigne|instrucciones|orders?\s+for\s+(you|the)|instructions?\s*[:\n])\w*""",
    ),
    _rule("инструкц|указани|правил", r"(игнорир|забуд)\w*.{0,30}(инструкц|указани|правил)"),
    _rule(
        "忽略|无视|無視|忘れ|무시|تجاهل",
        r"(忽略|无视).{0,8}(指令|指示|提示|规则)|(指示|命令|プロンプト).{0,6}(無視|忘れ)|(지시|명령).{0,6}무시|تجاهل.{0,20}التعليمات",
    ),
)
_ANY_PIECE = tuple(dict.fromkeys(piece for rule in _RULES for piece in rule.pieces))


def talks_to_machine(*readings: str) -> bool:
    """Whether one of the readings of a text gives orders to a program."""
    lows = [" ".join(reading.lower().split()) for reading in readings]
    # In all of them at once first: most texts have none of the pieces in any of their readings.
    whole = "\n".join(lows)
    anywhere = [piece for piece in _ANY_PIECE if piece in whole]
    return bool(anywhere) and any(
        _gives_orders(reading, {piece for piece in anywhere if piece in low})
        for reading, low in zip(readings, lows, strict=True)
    )


def _gives_orders(reading: str, present: AbstractSet[str]) -> bool:
    return bool(present) and any(rule.pattern.search(reading) for rule in _RULES if not present.isdisjoint(rule.pieces))
