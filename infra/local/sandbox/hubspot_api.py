"""HubSpot's API below the sandbox's own address: who may call, how often, and the calls on objects.

Law: answers in HubSpot's shapes alone (OpenAPI documents of hubspot-api-client 12); a token decides the portal.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from infra.local.sandbox.activities import touch_subjects
from infra.local.sandbox.hubspot_associations import HubSpotAssociations
from infra.local.sandbox.hubspot_batches import HubSpotBatches
from infra.local.sandbox.hubspot_call import Call, create_one, kind_of
from infra.local.sandbox.hubspot_errors import (
    HubSpotError,
    bad_request,
    invalid_properties,
    not_found,
    rate_limited,
    unauthenticated,
)
from infra.local.sandbox.hubspot_oauth import HubSpotOAuth
from infra.local.sandbox.hubspot_properties import HubSpotProperties
from infra.local.sandbox.hubspot_search import HubSpotSearch
from infra.local.sandbox.hubspot_values import accept, by_property, show
from infra.local.sandbox.limits import Fault, Faults
from infra.local.sandbox.state import Account, Record, World
from infra.local.sandbox.web import BadJsonError, Request, Response, Router, answer

_NUMBER = re.compile(r"(?<=/)\d+(?=/|$)")


class HubSpotApi:
    """Serves HubSpot's paths."""

    def __init__(self, world: World, faults: Faults) -> None:
        self.world = world
        self.faults = faults
        self.oauth = HubSpotOAuth(world)
        self.router = Router()
        add = self.router.add
        objects = "/crm/v3/objects/{type}"
        HubSpotBatches(world).register(self.router)
        HubSpotSearch().register(self.router)
        HubSpotProperties(world).register(self.router)
        HubSpotAssociations(world).register(self.router)
        add("GET", objects, "objects.list", self._list)
        add("POST", objects, "objects.create", self._create)
        add("GET", objects + "/{id}", "objects.get", self._get)
        add("PATCH", objects + "/{id}", "objects.update", self._update)
        add("DELETE", objects + "/{id}", "objects.archive", self._archive)
        add("POST", objects + "/merge", "objects.merge", self._merge)
        add("POST", objects + "/gdpr-delete", "objects.gdpr_delete", self._erase)
        add("GET", "/account-info/v3/details", "account.details", self._details)
        add("GET", "/crm/v3/owners", "owners.list", self._owners)
        add("GET", "/crm/v3/owners/", "owners.list", self._owners)

    async def handle(self, request: Request) -> Response:
        """Answer one request; never raises for what a client did."""
        try:
            if request.path.startswith("/oauth/"):
                return self.oauth.handle(request)
            return await self._authenticated(request)
        except HubSpotError as error:
            return error.response()
        except BadJsonError as error:
            return bad_request(f"Invalid input JSON: {error}").response()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # Handlers trust the shape of a body; one of another shape ends here.
            return bad_request(
                f"Invalid input: a value is missing or of the wrong type ({type(error).__name__}: {error})"
            ).response()

    async def _authenticated(self, request: Request) -> Response:
        token = self.world.tokens.get(request.bearer)
        if token is None or token.revoked or not token.account.startswith("hubspot:"):
            raise unauthenticated()
        if token.expires is not None and token.expires <= self.world.clock():
            raise unauthenticated(expired=True)
        account = self.world.accounts[token.account]
        found = self.router.match(request.method, request.path)
        if found is None:
            raise HubSpotError(
                404, "OBJECT_NOT_FOUND", f"No handler in this stand-in for {request.method} {request.path}"
            )
        operation, handler, parameters = found
        limits = account.limits
        if limits.daily is not None and limits.used_today >= limits.daily:
            limits.tally.refuse()
            return self._limited(rate_limited("DAILY").response(), account, 0)
        left = limits.take(token.app_id)
        if left == -1:
            limits.tally.refuse()
            return self._limited(rate_limited("TEN_SECONDLY_ROLLING").response(), account, 0)
        if operation == "objects.search" and not account.limits.take_search():
            return self._limited(rate_limited("SECONDLY").response(), account, left)
        limits.tally.count(f"{operation} {_NUMBER.sub('{id}', request.path)}", _inputs(request))
        fault = self.faults.take(account.key, operation)
        if fault is not None and fault.kind != "207":
            planted = await self._meet(fault)
            if planted is not None:
                return self._limited(planted, account, left)
        return self._limited(handler(Call(request, account, token, fault), *parameters), account, left)

    @staticmethod
    async def _meet(fault: Fault) -> Response | None:
        if fault.kind in {"latency", "timeout"}:
            await asyncio.sleep((fault.ms or (60_000 if fault.kind == "timeout" else 1_000)) / 1000)
            return (
                HubSpotError(504, "GATEWAY_TIMEOUT", "The request timed out").response()
                if fault.kind == "timeout"
                else None
            )
        if fault.kind == "401":
            return unauthenticated().response()
        if fault.kind == "429":
            return rate_limited("TEN_SECONDLY_ROLLING").response()
        categories = {"403": "MISSING_SCOPES", "423": "LOCKED"}
        return HubSpotError(int(fault.kind), categories.get(fault.kind, "INTERNAL_ERROR"), "internal error").response()

    @staticmethod
    def _limited(response: Response, account: Account, left: int | None) -> Response:
        """Add the rate-limit headers, as HubSpot's "API usage guidelines" name them."""
        limits = account.limits
        if limits.per_ten_seconds is not None:
            response.headers += [
                (b"x-hubspot-ratelimit-max", str(limits.per_ten_seconds).encode()),
                (b"x-hubspot-ratelimit-remaining", str(left or 0).encode()),
                (b"x-hubspot-ratelimit-interval-milliseconds", str(limits.window_ms).encode()),
            ]
        if limits.daily is not None:
            response.headers += [
                (b"x-hubspot-ratelimit-daily", str(limits.daily).encode()),
                (b"x-hubspot-ratelimit-daily-remaining", str(max(0, limits.daily - limits.used_today)).encode()),
            ]
        return response

    # ---------------------------------------------------------------- single objects

    def _list(self, call: Call, name: str) -> Response:
        kind = kind_of(name)
        limit = min(int(call.request.param("limit", "10") or 10), 100)
        after = call.request.param("after")
        archived = call.request.param("archived") == "true"
        names, history = call.request.names("properties"), call.request.names("propertiesWithHistory")
        rows = [record for record in call.account.records[kind.plural].values() if record.archived == archived]
        start = next((i for i, record in enumerate(rows) if record.id == after), len(rows)) if after else 0
        body: dict[str, Any] = {
            "results": [self._with_links(call, row, names, history) for row in rows[start : start + limit]]
        }
        if start + limit < len(rows):
            following = rows[start + limit].id
            link = f"https://api.hubapi.com/crm/v3/objects/{kind.plural}?after={following}"
            body["paging"] = {"next": {"after": following, "link": link}}
        return answer(body)

    @staticmethod
    def _with_links(call: Call, record: Record, names: list[str], history: list[str]) -> dict[str, Any]:
        shown = show(record, call.account, names, history)
        wanted = call.request.names("associations")
        found: dict[str, Any] = {}
        for name in wanted:
            kind = kind_of(name)
            links = record.links.get(kind.plural, {})
            label = f"{call.account.canonical(record.type)}_to_{kind.canonical}"
            if links:
                found[kind.plural] = {"results": [{"id": key, "type": label} for key in links]}
        if found:
            shown["associations"] = found
        return shown

    def _one(self, call: Call, name: str, record_id: str) -> Record:
        kind = kind_of(name)
        unique = call.request.param("idProperty")
        if call.request.param("archived") == "true":
            record = call.account.records[kind.plural].get(record_id)
            if record is not None and not record.archived:
                record = None
        elif unique:
            record = by_property(call.account, kind.plural, unique, record_id)
        else:
            record = call.account.find(kind.plural, record_id)
        if record is None or record.gone == "erased":
            raise not_found()
        return record

    def _get(self, call: Call, name: str, record_id: str) -> Response:
        record = self._one(call, name, record_id)
        return answer(
            self._with_links(
                call, record, call.request.names("properties"), call.request.names("propertiesWithHistory")
            )
        )

    def _create(self, call: Call, name: str) -> Response:
        kind = kind_of(name)
        record = create_one(self.world, call.account, kind, call.body, call.token)
        return answer(show(record, call.account, list(call.body.get("properties", {}))), 201)

    def _update(self, call: Call, name: str, record_id: str) -> Response:
        record = self._one(call, name, record_id)
        values, problems = accept(call.account, record.type, call.body.get("properties", {}))
        if problems:
            raise invalid_properties(problems)
        if self.world.update(call.account, record, values, call.token.actor):
            touch_subjects(self.world, call.account, record, call.token.actor)
        return answer(show(record, call.account, list(values)))

    def _archive(self, call: Call, name: str, record_id: str) -> Response:
        record = call.account.find(kind_of(name).plural, record_id)
        if record is not None:
            self.world.archive(call.account, record, call.token.actor)
        return Response(204)

    def _merge(self, call: Call, name: str) -> Response:
        winner = self._one(call, name, str(call.body.get("primaryObjectId", "")))
        loser = self._one(call, name, str(call.body.get("objectIdToMerge", "")))
        if winner is loser:
            raise bad_request("Cannot merge an object with itself")
        self.world.merge(call.account, winner, [loser], call.token.actor)
        return answer(show(winner, call.account, []))

    def _erase(self, call: Call, name: str) -> Response:
        kind = kind_of(name)
        key, unique = str(call.body.get("objectId", "")), call.body.get("idProperty")
        record = by_property(call.account, kind.plural, unique, key) if unique else call.account.find(kind.plural, key)
        if record is None:
            raise not_found()
        self.world.archive(call.account, record, call.token.actor, erase=True)
        return Response(204)

    # ---------------------------------------------------------------- the account

    @staticmethod
    def _details(call: Call) -> Response:
        return answer(
            {
                "portalId": int(call.account.number),
                "accountType": "STANDARD",
                "timeZone": "Europe/Berlin",
                "companyCurrency": "EUR",
                "additionalCurrencies": [],
                "utcOffset": "+01:00",
                "utcOffsetMilliseconds": 3_600_000,
                "uiDomain": "app.hubspot.com",
                "dataHostingLocation": "eu1",
            }
        )

    @staticmethod
    def _owners(call: Call) -> Response:
        people = []
        for user, full_name in call.account.users:
            first, _, last = full_name.partition(" ")
            times = {"createdAt": "2024-01-08T09:00:00.000Z", "updatedAt": "2024-01-08T09:00:00.000Z"}
            email = f"{first}.{last}@sandbox.example".lower()
            owner = {
                "id": user,
                "userId": int(user),
                "email": email,
                "firstName": first,
                "lastName": last,
                "type": "PERSON",
            }
            people.append({**owner, **times, "archived": False, "teams": []})
        return answer({"results": people})


def _inputs(request: Request) -> int:
    """Rows of a batch call."""
    if "/batch/" not in request.path:
        return 1
    rows = request.json().get("inputs")
    return len(rows) if isinstance(rows, list) else 0
