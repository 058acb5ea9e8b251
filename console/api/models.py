"""What callers send and get. Secrets go in and never come out, but for those that are made here, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from console.api.routes import Given

Moment = Annotated[str, Field(max_length=40, description="2026-11-23T14:05Z, or so long ago: 15m, 2h, 3d.")]
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]*$")]
Kind = Literal["company", "contact", "deal", "lead"]


class Tenant(BaseModel):
    """Whose data the key opens."""

    id: str
    name: str
    changes_per_second: int
    changes_burst: int
    key: str
    role: str


class Endpoint(BaseModel):
    """Where a sender delivers."""

    id: str
    name: str
    source: str
    url: str | None = Field(description="For roles above viewer alone where the address is itself the secret.")
    enabled: bool
    accounts: Sequence[str]
    refused_24h: Mapping[str, int] = {}


class NewEndpoint(Given):
    """An endpoint to be made."""

    source: Literal["hubspot", "salesforce", "standard_webhooks", "custom"]
    name: Text | None = None
    secret: Annotated[str, Field(max_length=500)] | None = Field(
        default=None, description="What the sender signs with; HubSpot: the app's client secret. Made where absent."
    )
    config: dict[str, Any] = Field(default={}, description="As `hookline endpoint configure --config` takes it.")


class MadeEndpoint(Endpoint):
    """With the secret, if one was made; shown once."""

    secret: str | None = None


class Rotation(Given):
    """A new secret."""

    secret: Annotated[str, Field(max_length=500)] | None = None
    overlap_seconds: float = Field(default=86_400, ge=0, le=90 * 86_400)


class Switch(Given):
    """Open or closed."""

    enabled: bool


class AccountBody(BaseModel):
    """A CRM org. Credentials are never shown."""

    id: str
    crm: str
    name: str
    state: str
    state_reason: str
    credentials: Sequence[str] = Field(description="Names of what is there.")
    config: Mapping[str, Any]
    last_delivery_at: datetime | None
    last_insight_at: datetime | None
    health: Sequence[str] | None = Field(
        default=None, description="What keeps it from being well; of one account alone."
    )


class NewAccount(Given):
    """An account to be registered, or to be given new credentials."""

    crm: Literal["hubspot", "salesforce"]
    id: Text
    name: Annotated[str, Field(max_length=200)] = ""
    credentials: dict[str, Annotated[str, Field(max_length=10_000)]] = Field(
        description="As HOOKLINE_NEW_CREDENTIALS of `hookline account add`."
    )
    endpoints: list[Text] = Field(default=[], max_length=50)
    instance: Annotated[str, Field(max_length=200)] = ""
    app_id: Annotated[str, Field(max_length=20)] = ""
    integration_user: Annotated[str, Field(max_length=20)] = ""


class Credentials(Given):
    """New credentials for an account that is there."""

    credentials: dict[str, Annotated[str, Field(max_length=10_000)]]


class Consent(BaseModel):
    """Where an admin of the CRM has to go, within ten minutes."""

    authorize_url: str
    redirect_uri: str


class Provisioned(BaseModel):
    """Our fields in the CRM."""

    made: Sequence[str]
    left_over: Sequence[str]


class CheckOf(Given):
    """How to check."""

    record: Annotated[str, Field(max_length=100, pattern=r"^([a-z]+/[A-Za-z0-9]+)?$")] = ""
    echo_seconds: float = Field(default=8.0, ge=0, le=60)


class PointBody(BaseModel):
    """One point of a check."""

    name: str
    result: Literal["passed", "failed", "unknown"]
    detail: str
    remedy: str


class Checked(BaseModel):
    """All points."""

    account: str
    passed: bool
    points: Sequence[PointBody]


class RequestLine(BaseModel):
    """A request at the front door."""

    at: datetime
    request_id: str
    tenant: str
    endpoint: str
    answer: str
    times: int
    size: int
    became: str
    accounts: Sequence[str]


class RequestsQuery(Given):
    """Which requests."""

    endpoint: str = Field(default="", max_length=100, description="Id or name.")
    account: str = Field(default="", max_length=100)
    cause: str = Field(default="", max_length=60)
    since: Moment = "1h"
    until: Moment = ""
    limit: int = Field(default=100, ge=1, le=1_000)


class Retry(BaseModel):
    """What became of letting a refused request in."""

    request_id: str
    result: str
    detail: str


class LettersFilter(Given):
    """Which letters; empty fields mean any."""

    account: str = Field(default="", max_length=100)
    stage: str = Field(default="", max_length=100)
    cause: str = Field(default="", max_length=60)
    object: str = Field(default="", max_length=30)
    record: str = Field(default="", max_length=100)
    kind: Literal["", "poison", "account"] = ""
    since: Moment = ""
    until: Moment = ""


class LettersQuery(LettersFilter):
    """Which letters to show."""

    state: Literal["open", "redriven", "discarded", "all"] = "open"
    limit: int = Field(default=100, ge=1, le=1_000)


class LettersAct(LettersFilter):
    """Which letters to act on: these, or all that match, at most `limit`."""

    ids: list[Annotated[str, Field(pattern=r"^[0-9]{1,6}-[0-9]{1,18}$")]] = Field(default=[], max_length=1_000)
    limit: int = Field(default=200, ge=1, le=1_000)


class Redrive(LettersAct):
    """Back to where they failed."""

    repeat: bool = False


class Discard(LettersAct):
    """Off the list, or back onto it."""

    undo: bool = False


class Acted(BaseModel):
    """What was done."""

    done: int
    left: Mapping[str, int] = Field(default={}, description="Why → how many were left as they were.")
    matched: int = Field(description="How many were meant; more than `limit` are done by calling again.")


class BackfillOf(Given):
    """What to plan."""

    account: Text
    objects: list[Kind] = Field(default=[], max_length=4)
    rate: float | None = Field(default=None, ge=0.1, le=5_000, description="Records a second.")
    calls_per_day: int | None = Field(default=None, ge=1, le=100_000_000)


class AccountQuery(Given):
    """Of one account, or of all."""

    account: str = Field(default="", max_length=100)


class InsightsQuery(Given):
    """Which insights."""

    account: str = Field(default="", max_length=100)
    object: Literal["", "company", "contact", "deal", "lead", "ticket"] = ""
    record: str = Field(default="", max_length=100)
    analysis: str = Field(default="", max_length=60)
    limit: int = Field(default=50, ge=1, le=500)


class NewKey(Given):
    """A key of the same tenant."""

    role: Literal["viewer", "engineer", "admin"] = "viewer"
    name: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = ""
    expires_in_days: float | None = Field(default=90, gt=0, le=3_650)


class MadeKey(BaseModel):
    """The key, shown once."""

    key: str
    id: str
    role: str
