"""`make conformance`: the HubSpot traffic of a journey against HubSpot's own API descriptions; the last line is JSON.

All roles speak to the CRMs through a proxy that keeps each request and answer. Afterwards openapi-core, which knows nothing
of Hookline, holds every HubSpot exchange against the documents of HubSpot's client library (tests/data/hubspot-openapi).
Requests are taken strictly: a field that the documents do not name is a violation. The Salesforce traffic is
simple-salesforce's own: its files are compared with the checksums that it was published with.

Law: records and judges; changes no byte. What no document describes is counted apart, never as valid.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import dataclasses
import hashlib
import importlib.metadata
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import urllib3
from openapi_core import OpenAPI
from openapi_core.exceptions import OpenAPIError
from openapi_core.testing import MockRequest, MockResponse

import bench.crm_house
from tests.journeys.house import House, until
from tests.journeys.place import open_place

DOCUMENTS = Path(__file__).parents[1] / "tests" / "data" / "hubspot-openapi"
HOST = "https://api.hubapi.com"
NAMES = ("contacts", "companies", "deals", "leads", "notes", "tasks", "properties", "associations_v4", "oauth_v1")
SAME_SHAPE = re.compile(r"^/crm/v3/objects/(emails|tickets)(?=/|$)")
"""Of these the documents are not here; HubSpot's objects API has one shape for all, so they are held against that of notes."""
_PASSED = {"authorization", "content-type", "accept", "user-agent", "sforce-call-options", "x-prettyprint"}


@dataclass(frozen=True)
class Exchange:
    """One request and its answer."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]
    body: bytes
    status: int
    content_type: str
    answer: bytes

    @property
    def operation(self) -> str:
        """Method and path without ids."""
        return f"{self.method} {re.sub(r'(?<=/)[0-9]+(?=/|$)', '{id}', self.path)}"


class Recorder:
    """A proxy on loopback that keeps what passes. Use as a context manager; `upstream` may be set later."""

    def __init__(self) -> None:
        self.upstream = ""
        self.exchanges: list[Exchange] = []
        recorder = self
        pool = urllib3.PoolManager(maxsize=32, retries=False)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name: value for name, value in self.headers.items() if name.lower() in _PASSED}
                answer = pool.request(
                    self.command, recorder.upstream + self.path, body=body or None, headers=headers, redirect=False
                )
                parts = urlsplit(self.path)
                recorder.exchanges.append(
                    Exchange(
                        self.command,
                        parts.path,
                        tuple(parse_qsl(parts.query, keep_blank_values=True)),
                        tuple(headers.items()),
                        body,
                        answer.status,
                        answer.headers.get("content-type", "").partition(";")[0],
                        answer.data,
                    )
                )
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    if name.lower() not in {"content-length", "transfer-encoding", "connection", "date", "server"}:
                        self.send_header(name, value)
                self.send_header("content-length", str(len(answer.data)))
                self.end_headers()
                self.wfile.write(answer.data)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _pass  # noqa: N815 - the library's names

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Judge:
    """Holds exchanges against HubSpot's documents."""

    def __init__(self) -> None:
        self._answers = {name: OpenAPI.from_dict(_document(name)) for name in NAMES}
        self._requests = {name: OpenAPI.from_dict(_strict(_document(name))) for name in NAMES}

    def of(self, exchange: Exchange) -> str | None:
        """What is wrong with it; empty: nothing; None: no document describes it."""
        path = SAME_SHAPE.sub("/crm/v3/objects/notes", exchange.path)
        found = _document_of(path)
        if found is None:
            return None
        asked = MockRequest(
            HOST,
            exchange.method.lower(),
            path,
            args=dict(exchange.query),
            headers={name.title(): value for name, value in exchange.headers},
            data=exchange.body or None,
            content_type=next((value for name, value in exchange.headers if name.lower() == "content-type"), "application/json"),
        )  # fmt: skip
        try:
            self._requests[found].validate_request(asked)
            if len((_json(exchange.body) or {}).get("inputs") or ()) > 100:
                return "more than 100 inputs"
            if exchange.answer:
                told = MockResponse(exchange.answer, exchange.status, content_type=exchange.content_type)
                self._answers[found].validate_response(asked, told)
        except OpenAPIError as error:
            return _said(error)
        return ""


def judged(exchanges: list[Exchange], judge: Judge) -> dict[str, Any]:
    """Counts, and the first violation of each operation."""
    by_operation: Counter[str] = Counter()
    violations: dict[str, list[str]] = {}
    undescribed: Counter[str] = Counter()
    for exchange in exchanges:
        wrong = judge.of(exchange)
        if wrong is None:
            undescribed[exchange.operation] += 1
            continue
        by_operation[exchange.operation] += 1
        if wrong:
            violations.setdefault(exchange.operation, []).append(wrong)
    return {
        "requests": by_operation.total(),
        "violations": sum(len(each) for each in violations.values()),
        "by_operation": dict(sorted(by_operation.items())),
        "violated": {operation: each[0] for operation, each in violations.items()},
        "without_document": dict(undescribed),
    }


