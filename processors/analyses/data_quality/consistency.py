"""Two fields of one record that cannot both be right.

Law: both fields are named; where one of them decides what the other should be, that is the proposal.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

import phonenumbers

from processors.analyses.data_quality.formats import host_of, parsed_phone, valid_email, valid_phone
from processors.analyses.data_quality.record import Record
from processors.analyses.data_quality.reference import MAIL_PROVIDERS, US_STATES, homes_of_states, plain
from processors.analyses.data_quality.spelling import meant_domain, own_hosts
from processors.analyses.facts import number
from schemas.insight import Defect


def check(record: Record) -> Iterator[Defect]:
    """Every pair that disagrees."""
    yield from _deal(record)
    yield from _dates(record)
    yield from _domains(record)
    yield from _places(record)
    yield from _stages(record)


def _deal(record: Record) -> Iterator[Defect]:
    if record.snapshot.object != "deal":
        return
    chance, outcome = number(record["probability"]), record.outcome
    full = "1" if record.snapshot.crm == "hubspot" else "100"
    if outcome == "won" and chance is not None and chance < float(full):
        yield record.defect(
            "probability",
            "contradictory",
            "medium",
            "The deal is won, but its probability is not full",
            proposed=full,
            other="deal_stage",
        )
    elif outcome == "lost" and chance:
        yield record.defect(
            "probability",
            "contradictory",
            "medium",
            "The deal is lost, but its probability is not zero",
            proposed="0",
            other="deal_stage",
        )
    if record.outcome == "won" and record["amount"] and (number(record["amount"]) or 0) == 0:
        yield record.defect(
            "amount", "contradictory", "high", "The deal is won, but its amount is zero", other="deal_stage"
        )
    stage = re.sub(r"[^a-z]", "", (record["deal_stage"] or "").casefold())
    flag = (record["closed"] or "").casefold()
    ended = "closedwon" in stage or "closedlost" in stage
    if (flag == "false" and ended) or (
        flag == "true" and stage and not ended and not stage.isdigit() and stage in _OPEN_STAGES
    ):
        yield record.defect(
            "closed", "contradictory", "low", "The stage and the closed mark disagree", other="deal_stage"
        )


_OPEN_STAGES = frozenset(
    [
        "appointmentscheduled",
        "qualifiedtobuy",
        "presentationscheduled",
        "decisionmakerboughtin",
        "contractsent",
        "prospecting",
        "qualification",
        "needsanalysis",
        "valueproposition",
        "iddecisionmakers",
        "perceptionanalysis",
        "proposalpricequote",
        "negotiationreview",
    ]
)


def _dates(record: Record) -> Iterator[Defect]:
    created = record.day("created_at")
    if created and (close := record.day("close_date")) and close < created:
        yield record.defect(
            "close_date", "contradictory", "high", "The deal closes before it was created", other="created_at"
        )
    born = record.day("birth_date")
    if born and created and born > created:
        yield record.defect(
            "birth_date", "contradictory", "medium", "Born after the record was created", other="created_at"
        )


def _registered(host: str) -> str:
    """The name that was registered, near enough without a public-suffix list: the last two labels, three below `co.uk` and the like."""
    labels = host.casefold().removeprefix("www.").split(".")
    if len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in {"co", "com", "org", "net", "ac", "gov", "edu"}:
        return ".".join(labels[-3:])
    return ".".join(labels[-2:])


def _domains(record: Record) -> Iterator[Defect]:
    hosts = own_hosts(record)
    email = record["email"]
    if email and valid_email(email) and hosts:
        domain = email.rpartition("@")[2].casefold()
        own = {_registered(host) for host in hosts}
        alike = any(
            _brand(domain) == _brand(host) or _brand(domain) in _brand(host) or _brand(host) in _brand(domain)
            for host in hosts
        )
        if (
            domain not in MAIL_PROVIDERS
            and _registered(domain) not in own
            and not alike
            and not meant_domain(domain, hosts)
        ):
            yield record.defect(
                "email",
                "contradictory",
                "medium",
                "The e-mail address is at another domain than the website",
                other="website" if record["website"] else "domain",
            )
    site, domain_field = host_of(record["website"] or ""), host_of(record["domain"] or "")
    if (
        site
        and domain_field
        and _registered(site) != _registered(domain_field)
        and _brand(site) != _brand(domain_field)
    ):
        yield record.defect(
            "website", "contradictory", "medium", "Website and domain are two different sites", other="domain"
        )


def _brand(host: str) -> str:
    return _registered(host).split(".")[0].replace("-", "")


def _places(record: Record) -> Iterator[Defect]:
    region = record.region
    if not region:
        return
    for concept in ("phone", "mobile_phone"):
        value = record[concept]
        if not value or not value.lstrip().startswith(("+", "00")):
            continue
        international = "+" + value.lstrip()[2:] if value.lstrip().startswith("00") else value
        parsed = parsed_phone(international, None)
        if parsed and valid_phone(international, None):
            regions = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(parsed.country_code or 0, ())
            if region not in regions and "001" not in regions:
                yield record.defect(
                    concept, "contradictory", "low", "{label} is of another country than the record", other="country"
                )
    state = record["state"]
    if not state:
        return
    homes: Collection[str] = homes_of_states().get(plain(state), ())
    if state.upper() in US_STATES and len(state) == 2 and not homes:
        homes = {"US"} if region in {"DE", "GB", "FR", "NL", "SE", "NO", "DK", "PL", "AT", "BE", "FI", "JP"} else set()
    if homes and region not in homes:
        yield record.defect("state", "contradictory", "medium", "{label} is not in this country", other="country")


def _stages(record: Record) -> Iterator[Defect]:
    lifecycle = re.sub(r"[^a-z]", "", (record["lifecycle_stage"] or "").casefold())
    status = re.sub(r"[^a-z]", "", (record["lead_status"] or "").casefold())
    deals = number(record["number_of_deals"])
    if lifecycle == "customer" and record.has("number_of_deals") and deals == 0:
        yield record.defect(
            "lifecycle_stage", "contradictory", "medium", "A customer without any deal", other="number_of_deals"
        )
    if status == "unqualified" and lifecycle in {"salesqualifiedlead", "opportunity", "customer"}:
        yield record.defect(
            "lead_status",
            "contradictory",
            "medium",
            "Unqualified, but further along in the lifecycle",
            other="lifecycle_stage",
        )
    if status == "new" and lifecycle in {"customer", "evangelist"}:
        yield record.defect(
            "lead_status", "contradictory", "low", "New as a lead, but already a customer", other="lifecycle_stage"
        )
    converted = (record["converted"] or "").casefold()
    if (
        (converted == "true" and status and "converted" not in status)
        or (converted == "true" and "notconverted" in status)
        or (converted == "false" and status == "closedconverted")
    ):
        yield record.defect(
            "lead_status", "contradictory", "medium", "Status and conversion disagree", other="converted"
        )
