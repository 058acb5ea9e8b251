"""Duplicates on splink_fake_1000: the product's features, blocking and comparison, on the half that nothing was fitted on."""

from __future__ import annotations

import csv
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from infra.crm.concepts import MAPS
from processors.matching import THRESHOLD, blocking_keys, compare, features
from schemas.record import RecordSnapshot

DATA = Path(__file__).parents[1] / "tests" / "data" / "splink_fake_1000" / "fake_1000.csv"
Half = Literal["fitting", "reported"]
FITTING: Half = "fitting"
REPORTED: Half = "reported"
_AT = datetime(2026, 11, 1, tzinfo=UTC)
_COLUMNS = {"first_name": "firstname", "surname": "lastname", "dob": "date_of_birth", "city": "city", "email": "email"}


def half_of(cluster: str) -> Half:
    """By a hash of the cluster's number, so that nobody chose which cluster goes where."""
    return FITTING if hashlib.sha256(f"half:{cluster}".encode()).digest()[0] % 2 else REPORTED


def rows_of(half: Half) -> list[dict[str, str]]:
    with DATA.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if half_of(row["cluster"]) == half]


def snapshot_of(row: dict[str, str]) -> RecordSnapshot:
    """A row as the contact that HubSpot would give us."""
    fields = {name: row[column].strip() for column, name in _COLUMNS.items() if row[column].strip()}
    return RecordSnapshot(
        tenant="bench",
        account="hubspot:1",
        object="contact",
        id=row["unique_id"],
        crm="hubspot",
        fields=fields,
        concepts=MAPS["hubspot"]["contact"],
        modified_at=_AT,
        read_at=_AT,
    )


def pairs_found(rows: Collection[dict[str, str]], threshold: float = THRESHOLD) -> tuple[set[tuple[str, str]], int]:
    """The pairs that the product would tell of, and how many it compared."""
    known = {row["unique_id"]: found for row in rows if (found := features(snapshot_of(row)))}
    blocks: dict[str, list[str]] = defaultdict(list)
    for id_, found in known.items():
        for key in blocking_keys(found):
            blocks[key].append(id_)
    candidates = {pair for ids in blocks.values() for pair in itertools.combinations(sorted(ids), 2)}
    return {(a, b) for a, b in candidates if compare(known[a], known[b])[0] >= threshold}, len(candidates)


def true_pairs(rows: Collection[dict[str, str]]) -> set[tuple[str, str]]:
    clusters: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        clusters[row["cluster"]].append(row["unique_id"])
    return {pair for ids in clusters.values() for pair in itertools.combinations(sorted(ids), 2)}


def too_bare(rows: Collection[dict[str, str]]) -> int:
    """True pairs that nothing can find, because one of the rows says too little to be told from strangers at all."""
    bare = {row["unique_id"] for row in rows if features(snapshot_of(row)) is None}
    return sum(a in bare or b in bare for a, b in true_pairs(rows))


def measure(half: Half = REPORTED, threshold: float = THRESHOLD) -> dict[str, float]:
    rows = rows_of(half)
    found, compared = pairs_found(rows, threshold)
    truth = true_pairs(rows)
    right = len(found & truth)
    precision, recall = right / len(found) if found else 0.0, right / len(truth)
    return {
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "f1": round(2 * precision * recall / (precision + recall), 4) if right else 0.0,
        "pairs": len(truth),
        "compared": compared,
        "too_bare": too_bare(rows),
    }
