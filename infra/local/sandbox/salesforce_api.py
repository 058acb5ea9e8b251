"""Salesforce's REST API below `/services`: who may call, how often, and the calls on records.

Law: answers in Salesforce's shapes alone; the bearer token decides the org, whatever host a client names.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from infra.local.sandbox.activities import touch_subjects
from infra.local.sandbox.limits import Fault, Faults
from infra.local.sandbox.objects import SalesforceType, salesforce_type
from infra.local.sandbox.salesforce_call import Call, existing, kind_of
from infra.local.sandbox.salesforce_collections import Collections
from infra.local.sandbox.salesforce_metadata import Metadata
from infra.local.sandbox.salesforce_oauth import SalesforceOAuth
from infra.local.sandbox.salesforce_query import Queries
from infra.local.sandbox.salesforce_values import SalesforceError, accept, show
from infra.local.sandbox.state import Record, World
from infra.local.sandbox.web import BadJsonError, Request, Response, Router, answer

VERSIONS = tuple(f"{number}.0" for number in range(59, 67))


class SalesforceApi:
    """Serves Salesforce's paths."""

    def __init__(self, world: World, faults: Faults, base: str) -> None:
        self.world = world
        self.faults = faults
        self.oauth = SalesforceOAuth(world, base)
        self.router = Router()
        add = self.router.add
        data = "/services/data/{version}"
        Collections(world).register(self.router)
        Metadata(world).register(self.router)
        Queries().register(self.router)
        add("GET", data + "/limits", "limits", self._limits)
        add("GET", data + "/sobjects/{type}/{id}", "sobject.get", self._get)
        add("PATCH", data + "/sobjects/{type}/{id}", "sobject.update", self._update)
        add("DELETE", data + "/sobjects/{type}/{id}", "sobject.delete", self._delete)
        add("POST", data + "/sobjects/{type}", "sobject.create", self._create)
        add("PATCH", data + "/sobjects/{type}/{field}/{value}", "sobject.upsert", self._upsert)
        add("GET", data + "/sobjects/{type}/{field}/{value}", "sobject.get", self._get_by_field)

    async def handle(self, request: Request) -> Response:
        """Answer one request; never raises for what a client did."""
        try:
            path = request.path.rstrip("/")
            if path.startswith("/services/oauth2/"):
                fault = self.faults.take("*", "oauth.token")
                if fault is not None:
                    await self._meet(fault)
                return self.oauth.handle(request)
            if path == "/services/data":
                return answer([{"label": f"v{v}", "url": f"/services/data/v{v}", "version": v} for v in VERSIONS])
            return await self._authenticated(request, path)
        except SalesforceError as error:
            return error.response()
        except (BadJsonError, orjson.JSONDecodeError) as error:
            return SalesforceError(400, "JSON_PARSER_ERROR", str(error)).response()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # Handlers trust the shape of a body; one of another shape ends here.
            told = f"a value is missing or of the wrong type ({type(error).__name__}: {error})"
            return SalesforceError(400, "JSON_PARSER_ERROR", told).response()

    async def _authenticated(self, request: Request, path: str) -> Response:
        token = self.world.tokens.get(request.bearer)
        if (
            token is None
            or token.revoked
            or not token.account.startswith("salesforce:")
            or (token.expires is not None and token.expires <= self.world.clock())
        ):
            raise SalesforceError(401, "INVALID_SESSION_ID", "Session expired or invalid")
        account = self.world.accounts[token.account]
        found = self.router.match(request.method, path)
        if found is None or not found[2][0].startswith("v"):
            raise SalesforceError(404, "NOT_FOUND", "The requested resource does not exist")
        operation, handler, parameters = found
        if not account.limits.take_daily():
            account.limits.tally.refuse()
            raise SalesforceError(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
        account.limits.tally.count(operation, _rows(request, operation))
        fault = self.faults.take(account.key, operation)
        if fault is not None and fault.kind != "207":
            await self._meet(fault)
        response = handler(Call(request, account, token, fault, parameters[0]), *parameters[1:])
        limits = account.limits
        response.headers.append(
            (b"sforce-limit-info", f"api-usage={limits.used_today}/{limits.daily or 100_000}".encode())
        )
        return response

    @staticmethod
    async def _meet(fault: Fault) -> None:
        if fault.kind in {"latency", "timeout"}:
            await asyncio.sleep((fault.ms or (60_000 if fault.kind == "timeout" else 1_000)) / 1000)
            if fault.kind == "timeout":
                raise SalesforceError(504, "SERVER_UNAVAILABLE", "The request timed out")
            return
        if fault.kind == "401":
            raise SalesforceError(401, "INVALID_SESSION_ID", "Session expired or invalid")
        if fault.kind in {"403", "429"}:
            raise SalesforceError(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
        code = "SERVER_UNAVAILABLE" if fault.kind == "503" else "UNKNOWN_EXCEPTION"
        raise SalesforceError(
            int(fault.kind),
            code,
            "An unexpected error occurred. Please include this ErrorId if you contact support: 1-2",
        )

    # ---------------------------------------------------------------- records

    @staticmethod
    def _limits(call: Call) -> Response:
        limits = call.account.limits
        most = limits.daily or 100_000
        return answer({"DailyApiRequests": {"Max": most, "Remaining": max(0, most - limits.used_today)}})

    def _get(self, call: Call, name: str, record_id: str) -> Response:
        record = existing(call, kind_of(name), record_id)
        return answer(show(call.account, record, call.request.names("fields") or None, call.version))

    def _by_field(self, call: Call, kind: SalesforceType, field: str, value: str) -> Record | None:
        if field not in call.account.catalogue[kind.name]:
            raise SalesforceError(
                404, "NOT_FOUND", f"Provided external ID field does not exist or is not accessible: {field}"
            )
        found = [row for row in call.account.live(kind.name) if str(row.values.get(field)) == value]
        if len(found) > 1:
            raise SalesforceError(300, "MULTIPLE_CHOICES", f"{len(found)} records have {field} = {value}")
        return found[0] if found else None

    def _get_by_field(self, call: Call, name: str, field: str, value: str) -> Response:
        record = self._by_field(call, kind_of(name), field, value)
        if record is None:
            raise SalesforceError(404, "NOT_FOUND", "The requested resource does not exist")
        return answer(show(call.account, record, None, call.version))

    def _update(self, call: Call, name: str, record_id: str) -> Response:
        record = existing(call, kind_of(name), record_id)
        self._write(call, record)
        return Response(204)

    def _write(self, call: Call, record: Record) -> None:
        if self.world.update(call.account, record, accept(call.account, record.type, call.body), call.token.actor):
            touch_subjects(self.world, call.account, record, call.token.actor)

    def _made(self, call: Call, kind: SalesforceType, body: dict[str, Any]) -> Record:
        values = accept(call.account, kind.name, body, creating=True)
        record = self.world.create(call.account, kind.name, values, call.token.actor)
        touch_subjects(self.world, call.account, record, call.token.actor)
        return record

    def _create(self, call: Call, name: str) -> Response:
        kind = salesforce_type(name)
        if kind is None:
            raise SalesforceError(404, "NOT_FOUND", "The requested resource does not exist")
        record = self._made(call, kind, call.body)
        return answer({"id": record.id, "success": True, "errors": []}, 201)

    def _upsert(self, call: Call, name: str, field: str, value: str) -> Response:
        kind = kind_of(name)
        record = self._by_field(call, kind, field, value)
        if record is None:
            record = self._made(call, kind, {**call.body, field: value})
            return answer({"id": record.id, "success": True, "errors": [], "created": True}, 201)
        self._write(call, record)
        return answer({"id": record.id, "success": True, "errors": [], "created": False})

    def _delete(self, call: Call, name: str, record_id: str) -> Response:
        self.world.archive(call.account, existing(call, kind_of(name), record_id), call.token.actor)
        return Response(204)


def _rows(request: Request, operation: str) -> int:
    """Rows of a collections call."""
    if not operation.startswith("collections"):
        return 1
    body = request.json()
    rows = body.get("records") or body.get("ids")
    return len(rows) if isinstance(rows, list) else 1
