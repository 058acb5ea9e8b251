"""What we ask of a CRM, the same for every vendor.

Law: an adapter reads foreign fields and writes our own, never the other way round. It knows its vendor's limits, dialect
and retries, and nothing of analyses or insights. Errors carry no value that a customer wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from infra.accounts import Account
from infra.crm.changed import ChangedPage
from infra.settings import Settings
from schemas.record import Note, Related

AccountCause = Literal["TOKEN_REVOKED", "QUOTA_SPENT", "FORBIDDEN"]


class AccountUnavailable(Exception):  # noqa: N818 - it names a state, as the pump's Unavailable does
    """Nothing can be done for this one account now: its records are set aside, nobody else waits."""

    def __init__(self, account: str, cause: AccountCause, detail: str = "", retry_after: float | None = None) -> None:
        """`retry_after` in seconds, where the CRM says; `detail` says what to do next."""
        super().__init__(f"{account}: {cause}{f': {detail}' if detail else ''}")
        self.account = account
        self.cause = cause
        self.detail = detail
        self.retry_after = retry_after


class CrmUnavailable(Exception):  # noqa: N818 - it names a state, as the pump's Unavailable does
    """The CRM does not answer as it should (5xx, timeouts, 429 after polite retries): try later."""

    def __init__(self, crm: str, detail: str = "", retry_after: float | None = None) -> None:
        """`retry_after` in seconds, where the CRM says."""
        super().__init__(f"{crm} is unavailable{f': {detail}' if detail else ''}")
        self.crm = crm
        self.detail = detail
        self.retry_after = retry_after


class AnswerLost(CrmUnavailable):
    """A write was sent, and nobody knows whether it arrived: only the record can say, and it is not sent again unasked."""


@dataclass(frozen=True, slots=True)
class Read:
    """A record as it stands. Values are the CRM's own text; empty fields are absent; our own fields are never in `fields`."""

    modified_at: datetime
    fields: Mapping[str, str] = field(default_factory=dict)
    known_fields: tuple[str, ...] = ()
    """What was asked for and exists."""
    concepts: Mapping[str, str] = field(default_factory=dict)
    """Concept → field name; see `concepts.py`."""
    notes: tuple[Note, ...] = ()
    """Oldest first."""
    related: tuple[Related, ...] = ()
    owner: str | None = None
    edited_by: str | None = None
    """Who made the last edit, as far as the CRM says."""
    omitted: tuple[str, ...] = ()
    """What a cap left out, by name."""
    feedback: Mapping[str, str] = field(default_factory=dict)
    """What people wrote into those of our fields that are theirs (`own_fields.REP_FIELDS`), by short name."""


@dataclass(frozen=True, slots=True)
class Written:
    """The CRM acknowledged the row."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The CRM no longer has the record."""

    merged_into: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The CRM will not do this, now or later, until a person changes something there."""

    category: str
    """The vendor's own word: `VALIDATION_ERROR`, `INSUFFICIENT_ACCESS_OR_READONLY`, ..."""
    detail: str = ""
    """For people; field names at most, no values."""
    unknown_fields: tuple[str, ...] = ()
    """Own fields that the CRM does not have (any more): `provision` makes them again."""


@dataclass(frozen=True, slots=True)
class Busy:
    """This row cannot be written now (locked, being merged, a 5xx on it alone), but later."""

    category: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of all records of a kind, in the CRM's own order by id."""

    records: tuple[tuple[str, datetime], ...]
    """(id, last modified)."""
    next: str | None
    """Where the next page begins, for whoever asks for it, now or after a crash; None: this was the last."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What one kind of record looks like to our credentials."""

    readable: bool
    missing: tuple[str, ...] = ()
    """Own fields that are not there, by the vendor's name."""
    unwritable: tuple[str, ...] = ()
    """Own fields that are there and that we may not write."""
    left_over: tuple[str, ...] = ()
    """Fields under our prefix that this release does not know: an older version's. Never deleted by us."""
    detail: str = ""
    """What the CRM said where it is not readable: its code."""


class CrmClient(Protocol):
    """One vendor's CRM. Safe to use from many tasks at once.

    Every method may wait (in threads of its own, never on the event loop) and may raise AccountUnavailable and
    CrmUnavailable; calling one again is always safe. Retries on the vendor's documented codes have happened by then.
    """

    name: str
    """As in an account's id: `hubspot`."""
    own_prefix: str
    """Fields that start with it (whatever the case) are ours."""
    own_objects: frozenset[str]
    """Objects that can carry our fields."""

    async def read(self, account: Account, object: str, ids: Sequence[str]) -> dict[str, Read | Gone | Refused]:  # noqa: A002 - our word
        """Read any number of records, with their notes, e-mails and relations; every id given is in the answer."""
        ...

    async def parents(self, account: Account, object: str, ids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:  # noqa: A002 - our word
        """The (object, id) that notes and e-mails hang on; an empty list for what is gone or hangs on nothing."""
        ...

    async def own_fields(self, account: Account, object: str, ids: Sequence[str]) -> dict[str, dict[str, str] | Gone]:  # noqa: A002 - our word
        """What our own fields hold now, by their short names (`own_fields.py`); empty ones are absent."""
        ...

    async def write(
        self,
        account: Account,
        object: str,  # noqa: A002 - our word
        rows: Mapping[str, Mapping[str, str]],
    ) -> dict[str, Written | Gone | Refused | Busy]:
        """Set own fields, by their short names; an empty text clears one. One row's failure fails no other.

        Raises ValueError for a name that is not one of `own_fields.py`, and AnswerLost where any of the rows may have arrived.
        """
        ...

    async def provision(self, account: Account) -> list[str]:
        """Create what is missing of our fields; returns `object.field` of those made. Repeating it makes none."""
        ...

    async def identify(self, account: Account) -> str:
        """The account's id as the CRM itself says it for these credentials, e.g. `hubspot:145883449`."""
        ...

    async def survey(self, account: Account, object: str) -> Survey:  # noqa: A002 - our word
        """What our credentials may read, and how our fields stand there. Changes nothing."""
        ...

    async def count(self, account: Account, object: str) -> int | None:  # noqa: A002 - our word
        """How many records of the kind there are; None where our credentials may not see them, or there is no such kind."""
        ...

    async def page(self, account: Account, object: str, after: str | None) -> Page:  # noqa: A002 - our word
        """Records by id, from the beginning or from `after`, as many as one call gives. A deleted record is never in it.

        What is created meanwhile may or may not come; what is there all the time comes.
        """
        ...

    async def changed(
        self,
        account: Account,
        object: str,  # noqa: A002 - our word
        since: datetime,
        until: datetime,
        after: str | None,
    ) -> ChangedPage:
        """Records last modified from `since` to `until`, oldest first, as many as one call gives; from `after` where that is given.

        `object` may be `note` or `email`, too. One that is modified again after `until` may be missing: it belongs to the next
        stretch of time. Raises ValueError for an `after` that is none of this adapter's.
        """
        ...

    async def integration_user(self, account: Account) -> str | None:
        """The CRM's id of the user or app that our writes appear under, for recognising our own echoes."""
        ...

    async def close(self) -> None:
        """Close connections and threads; may be called twice."""
        ...


class CrmVendor(Protocol):
    """A plug-in of this package: the one typed constant PLUGIN in which an adapter's module ends."""

    name: str
    """As in an account's id: `hubspot`."""

    def connect(self, settings: Settings) -> CrmClient:
        """A client for all of the vendor's accounts; opens nothing yet."""
        ...
