"""Grounding of data quality: defects by the field and the value that the record has, health counted again.

Law: the checks of this product are deterministic and pass unchanged; what anything else claims must name a true value,
and its proposal must be a reading of that value.
"""

from __future__ import annotations

import re

from rapidfuzz.fuzz import ratio

from processors.analyses.data_quality import health_of, summary_of
from processors.analyses.facts import label_of
from processors.analyses.suspicion import addresses_machine
from processors.grounding.evidence import Evidence, same_value
from processors.grounding.prose import refusal
from processors.matching import EVIDENCE
from schemas.insight import DataQuality, Defect, Duplicate

PLAIN = {
    "missing": "is empty",
    "malformed": "is malformed",
    "misspelt": "looks mistyped",
    "contradictory": "disagrees with another field",
    "stale": "is out of date",
}


def ground_data_quality(payload: DataQuality, evidence: Evidence) -> tuple[DataQuality, list[str]]:
    """The payload as far as the record bears it out, and what was dropped (never its text)."""
    snapshot = evidence.snapshot
    dropped: list[str] = []
    defects = tuple(defect for defect in (_defect(defect, evidence, dropped) for defect in payload.defects) if defect)
    duplicates = []
    for duplicate in payload.duplicates:
        known = tuple(line for line in duplicate.evidence if EVIDENCE.fullmatch(line))
        if known and re.fullmatch(r"[A-Za-z0-9]{1,40}", duplicate.id) and duplicate.id != snapshot.id:
            duplicates.append(Duplicate(id=duplicate.id, probability=duplicate.probability, evidence=known))
        else:
            dropped.append("duplicate: without evidence of a kind that is known")
    found = tuple(duplicates)
    return DataQuality(
        health=health_of(defects, found), defects=defects, duplicates=found, summary=summary_of(defects, found)
    ), dropped


def _defect(defect: Defect, evidence: Evidence, dropped: list[str]) -> Defect | None:
    snapshot = evidence.snapshot
    actual = snapshot.fields.get(defect.field)
    known = defect.field in snapshot.known_fields or defect.field in evidence.concept_of
    if not known or (defect.kind == "missing") != (actual is None or not actual.strip()):
        dropped.append("defect: the field is not as claimed")
        return None
    if (
        defect.value is not None
        and actual is not None
        and not (same_value(defect.value, actual) or actual.strip().startswith(defect.value))
    ):
        dropped.append("defect: cites a value that the record does not have")
        return None
    label = label_of(evidence.concept_of.get(defect.field, defect.field))
    message, proposed = defect.message, defect.proposed
    if refusal(message, evidence, length=120):
        dropped.append("message of a defect")
        message = f"{label} {PLAIN[defect.kind]}"
    if proposed is not None and not _reading(proposed, actual or ""):
        dropped.append("proposal of a defect")
        proposed = None
    other = defect.other_field if defect.other_field in snapshot.fields else None
    if (message, proposed, other) == (defect.message, defect.proposed, defect.other_field):
        return defect
    return defect.model_copy(update={"message": message, "proposed": proposed, "other_field": other})


def _reading(proposed: str, actual: str) -> bool:
    """Whether a proposal is the value, spelt better: alike, or the same digits in another form."""
    if len(proposed) > 120 or addresses_machine(proposed):
        return False
    if re.fullmatch(r"\d{1,3}(?:\.\d+)?", proposed):
        return True
    digits = sorted(re.sub(r"\D", "", actual).lstrip("0")) == sorted(re.sub(r"\D", "", proposed).lstrip("0"))
    return (
        ratio(proposed.casefold(), actual.casefold()) >= 60
        or (bool(re.sub(r"\D", "", proposed)) and digits)
        or proposed.casefold() in actual.casefold()
    )
