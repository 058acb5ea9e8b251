"""What went wrong, as RFC 9457 has it, with what to do next.

Law: no secret, no content of a customer, no server's own words.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus

from aiokafka.errors import KafkaError
from pydantic import BaseModel, ConfigDict, Field
from pydantic import ValidationError as Invalid
from starlette.exceptions import HTTPException
from starlette.responses import Response

from console.runtime import explained
from infra.crm.client import AccountUnavailable, CrmUnavailable
from infra.telemetry import log
from infra.unavailable import as_unavailable

REMEDIES: Mapping[int, str] = {
    400: "Send what the OpenAPI document describes: /api/openapi.json.",
    401: "Send `Authorization: Bearer KEY` with a key of `hookline key create` that has neither ended nor been revoked.",
    403: "Use a key with a higher role: `hookline key create --role`.",
    404: "Look at the list that it should be in.",
    405: "See the OpenAPI document for the methods of this path.",
    409: "Look at it again, then decide.",
    413: "Send less at once.",
    415: "Send `Content-Type: application/json`.",
    422: "Send what the OpenAPI document describes: /api/openapi.json.",
    500: "This is a bug: look at the log at the time of this request.",
    502: "See `POST /api/accounts/{account}/check` for what is wrong and what to do.",
    503: "Try again in a moment; `hookline status` and /health/ready say what is away.",
}


class ProblemBody(BaseModel):
    """Problem details (RFC 9457)."""

    model_config = ConfigDict(title="Problem")

    type: str = Field(default="about:blank", description="A URI of the kind of problem.")
    title: str
    status: int
    detail: str = ""
    remedy: str = Field(description="What to do next.")


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """To be answered instead."""

    def __init__(
        self, status: int, detail: str = "", remedy: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.remedy = remedy or REMEDIES.get(status, "")
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """As an answer."""
        body = ProblemBody(
            title=HTTPStatus(self.status).phrase, status=self.status, detail=self.detail, remedy=self.remedy
        )
        headers = {"Cache-Control": "no-store", **self.headers}
        return Response(body.model_dump_json(), self.status, headers, media_type="application/problem+json")


def problem_of(error: Exception) -> Problem:
    """Any error as a problem; one that nobody foresaw is logged and becomes 500."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return Problem(error.status_code, "", headers=error.headers)
    if isinstance(error, Invalid):
        return Problem(422, "; ".join(_told(each) for each in error.errors()[:5]))
    if isinstance(error, AccountUnavailable | CrmUnavailable):
        return Problem(502, str(error))
    return _of_ours(error)


def _of_ours(error: Exception) -> Problem:
    if as_unavailable(error) is not None or isinstance(error, KafkaError):
        return Problem(503, str(explained(error) or "a server of ours is away"), headers={"Retry-After": "5"})
    told = explained(error)
    if told is not None:
        detail, _, remedy = str(told).partition(": ")
        # A list of several things keeps its lines together.
        return Problem(422, str(told)) if "\n" in str(told) else Problem(422, detail, remedy)
    log("api").error(
        "unforeseen",
        error=type(error).__name__,
        exc_info=error if logging.getLogger().isEnabledFor(logging.DEBUG) else None,
    )
    return Problem(500, "something broke that should not")


def _told(each: Mapping[str, object]) -> str:
    """Where and what; never the value that was given."""
    place = ".".join(str(part) for part in each["loc"]) if isinstance(each["loc"], tuple) else ""
    return f"{place}: {each['msg']}" if place else str(each["msg"])
