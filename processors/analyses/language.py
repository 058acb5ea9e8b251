"""Which language a record's texts are in: by script, and by the small words that no sentence does without.

Law: pure; says nothing ('') rather than something unsure. A hint for choosing a model, of no other consequence.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

LEAST_WORDS = 3
"""So many small words must speak for a language."""
MOST_CHARACTERS = 4_000

_SMALL = {
    "en": "the and of to is that for with are was we you have this they not will would our from",
    "de": "der die und das ist nicht mit wir ein eine für auf sich auch den dem haben wird bitte sie zu von",
    "fr": "le les et des est une pour nous vous dans avec pas sur qui que avons notre du au ce",
    "es": "el los y es una para con por que las del se nos no como pero tiene su más",
    "it": "il gli e è una per con che del della non sono ci come di anche abbiamo nel",
    "nl": "de het een en van is niet met wij voor zijn op dat we ook hebben aan te",
    "pt": "os e é uma para com que não do da dos nos em por mas temos ao são",
    "pl": "nie jest się na z do że i w dla oraz to jak ale czy",
}
_BY_WORD: dict[str, tuple[str, ...]] = {}
for _language, _words in _SMALL.items():
    for _word in _words.split():
        _BY_WORD[_word] = (*_BY_WORD.get(_word, ()), _language)
_SCRIPTS = (
    ("HIRAGANA", "ja"),
    ("KATAKANA", "ja"),
    ("HANGUL", "ko"),
    ("CJK", "zh"),
    ("CYRILLIC", "ru"),
    ("ARABIC", "ar"),
    ("HEBREW", "he"),
    ("GREEK", "el"),
    ("DEVANAGARI", "hi"),
    ("THAI", "th"),
)
_WORD = re.compile(r"[^\W\d_]+")


def language_of(texts: Iterable[str]) -> str:
    """ISO 639-1 code of what most of it is written in, of some twenty; '' when it is too little or too mixed to tell."""
    text = " ".join(texts)[:MOST_CHARACTERS]
    letters = [c for c in text if c.isalpha()]
    foreign = [c for c in letters if ord(c) > 0x036F and not "\u1e00" <= c <= "\u1eff"]
    if len(foreign) > len(letters) / 2:
        names = Counter(unicodedata.name(c, "").partition(" ")[0] for c in foreign)
        return next((code for script, code in _SCRIPTS if names[script] > len(foreign) / 10), "")
    found = Counter(code for word in _WORD.findall(text.casefold()) for code in _BY_WORD.get(word, ()))
    ranked = found.most_common(2)
    if not ranked or ranked[0][1] < LEAST_WORDS:
        return ""
    return ranked[0][0] if len(ranked) == 1 or ranked[0][1] >= ranked[1][1] * 1.5 else ""
