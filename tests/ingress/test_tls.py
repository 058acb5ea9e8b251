"""TLS that ends at the front door, over loopback with real certificates and the server that we run."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from infra.http_server import listen
from infra.settings import Settings, SettingsError, problems
from ingress import tls
from ingress.server import HttpServer, wire_limits
from tests.ingress.fakes import endpoint, house
from tests.ingress.making_certificates import Authority

PATH = f"/hooks/{endpoint().id}"
SALESFORCE = endpoint("salesforce", config={"client_certificate": {"names": ["proxy.salesforce.com"]}})
OPEN = endpoint("salesforce", id="Another0endpoint0that0asks0nothing")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    ours, theirs, strangers = Authority("ours"), Authority("theirs"), Authority("strangers")
    return {
        "server": ours.write(folder, "server", "localhost", "localhost", "127.0.0.1"),
        "ours": ours.write_ca(folder / "ours.pem"),
        "theirs": theirs.write_ca(folder / "theirs.pem"),
        "salesforce": theirs.write(folder, "salesforce", "proxy.salesforce.com", "proxy.salesforce.com"),
        "somebody": theirs.write(folder, "somebody", "somebody.example.com"),
        "stranger": strangers.write(folder, "stranger", "proxy.salesforce.com", "proxy.salesforce.com"),
    }


def settings(files, asks="optional", **changes) -> Settings:
    given = {
        "ingress_tls_cert_file": files["server"][0],
        "ingress_tls_key_file": files["server"][1],
        "ingress_tls_client_ca_file": files["theirs"],
        "ingress_tls_client_certificates": asks,
    }
    return Settings(_env_file=None, **{**given, **changes})


async def post(port: int, files, who: str | None, path: str = PATH) -> str:
    """The answer's status line and body; raises OSError where the handshake or the connection fails."""
    context = ssl.create_default_context(cafile=str(files["ours"]))
    if who is not None:
        context.load_cert_chain(*files[who])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    try:
        writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nConnection: close\r\n\r\n<x/>".encode())
        return (await reader.read()).decode()
    finally:
        writer.close()


async def refused_by_tls(port: int, files, who: str | None, path: str = PATH) -> bool:
    """Whether no answer comes: TLS 1.3 says so after the handshake, as an error or as an end."""
    try:
        return await post(port, files, who, path) == ""
    except (ssl.SSLError, ConnectionError):
        return True


class Running:
    def __init__(self, found: Settings) -> None:
        self.house = house(SALESFORCE, OPEN)
        self._socket = listen("127.0.0.1", 0, "ingress_port")
        self.port = self._socket.getsockname()[1]
        self._server = HttpServer(self.house.receiver, wire_limits(found), lambda *_: "0" * 32, tls.options(found))

    async def __aenter__(self):
        await self._server.start(self._socket)
        return self

    async def __aexit__(self, *_):
        await self._server.stop()


async def test_an_endpoint_may_ask_for_a_client_certificate(files):
    """INVARIANT: only who holds the key of a certificate from that CA, with that name, gets an Ack."""
    async with Running(settings(files)) as running:
        assert "<Ack>true</Ack>" in await post(running.port, files, "salesforce")
        for who in (None, "somebody"):
            answer = await post(running.port, files, who)
            assert answer.startswith("HTTP/1.1 500")
            assert "CERTIFICATE_REFUSED" in answer
            assert "Ack" not in answer
        assert "<Ack>true</Ack>" in await post(running.port, files, None, f"/hooks/{OPEN.id}")
        assert await refused_by_tls(running.port, files, "stranger")
        assert len(running.house.publisher.outgoing) == 2


async def test_where_a_certificate_is_required_nobody_else_speaks_at_all(files):
    async with Running(settings(files, "required")) as running:
        assert "<Ack>true</Ack>" in await post(running.port, files, "salesforce")
        assert await refused_by_tls(running.port, files, None, f"/hooks/{OPEN.id}")
        assert len(running.house.publisher.outgoing) == 1


def test_files_that_cannot_be_used_are_named(files, tmp_path):
    broken = tmp_path / "broken.pem"
    broken.write_text("no PEM")
    for name in ("ingress_tls_cert_file", "ingress_tls_client_ca_file"):
        for path in (broken, tmp_path / "none.pem"):
            with pytest.raises(SettingsError, match=name.upper()):
                tls.options(settings(files, **{name: path}))
    assert tls.options(Settings(_env_file=None)) == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"trusted_proxies": "10.0.0.1/8"},
            "HOOKLINE_TRUSTED_PROXIES: 10.0.0.1/8 has host bits set; write networks as",
        ),
        ({"client_certificate_header": "xfcc"}, "no proxy is trusted to write it: set HOOKLINE_TRUSTED_PROXIES"),
        ({"ingress_tls_cert_file": "a.pem"}, "HOOKLINE_INGRESS_TLS_KEY_FILE is not set"),
        ({"ingress_tls_client_certificates": "optional"}, "HOOKLINE_INGRESS_TLS_CLIENT_CA_FILE is not set"),
    ],
)
def test_settings_that_contradict_each_other_are_said_before_the_start(given, said):
    assert any(said in line for line in problems(Settings(_env_file=None, **given), ()))


def test_settings_without_any_of_it_have_no_problem():
    assert problems(Settings(_env_file=None, trusted_proxies="10.0.0.0/8, unix"), ()) == []
