"""The judge of `make conformance` sees what is wrong, and lets pass what is right."""

import dataclasses
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import urllib3

from bench.conformance import Exchange, Judge, Recorder, judged, unmodified

ROW = {"id": "1", "objectWriteTraceId": "1", "properties": {"hookline_score": "7"}}
DONE = {
    "status": "COMPLETE",
    "results": [
        {
            "id": "1",
            "properties": {"hookline_score": "7", "empty": None},
            "createdAt": "2026-11-01T00:00:00.000Z",
            "updatedAt": "2026-11-02T00:00:00.000Z",
            "archived": False,
        }
    ],
    "startedAt": "2026-11-02T00:00:00.000Z",
    "completedAt": "2026-11-02T00:00:00.100Z",
}
GOOD = Exchange(
    "POST",
    "/crm/v3/objects/contacts/batch/update",
    (),
    (("Authorization", "Bearer x"), ("Content-Type", "application/json")),
    json.dumps({"inputs": [ROW]}).encode(),
    200,
    "application/json",
    json.dumps(DONE).encode(),
)


@pytest.fixture(scope="module")
def judge():
    return Judge()


def asking(**body) -> Exchange:
    return dataclasses.replace(GOOD, body=json.dumps(body).encode())


def test_a_right_call_is_right(judge):
    assert judge.of(GOOD) == ""


@pytest.mark.parametrize(
    "planted",
    [
        asking(inputs=[{**ROW, "id": 1}]),
        asking(inputs=[{**ROW, "propertys": {}}]),
        asking(inputs=[{"id": "1"}]),
        asking(inputs=[{**ROW, "properties": {"hookline_score": 7}}]),
        asking(rows=[ROW]),
        asking(inputs=[ROW] * 101),
        dataclasses.replace(GOOD, answer=json.dumps({**DONE, "status": "FINE"}).encode()),
        dataclasses.replace(GOOD, answer=json.dumps({**DONE, "results": "none"}).encode()),
        dataclasses.replace(GOOD, method="PUT"),
        dataclasses.replace(GOOD, headers=GOOD.headers[1:]),
    ],
    ids=["number for id", "unknown field", "missing", "number for value", "no inputs", "101 rows", "bad status",
         "bad results", "wrong method", "no token"],
)  # fmt: skip
def test_a_planted_violation_is_found(judge, planted):
    assert judge.of(planted)
    found = judged([GOOD, planted], judge)
    assert (found["requests"], found["violations"]) == (2, 1)
    assert list(found["violated"])


def test_what_no_document_describes_is_counted_apart(judge):
    strange = dataclasses.replace(GOOD, path="/crm/v3/owners")
    found = judged([GOOD, strange], judge)
    assert (found["requests"], found["without_document"]) == (1, {"POST /crm/v3/owners": 1})


def test_the_recorder_passes_everything_on_and_keeps_it():
    class Upstream(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(207)
            self.send_header("content-type", "application/json")
            self.send_header("x-hubspot-ratelimit-max", "110")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as upstream:
        upstream.daemon_threads = True
        thread = threading.Thread(target=upstream.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        with Recorder() as recorder, urllib3.PoolManager() as pool:
            recorder.upstream = f"http://127.0.0.1:{upstream.server_port}"
            answer = pool.request("POST", f"{recorder.url}/crm/v3/objects/notes/12?a=b", body=b'{"x": 1}')
            assert (answer.status, answer.data, answer.headers["x-hubspot-ratelimit-max"]) == (207, b'{"x": 1}', "110")
        upstream.shutdown()
        thread.join()
    (kept,) = recorder.exchanges
    assert (kept.operation, kept.query, kept.body) == ("POST /crm/v3/objects/notes/{id}", (("a", "b"),), b'{"x": 1}')


def test_simple_salesforce_is_as_it_was_published():
    assert unmodified("simple-salesforce")
