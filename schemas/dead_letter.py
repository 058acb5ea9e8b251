"""What could not go on, with everything that is needed to understand it and to try again.

Law: the detail never holds a customer's text or a secret; the original bytes stay sealed as they were.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Base64Bytes, Field

from schemas.record import Message, Timestamp


class Cause(StrEnum):
    """Why a message was laid aside. `REMEDIES` says what to do about each."""

    UNPARSABLE = "UNPARSABLE"
    """A message between our own stages."""
    MALFORMED_BODY = "MALFORMED_BODY"
    """What a sender wrote and signed."""
    UNDECRYPTABLE = "UNDECRYPTABLE"
    UNKNOWN_VERSION = "UNKNOWN_VERSION"
    FOREIGN_ACCOUNT = "FOREIGN_ACCOUNT"
    UNSUPPORTED_EVENT = "UNSUPPORTED_EVENT"
    RECORD_GONE = "RECORD_GONE"
    CRM_REFUSED_READ = "CRM_REFUSED_READ"
    CRM_REFUSED_WRITE = "CRM_REFUSED_WRITE"
    MODEL_OUTPUT_INVALID = "MODEL_OUTPUT_INVALID"
    MODEL_REFUSED = "MODEL_REFUSED"
    SNAPSHOT_TOO_LARGE = "SNAPSHOT_TOO_LARGE"
    HANDLER_BUG = "HANDLER_BUG"


REMEDIES: dict[Cause, str] = {
    Cause.UNPARSABLE: "This is no message of ours: look what else writes to the topic, or mend the release that wrote it, then redrive.",
    Cause.MALFORMED_BODY: "The body is not what this source sends: compare the endpoint's source with the sender (`hookline source test`), then redrive.",
    Cause.UNDECRYPTABLE: "Its key is gone (retention or erasure) or the master key changed: nothing to do, or restore the master key and redrive.",
    Cause.UNKNOWN_VERSION: "A newer release wrote it: finish the upgrade of this role, then redrive.",
    Cause.FOREIGN_ACCOUNT: "The endpoint may not speak for this account: `hookline account add` it to the endpoint, then redrive; or remove the app from that portal.",
    Cause.UNSUPPORTED_EVENT: "No analysis reads this kind of event: unsubscribe from it in the CRM, or discard.",
    Cause.RECORD_GONE: "The CRM no longer has this record: nothing to do.",
    Cause.CRM_REFUSED_READ: "The CRM refuses to read this record: check the app's scopes, then redrive.",
    Cause.CRM_REFUSED_WRITE: "The CRM refuses our write to this record (validation rule, missing field or permission): mend it there, then redrive.",
    Cause.MODEL_OUTPUT_INVALID: "The model's answer did not fit the schema, even after one repair: redrive, or choose another model.",
    Cause.MODEL_REFUSED: "The model refuses this input: look at it, redrive with another model or discard.",
    Cause.SNAPSHOT_TOO_LARGE: "The record does not fit into one message even after cutting: shorten its largest field in the CRM.",
    Cause.HANDLER_BUG: "A bug of ours, please report it with the error's name; redrive after the fix.",
}


Kind = Literal["poison", "account"]
"""`poison`: the pipeline failed. `account`: it did what it should, and what a person set up, or what a record holds, does not let
it go on: that belongs to the account's health, and nobody of ours is woken."""

_OF_THE_ACCOUNT = frozenset(
    {
        Cause.MALFORMED_BODY,
        Cause.FOREIGN_ACCOUNT,
        Cause.UNSUPPORTED_EVENT,
        Cause.RECORD_GONE,
        Cause.CRM_REFUSED_READ,
        Cause.CRM_REFUSED_WRITE,
        Cause.SNAPSHOT_TOO_LARGE,
    }
)


def kind_of(cause: str) -> Kind:
    """Whose it is to mend. A cause that this release does not know is poison: somebody should look."""
    return "account" if cause in _OF_THE_ACCOUNT else "poison"


class DeadLetter(Message):
    """Topic `crm.dead-letters`."""

    cause: Cause
    detail: str = ""
    """For people: what failed and where, without any content."""
    stage: str
    tenant: str
    account: str | None = None
    object: str | None = None
    record_id: str | None = None
    attempt: int = 1
    at: Timestamp
    original_topic: str
    original_partition: int
    original_offset: int
    original_key: Base64Bytes = b""
    original_headers: tuple[tuple[str, Base64Bytes], ...] = Field(default=())
    original_value: Base64Bytes = b""
    """Sealed exactly as it was read."""