def unmodified(distribution: str) -> bool:
    """Whether every file of an installed package is as its publisher's RECORD says."""
    found = importlib.metadata.distribution(distribution)
    checked = 0
    for name, checksum, _ in csv.reader((found.read_text("RECORD") or "").splitlines()):
        if name.endswith(".py") and checksum:
            kind, _, digest = checksum.partition("=")
            held = hashlib.new(kind, Path(str(found.locate_file(name))).read_bytes()).digest()
            if base64.urlsafe_b64encode(held).rstrip(b"=").decode() != digest:
                return False
            checked += 1
    return checked > 0


def _document(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DOCUMENTS / f"{name}.json").read_text())
    schemas = loaded["components"]["schemas"]
    for schema in schemas.values():
        # The wire says null for a property without a value, which the documents leave out.
        values = schema.get("properties", {}).get("properties", {}).get("additionalProperties")
        if values:
            values["nullable"] = True
    if "StandardError" in schemas:
        # The wire says a string such as crm.associations.NO_ASSOCIATIONS_FOUND, the documents an object.
        schemas["StandardError"]["properties"]["subCategory"] = {"type": "string"}
    return loaded


def _strict(document: dict[str, Any]) -> dict[str, Any]:
    for schema in document["components"]["schemas"].values():
        if "properties" in schema and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
    return document


_PATHS = {name: [re.compile("^" + re.sub(r"\{[^}]+\}", "[^/]+", path) + "$") for path in json.loads((DOCUMENTS / f"{name}.json").read_text())["paths"]] for name in NAMES} if DOCUMENTS.exists() else {}  # fmt: skip


def _document_of(path: str) -> str | None:
    return next((name for name, paths in _PATHS.items() if any(each.match(path) for each in paths)), None)


def _json(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body) if body else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _said(error: BaseException) -> str:
    cause = error.__cause__
    details = "; ".join(each.message for each in getattr(cause, "schema_errors", ()))
    return f"{type(error).__name__}: {details or cause or error}"[:300]


@contextmanager
def recorded(house: House, recorder: Recorder) -> Iterator[House]:
    """The house, whose roles were told to speak to the recorder, with this process doing so, too."""
    recorder.upstream = house.sandbox.base
    yield dataclasses.replace(house, settings=house.settings.model_copy(update={"sandbox_url": recorder.url}))


async def journey(house: House) -> None:
    """Everything that makes the product call a CRM: setting up, changes, notes, many at once, deletions, faults."""
    async with open_place(house, salesforce=True) as place:
        controls = place.controls
        person = {"firstname": "Ada", "lastname": "Lovelace", "email": "ada@engines.example", "jobtitle": "Buyer"}
        contacts = [controls.create_record(place.portal, "contact", person)["id"] for _ in range(30)]
        company = controls.create_record(place.portal, "company", {"name": "Engines", "domain": "engines.example"})[
            "id"
        ]
        deals = [
            controls.create_record(place.portal, "deal", {"dealname": f"Engine {each}", "amount": "1000"})["id"]
            for each in range(12)
        ]
        lead = {"FirstName": "Ada", "LastName": "Lovelace", "Company": "Engines", "Email": "ada@engines.example"}
        for _ in range(12):
            controls.create_record(place.org, "lead", lead)
        await until("all have an insight", place.settled, 90)
        for each in deals:
            controls.note(place.portal, each, "They must have SSO & SCIM by March.")
            controls.note(place.portal, each, "Send the offer", kind="email", subject="Re: offer")
        controls.save(place.portal, "company", company, {"city": "London"})
        controls.merge(place.portal, "contact", contacts[0], contacts[1:2])
        controls.delete(place.portal, "contact", contacts[2])
        controls.plant_fault(place.portal, "objects.batch_update", "207", count=1, rows=1)
        for one in contacts[3:20]:
            controls.save(place.portal, "contact", one, {"jobtitle": "Director"})
        await until("all that can have an insight", lambda: controls.state()["idle"], 90)
        await until("all are settled", lambda: _mostly(place.reconciled().unsettled), 90)


def _mostly(unsettled: Any) -> bool:
    # The merged, the deleted and the one whose write was refused may wait.
    return len(unsettled) <= 3


def main() -> int:
    """Run; 0 when nothing was violated and everything is described."""
    recorder = Recorder()

    async def measure(house: House) -> tuple[dict[str, Any], bool]:
        with recorded(house, recorder) as told:
            await journey(told)
        hubspot = [each for each in recorder.exchanges if not each.path.startswith("/services/")]
        result = await asyncio.to_thread(judged, hubspot, Judge())
        result["salesforce_requests"] = len(recorder.exchanges) - len(hubspot)
        result["simple_salesforce_unmodified"] = unmodified("simple-salesforce")
        good = not result["violations"] and result["requests"] > 0 and result["simple_salesforce_unmodified"]
        return result, bool(good)

    with recorder:
        return bench.crm_house.main("conformance", measure, HOOKLINE_COALESCE_WINDOW_SECONDS="0.3", HOOKLINE_SANDBOX_URL=recorder.url)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
