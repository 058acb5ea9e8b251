"""Which fault must make a run fail when which protection is switched off.

Law: a round that passes without its protection shows nothing, and fails the campaign.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.faults.fault import Fault
from tests.faults.kafka_faults import AllBrokersAway
from tests.faults.kills import FAULTS as KILLS
from tests.faults.messages import BadRelease
from tests.faults.others import FAULTS as OTHERS


@dataclass(frozen=True)
class Unprotected:
    """One of them."""

    protection: str
    said: str
    roles: Mapping[str, str]
    """Kind of role → switches of `unprotected`."""
    fault: type[Fault]
    tries: int = 4
    """Rounds at most: a moment of milliseconds is not hit each time."""


UNPROTECTED = (
    Unprotected(
        "commit-first",
        "offsets are committed before their messages are handled",
        {"hydrator": "commit-first"},
        KILLS["kill-hydrator-busy"],
    ),
    Unprotected(
        "answer-first",
        "the door answers before the broker's acknowledgement",
        {"receiver": "answer-first"},
        AllBrokersAway,
    ),
    Unprotected(
        "marks-first",
        "seen-marks are set before the acknowledgement, without an offset",
        {"translator": "marks-first"},
        KILLS["kill-translator-cut-off"],
    ),
    Unprotected(
        "no-version-check",
        "the Postgres sink writes whatever comes",
        {"sink-postgres": "no-version-check"},
        KILLS["kill-sink-postgres-busy"],
    ),
    Unprotected(
        "no-fence",
        "nobody looks whether another has read the record meanwhile",
        {"hydrator": "no-fence", "analyst": "no-fence"},
        KILLS["hang-hydrator-busy"],
    ),
    Unprotected(
        "no-pending",
        "the CRM sink does not note that a write has begun",
        {"sink-crm": "no-pending"},
        KILLS["kill-sink-crm-busy"],
    ),
    Unprotected(
        "drop-when-away",
        "a batch whose part is away is not tried again",
        {"analyst": "drop-when-away"},
        OTHERS["model-500"],
    ),
    Unprotected(
        "no-poison-limit", "nothing limits how much is laid aside", {"translator": "no-poison-limit"}, BadRelease
    ),
)
