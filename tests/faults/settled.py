"""Whether one changed record is settled, and if not, why.

Law: pure. A record is settled when

- the last snapshot of it on `crm.records` says, field by field, what the CRM says;
- every analysis that applies to it has an insight in Postgres that was made from that snapshot, or from an earlier one
  which says the same in everything that this analysis reads (then there was nothing new to say);
- the CRM shows the texts of exactly those insights, and an as-of that is not before the record's last change;
- or, where the record is gone, all its insights are retracted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from infra.local.sandbox.reconciliation import VOLATILE
from processors.analyses.analysis import Analysis
from schemas.insight import Insight, Version
from schemas.record import RecordSnapshot
from sinks.rendering import render
from tests.faults.journal_tail import Key
from tests.faults.stand import TENANT


@dataclass(slots=True)
class Made:
    """What is kept of a snapshot."""

    inputs: dict[str, bytes]
    """Analysis → hash of what it reads."""
    modified_at: int
    deleted: bool


@dataclass(slots=True)
class Seen:
    """What lies on the topics and in the destinations about one record."""

    last: tuple[int, RecordSnapshot] | None
    """The last snapshot, with its offset."""
    snapshots: Mapping[int, Made]
    rows: Mapping[str, Mapping[str, Any]]
    """Analysis → its row of `insights`."""
    as_of: int
    """What the CRM record shows, epoch ms."""


def why_unsettled(
    key: Key, truth: Mapping[str, Any], wanted: int, seen: Seen, analyses: Mapping[str, Analysis]
) -> str | None:
    """None when it is settled. `wanted`: last-modified time of its last change, epoch ms; 0: nothing counts."""
    if truth["gone"]:
        alive = [name for name, row in seen.rows.items() if not row["retracted"]]
        return f"it is gone, and {', '.join(alive)} is not retracted" if alive else None
    if not wanted:
        return None
    if seen.last is None:
        return "no snapshot of it"
    offset, snapshot = seen.last
    return (
        _snapshot(key, truth, wanted, snapshot)
        or _analyses(key, offset, seen, analyses)
        or _shown(key, truth, seen)
        or (f"as_of is {wanted - seen.as_of} ms before the last change" if seen.as_of < wanted else None)
    )


def _snapshot(key: Key, truth: Mapping[str, Any], wanted: int, snapshot: RecordSnapshot) -> str | None:
    if snapshot.deleted:
        return "the last snapshot says that it is gone"
    if not key.account.startswith("hubspot:"):
        # Salesforce's values have types, which a snapshot shows as text: there the times have to do.
        late = round(snapshot.modified_at.timestamp() * 1000) < wanted
        return "the last snapshot is older than the last change" if late else None
    differing = [
        name
        for name in snapshot.known_fields
        if name.lower() not in VOLATILE
        and not name.startswith("hookline_")
        and str(truth["properties"].get(name) or "") != snapshot.fields.get(name, "")
    ]
    return f"the last snapshot differs in {', '.join(differing[:4])}" if differing else None


def _analyses(key: Key, offset: int, seen: Seen, analyses: Mapping[str, Analysis]) -> str | None:
    for name, analysis in analyses.items():
        if key.object not in analysis.objects:
            continue
        row = seen.rows.get(name)
        if row is None or row["retracted"]:
            return f"no {name}"
        made_from = seen.snapshots.get(row["snapshot_offset"])
        if made_from is None or name not in made_from.inputs:
            return f"{name} was made from an unknown snapshot {row['snapshot_offset']}"
        if made_from.inputs[name] != seen.snapshots[offset].inputs[name]:
            return f"{name} was made from offset {row['snapshot_offset']}, and what it reads is another at {offset}"
    return None


def _shown(key: Key, truth: Mapping[str, Any], seen: Seen) -> str | None:
    shown = {
        name.lower().removesuffix("__c").removeprefix("hookline_"): value
        for name, value in truth["properties"].items()
        if name.lower().startswith("hookline_")
    }
    for name, row in seen.rows.items():
        for field_name, text in render(_insight(key, row)).items():
            if not _same(shown.get(field_name), text):
                return f"the CRM's {field_name} is not that of its {name} {row['snapshot_offset']}"
    return None


def _insight(key: Key, row: Mapping[str, Any]) -> Insight:
    return Insight.model_validate(
        {
            "tenant": TENANT,
            "account": key.account,
            "object": key.object,
            "id": key.id,
            "crm": key.account.partition(":")[0],
            "analysis": row["analysis"],
            "version": Version(row["epoch"], row["snapshot_offset"], row["generation"]),
            "as_of": row["as_of"],
            "analyzed_at": datetime.now(UTC),
            "model": row["model"],
            "payload": row["payload"],
            "retracted": row["retracted"],
        }
    )


def _same(shown: Any, text: str) -> bool:
    """Whether the CRM shows it; numbers have another spelling there."""
    if shown is None or shown == "":
        return text == ""
    if str(shown) == text:
        return True
    try:
        return float(shown) == float(text)
    except ValueError:
        return False
