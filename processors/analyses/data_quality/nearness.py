"""How near a word is to a known one, and what country a mistyped name means.

Law: OSA distance (rapidfuzz) counts slips; of several equally near words none is chosen, unless they mean the same.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from rapidfuzz.distance import OSA

from processors.analyses.data_quality.reference import countries, plain


def all_nearest(word: str, known: Collection[str], limit: int) -> list[str]:
    """The known words at the least distance from `word` (insertion, deletion, exchange, swap), if that is 1 to `limit`."""
    best, found = limit + 1, list[str]()
    for candidate in known:
        if abs(len(candidate) - len(word)) > limit:
            continue
        distance = OSA.distance(word, candidate, score_cutoff=min(best, limit))
        if distance < best:
            best, found = distance, [candidate]
        elif distance == best <= limit:
            found.append(candidate)
    return found if best > 0 else []


def nearest(word: str, known: Collection[str], limit: int) -> str | None:
    """The one known word within `limit` slips; None when there is none or a tie."""
    found = all_nearest(word, known, limit)
    if len(found) > 1:
        # People seldom get the first letter wrong.
        found = [candidate for candidate in found if candidate[:1] == word[:1] and len(candidate) == len(word)] or found
    return found[0] if len(found) == 1 else None


def slips(word: str) -> int:
    """How many slips a word of this length may have and still be recognised."""
    return 0 if len(word) < 4 else 1 if len(word) < 8 else 2


@lru_cache(maxsize=1024)
def meant_country(value: str) -> tuple[str, str] | None:
    """(region, name) of the country whose name, in some language, is a slip away; None when several countries are."""
    name = plain(value)
    if len(name) < 4:
        return None
    found = [countries()[key] for key in all_nearest(name, countries().keys(), slips(name))]
    return found[0] if len({region for region, _ in found}) == 1 else None


def meant_region(value: str) -> str | None:
    """ISO code of `meant_country`."""
    found = meant_country(value)
    return found[0] if found else None
