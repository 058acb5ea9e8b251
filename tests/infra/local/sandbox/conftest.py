"""A started sandbox, a receiver for its webhooks, and the vendors' own clients pointed at it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import requests
from hubspot import HubSpot
from requests.adapters import HTTPAdapter
from simple_salesforce import Salesforce

from infra.local.sandbox.server import Sandbox

APP = 14947547
SECRET = "0d55ecae-dd5e-4b3c"
PORTAL = "hubspot:145883449"
ORG = "salesforce:00D5g000004XyzAEAS"
ACK = b'<r xmlns="http://soap.sforce.com/2005/09/outbound"><Ack>true</Ack></r>'


class Received(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Takes webhooks; answers as told (`answers`: statuses or (status, body)), afterwards with `otherwise`."""

    url: str = ""
    otherwise: tuple[int, bytes] = (200, ACK)
    answers: deque = field(default_factory=deque)
    inbox: queue.Queue = field(default_factory=queue.Queue)
    gate: threading.Event = field(default_factory=threading.Event)

    def take(self, timeout: float = 10) -> Received:
        return self.inbox.get(timeout=timeout)

    def take_all(self, sandbox) -> list[Received]:
        """Everything that is sent until the sandbox is idle."""
        found = []
        while True:
            try:
                found.append(self.inbox.get(timeout=0.02))
            except queue.Empty:
                if sandbox.controls.state()["idle"] and self.inbox.empty():
                    return found


@pytest.fixture
def receiver():
    told = Receiver()
    told.gate.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            told.inbox.put(Received(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            told.gate.wait(10)
            status, answer = told.answers.popleft() if told.answers else told.otherwise
            # A sender that waited too long has hung up.
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_port}"
    yield told
    told.gate.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
async def sandbox(tmp_path):
    """Started and empty; delays of deliveries are a hundredth of a demo's."""
    async with Sandbox(tmp_path / "sandbox", time_scale=0.01) as running:
        yield running


@pytest.fixture
def controls(sandbox):
    return sandbox.controls


@pytest.fixture
def portal(controls, receiver):
    """One app, told at the receiver, installed in one portal."""
    controls.create_app(APP, SECRET, f"{receiver.url}/hooks/hubspot?tenant=a%2Fb")
    controls.create_portal(145883449, APP, "token-of-hookline")
    return PORTAL


@pytest.fixture
def org(controls, receiver):
    """One org, told at the receiver."""
    controls.create_org("00D5g000004XyzA", "session-of-hookline", f"{receiver.url}/hooks/salesforce/s3cret")
    return ORG


@pytest.fixture
def hubspot(sandbox, portal):
    return HubSpot(access_token="token-of-hookline", host=sandbox.base)


class ToSandbox(HTTPAdapter):
    """simple-salesforce hard-codes https and its hosts."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def send(self, request, **kwargs):
        url = urlsplit(request.url)
        request.url = f"{self.base}{url.path}{'?' + url.query if url.query else ''}"
        return super().send(request, **kwargs)


@pytest.fixture
def salesforce_session(sandbox):
    with requests.Session() as session:
        session.mount("https://", ToSandbox(sandbox.base))
        yield session


@pytest.fixture
def salesforce(salesforce_session, org):
    return Salesforce(session_id="session-of-hookline", instance="na1.salesforce.com", session=salesforce_session)
