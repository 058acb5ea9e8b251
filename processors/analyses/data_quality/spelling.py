"""Values that are one slip of the finger away from a known one, with that as the proposal.

Law: rapidfuzz measures, the reference lists know; a slip is reported only where one known value is nearest.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from rapidfuzz.distance import OSA

from processors.analyses.data_quality.formats import host_of, valid_email
from processors.analyses.data_quality.nearness import meant_country, nearest, slips
from processors.analyses.data_quality.record import Record
from processors.analyses.data_quality.reference import (
    MAIL_PROVIDERS,
    STATES,
    TITLE_WORDS,
    TLDS,
    TYPED_TLDS,
    US_STATES,
    cities,
    homes_of_states,
    plain,
    region_of,
    well_known_cities,
)
from schemas.insight import Defect


def check(record: Record) -> Iterator[Defect]:
    """Misspelt e-mail domains, cities, countries, states and job titles."""
    yield from _email(record)
    yield from _country(record)
    yield from _state(record)
    yield from _city(record)
    yield from _title(record)


def own_hosts(record: Record) -> set[str]:
    """Registered names of the record's own websites."""
    hosts = (host_of(record[concept] or "") for concept in ("website", "domain"))
    return {host.removeprefix("www.") for host in hosts if host}


def meant_domain(domain: str, hosts: Collection[str]) -> str | None:
    """The domain that was meant, when this one is a slip away from a mail provider, the record's own site or a top-level domain."""
    if domain in MAIL_PROVIDERS or domain in hosts:
        return None
    own = nearest(domain, hosts, 2)
    if own:
        return own
    name, _, tld = domain.rpartition(".")
    for provider in (nearest(domain, MAIL_PROVIDERS, 1 if len(domain) < 9 else 2),):
        # Two slips in a short name are another name: `gmx.fr` is no `gmail.fr`.
        if provider and (OSA.distance(domain, provider) == 1 or OSA.distance(name, provider.rpartition(".")[0]) >= 1):
            return provider
    if tld not in TLDS and len(tld) > 2 and (better := nearest(tld, TYPED_TLDS, 1)):
        return f"{name}.{better}"
    return None


def _email(record: Record) -> Iterator[Defect]:
    value = record["email"]
    if not value or not valid_email(value):
        return
    local, _, domain = value.rpartition("@")
    meant = meant_domain(domain.casefold(), own_hosts(record))
    if meant:
        yield record.defect(
            "email", "misspelt", "high", "The domain of the e-mail address looks mistyped", proposed=f"{local}@{meant}"
        )


def _country(record: Record) -> Iterator[Defect]:
    value = record["country"]
    if not value or region_of(value):
        return
    meant = meant_country(value)
    if meant:
        yield record.defect("country", "misspelt", "medium", "{label} looks mistyped", proposed=meant[1])


def _state(record: Record) -> Iterator[Defect]:
    value = record["state"]
    states = STATES.get(record.region or "", ())
    if not value or len(value) < 4 or not states:
        return
    known = {plain(state): state for state in states}
    if plain(value) in homes_of_states():
        return
    meant = nearest(plain(value), known.keys(), slips(plain(value)))
    if meant:
        yield record.defect("state", "misspelt", "low", "{label} looks mistyped", proposed=known[meant])


def _city(record: Record) -> Iterator[Defect]:
    value = record["city"]
    if not value or not re.fullmatch(r"[^\W\d_][^\d_@]{2,40}", value):
        return
    name = plain(value)
    everywhere = well_known_cities()
    known = cities().get(record.region or "", {})
    if name in known or name in everywhere or name in US_STATES.values() or not name:
        return
    well_known = {key: city for key, (region, city) in everywhere.items() if record.region in {None, region}}
    meant = nearest(name, well_known.keys(), slips(name))
    if meant is None and known:
        # Small places are many and alike: one slip, and a name long enough to be told apart.
        meant = nearest(name, known.keys(), 1 if len(name) >= 5 else 0) or (
            nearest(name, known.keys(), 2) if len(name) >= 9 else None
        )
    if meant:
        yield record.defect(
            "city", "misspelt", "medium", "{label} looks mistyped", proposed=well_known.get(meant) or known[meant]
        )


def _title(record: Record) -> Iterator[Defect]:
    value = record["job_title"]
    if not value:
        return
    corrected = re.sub(r"[^\W\d_]{5,}", lambda match: _word(match.group()), value)
    if corrected != value:
        yield record.defect("job_title", "misspelt", "low", "{label} looks mistyped", proposed=corrected)


def _word(word: str) -> str:
    low = word.casefold()
    if (
        low in TITLE_WORDS
        or low.removesuffix("s") in TITLE_WORDS
        or low + "s" in TITLE_WORDS
        or low.removesuffix("in") in TITLE_WORDS
    ):
        return word
    meant = nearest(low, TITLE_WORDS, 1 if len(low) < 12 else 2)
    if meant is None:
        return word
    return meant.upper() if word.isupper() else meant.capitalize() if word[:1].isupper() else meant
