"""Write the lists of places that data quality compares with: `python -m bench.reference_lists`.

Source: the geocoding and locale data of the `phonenumbers` package (libphonenumber, Apache-2.0), which takes 100 MB and
seconds to load and so is read here, once, and not by a running process.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import phonenumbers
from phonenumbers.geodata import GEOCODE_DATA
from phonenumbers.geodata.locale import LOCALE_DATA

TARGET = Path(__file__).parents[1] / "processors" / "analyses" / "data_quality" / "places"
LANGUAGES = ("en", "de", "fr", "es", "it", "nl", "pt", "sv", "da", "pl")
HEADER = "# Made by bench/reference_lists.py from phonenumbers {version} (libphonenumber, Apache-2.0).\n"
_LATIN = re.compile(r"[A-Za-zÀ-ɏ][A-Za-zÀ-ɏ'’.\- ]{2,34}")


def region_of(prefix: str) -> str | None:
    for size in (1, 2, 3):
        regions = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(int(prefix[:size]))
        if regions:
            return str(regions[0])
    return None


def cities() -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for prefix, names in GEOCODE_DATA.items():
        region = region_of(prefix)
        if region is None:
            continue
        for name in {part for text in names.values() for part in re.split(r"\s*/\s*", text)}:
            plain = re.sub(r"\s*(?:,| - |\().*$", "", name).removesuffix(" Local").strip()
            if _LATIN.fullmatch(plain):
                found[region][unicodedata.normalize("NFC", plain)] += 1
    return found


def country_names(region: str) -> list[str]:
    names = LOCALE_DATA[region]
    found = []
    for language in LANGUAGES:
        name = names.get(language, "")
        while name.startswith("*"):
            name = names.get(name[1:], "")
        if name and name not in found:
            found.append(name)
    return found


def main() -> None:
    TARGET.mkdir(exist_ok=True)
    header = HEADER.format(version=phonenumbers.__version__)
    lines = [f"{region}\t{'|'.join(sorted(names))}" for region, names in sorted(cities().items())]
    (TARGET / "cities.txt").write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    known = [f"{region}\t{'|'.join(country_names(region))}" for region in sorted(LOCALE_DATA) if country_names(region)]
    (TARGET / "countries.txt").write_text(header + "\n".join(known) + "\n", encoding="utf-8")
    print(f"{len(lines)} regions with cities, {len(known)} countries")


if __name__ == "__main__":
    main()
