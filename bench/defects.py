"""Defects: clean records, some with one planted defect, through the product's data quality; truth = (record, field, kind)."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable
from typing import Any

from bench.clean_records import TODAY, Clean
from bench.planted import WAYS, Planter
from llm_gateway.prompt import Answer, Prompt
from processors.analyses.analysis import Context
from processors.analyses.data_quality import PLUGIN
from processors.grounding import ground
from schemas.insight import DataQuality
from schemas.record import RecordSnapshot

Truth = set[tuple[str, str, str]]
TRY = 7
REPORT = 20261122
"""Seeds: rules are written against the first; the second is reported."""


def made(seed: int, count: int) -> tuple[list[RecordSnapshot], Truth]:
    """`count` records, every second with a planted defect, kinds in turn."""
    clean, planter = Clean(seed), Planter(seed + 1)
    kinds = itertools.cycle(WAYS)
    records: list[RecordSnapshot] = []
    truth: Truth = set()
    for number in range(count):
        record = clean.record()
        if number % 2:
            kind = next(kinds)
            planted = planter.plant(record, kind)
            if planted:
                record, field = planted
                truth.add((record.id, field, kind))
        records.append(record)
    return records, truth


async def _nobody(_prompt: Prompt[Any]) -> Answer[Any]:
    raise AssertionError("data quality asks no model")


def _ask(prompt: Prompt[Any], /) -> Awaitable[Answer[Any]]:
    return _nobody(prompt)


async def found(records: list[RecordSnapshot]) -> Truth:
    """What the product says, grounded as on its way to a record."""
    told: Truth = set()
    for record in records:
        finding = await PLUGIN.analyse(Context(snapshot=record, previous=None, ask=_ask, matches=(), today=TODAY))
        payload = ground(finding.payload, record).payload
        assert isinstance(payload, DataQuality)
        told |= {(record.id, defect.field, defect.kind) for defect in payload.defects}
    return told


def measure(seed: int = REPORT, count: int = 4000) -> dict[str, Any]:
    records, truth = made(seed, count)
    told = asyncio.run(found(records))
    kinds = {}
    for kind in WAYS:
        true, said = {t for t in truth if t[2] == kind}, {t for t in told if t[2] == kind}
        kinds[kind] = {
            "planted": len(true),
            "precision": round(len(true & said) / len(said), 4) if said else None,
            "recall": round(len(true & said) / len(true), 4) if true else None,
        }
    return {
        "precision": round(len(truth & told) / len(told), 4),
        "recall": round(len(truth & told) / len(truth), 4),
        "planted": len(truth),
        "told": len(told),
        "records": len(records),
        "kinds": kinds,
    }


def mistakes(seed: int = TRY, count: int = 4000) -> None:
    """Print what was missed and what was wrongly told, by kind of record and field, with examples: for mending rules."""
    records, truth = made(seed, count)
    by_id = {record.id: record for record in records}
    told = asyncio.run(found(records))
    for name, wrong in (("missed", truth - told), ("wrong", told - truth)):
        counted = Counter((by_id[i].crm, by_id[i].object, field, kind) for i, field, kind in wrong)
        print(name, len(wrong))
        for (crm, kind_of_record, field, kind), many in counted.most_common(25):
            values = [
                by_id[i].fields.get(field)
                for i, f, k in sorted(wrong)
                if (by_id[i].crm, by_id[i].object, f, k) == (crm, kind_of_record, field, kind)
            ]
            print(f"  {many:4} {crm} {kind_of_record} {field} {kind}: {values[:8]}")


if __name__ == "__main__":
    mistakes()
