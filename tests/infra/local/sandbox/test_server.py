"""The server itself: where it listens, its controls over HTTP, and its process."""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest

from infra.local.sandbox.control_api import methods
from infra.local.sandbox.controls import ControlError
from infra.local.sandbox.server import NotLoopbackError, Sandbox, require_loopback

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", ""])
def test_it_refuses_to_listen_anywhere_but_on_loopback(tmp_path, host):
    """INVARIANT: nobody else reaches it. It has no real protection, and its controls ask for no token."""
    with pytest.raises(NotLoopbackError, match=r"127\.0\.0\.1"):
        Sandbox(tmp_path, host=host)


def test_loopback_is_taken_by_any_of_its_names():
    assert [require_loopback(host) for host in ("127.0.0.1", "localhost", "::1")] == ["127.0.0.1", "127.0.0.1", "::1"]


async def test_a_port_that_is_taken_is_an_error_at_once(tmp_path, sandbox):
    with pytest.raises(OSError):
        await Sandbox(tmp_path, port=sandbox.port).start()


async def test_it_can_be_stopped_twice_and_frees_its_port(tmp_path):
    sandbox = Sandbox(tmp_path)
    await sandbox.start()
    await sandbox.stop()
    await sandbox.stop()
    with socket.socket() as again:
        again.bind(("127.0.0.1", sandbox.port))


def test_controls_before_the_start_say_what_to_do(tmp_path):
    with pytest.raises(RuntimeError, match="start"):
        _ = Sandbox(tmp_path).controls


def test_every_control_is_also_a_call_over_http(sandbox, receiver):
    def post(method, **parameters):
        return httpx.post(f"{sandbox.base}/sandbox/{method}", json=parameters)

    assert post("create_app", app_id=7, client_secret="s", target_url=receiver.url).json()["endpoint"] == "app:7"
    assert post("create_portal", portal_id=33, app_id=7, access_token="t", size=20).json()["account"] == "hubspot:33"
    contact = post("records", account="hubspot:33", object="contact").json()[0]
    assert post("save", account="hubspot:33", object="contact", id=contact, properties={"city": "Turku"}).json()[
        "changed"
    ] == {"city": "Turku"}
    given = {
        "name": "hookline_score",
        "label": "Score",
        "type": "number",
        "fieldType": "number",
        "groupName": "hookline",
    }
    body = {"object": "contact", "properties": [given]}
    url = f"{sandbox.base}/sandbox/accounts/hubspot:33/properties"
    assert httpx.post(url, json=body).json() == {"created": ["hookline_score"], "existing": []}
    assert httpx.post(url, json=body).json() == {"created": [], "existing": ["hookline_score"]}
    assert httpx.get(f"{sandbox.base}/sandbox/state").json()["accounts"]["hubspot:33"]["records"]["contacts"] > 0


@pytest.mark.parametrize(
    ("method", "parameters", "says"),
    [
        ("save", {"account": "hubspot:1", "object": "contact", "id": "1", "properties": {}}, "no account"),
        ("records", {"account": "hubspot:145883449", "object": "spaceship"}, "use contact"),
        ("record", {"account": "hubspot:145883449", "object": "contact", "id": "1"}, "has no contact"),
        ("create_app", {"app_id": 1}, "wrong parameters"),
        ("create_app", {"app_id": 14947547, "client_secret": "x"}, "exists already"),
        ("create_portal", {"portal_id": 5, "app_id": 99}, "create_app first"),
        ("create_portal", {"portal_id": 145883449}, "exists already"),
        ("create_org", {"org_id": "0015g000004XyzA"}, "00D"),
        ("plant_fault", {"account": "*", "operation": "*", "kind": "418"}, "kind is"),
        ("set_limits", {"account": "hubspot:145883449", "speed": 1}, "no limit"),
        ("set_manners", {"endpoint": "app:14947547", "speed": 1}, "unknown manners"),
        ("people_start", {"rate": 0}, "above 0"),
        ("people_start", {"mix": {"dance": 1}}, "dance"),
    ],
)
@pytest.mark.usefixtures("portal")
def test_a_control_call_that_cannot_be_carried_out_says_what_to_give_instead(sandbox, method, parameters, says):
    answered = httpx.post(f"{sandbox.base}/sandbox/{method}", json=parameters)
    assert answered.status_code == 400
    assert says in answered.json()["error"]


def test_an_unknown_control_lists_those_that_there_are(sandbox, controls):
    answered = httpx.post(f"{sandbox.base}/sandbox/dance", json={})
    assert answered.status_code == 404
    assert answered.json()["methods"] == methods()
    with pytest.raises(AttributeError, match="create_app"):
        controls.dance()
    with pytest.raises(ControlError):
        controls.records("hubspot:1", "contact")


def test_a_body_above_twenty_megabytes_is_refused(sandbox):
    answered = httpx.post(f"{sandbox.base}/sandbox/state", content=b"x" * (20 * 1024 * 1024 + 1))
    assert answered.status_code == 413


async def test_it_runs_in_a_process_of_its_own_until_it_is_told_to_stop(tmp_path):
    command = [sys.executable, "-m", "infra.local.sandbox", "--data", str(tmp_path), "--port", "0"]
    child = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    told = json.loads(await child.stdout.readline())
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{told['sandbox']}/sandbox/state")).json()["idle"]
    child.send_signal(signal.SIGTERM)
    assert await child.wait() == 0
    assert told["journal"] == str(tmp_path / "journal.jsonl")


async def test_its_process_refuses_another_address_with_a_reason(tmp_path):
    command = [sys.executable, "-m", "infra.local.sandbox", "--data", str(tmp_path), "--host", "0.0.0.0"]
    child = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.PIPE)
    _, said = await child.communicate()
    assert child.returncode == 2
    assert b"loopback" in said


def test_every_control_is_in_the_documentation():
    page = (ROOT / "docs" / "sandbox.md").read_text()
    assert [name for name in methods() if f"`{name}" not in page] == []


async def test_it_ends_with_the_process_that_started_it(tmp_path):
    """INVARIANT: a killed demo leaves no server behind."""
    program = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-m', 'infra.local.sandbox', '--exit-with-parent', "
        f"'--data', {str(tmp_path)!r}], stdout=subprocess.PIPE); sys.stdout.write(child.stdout.readline().decode()); sys.stdout.flush(); "
        "sys.stdin.read()"
    )
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=ROOT, **pipes)
    base = json.loads(await parent.stdout.readline())["sandbox"]
    parent.kill()
    await parent.wait()
    async with httpx.AsyncClient() as client:
        async with asyncio.timeout(20):
            while True:
                try:
                    await client.get(f"{base}/sandbox/state")
                except httpx.TransportError:
                    break
