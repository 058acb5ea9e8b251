"""Rules for every test: no test touches the network beyond this machine, and unit tests touch none at all."""

from __future__ import annotations

import os
import signal
import socket

import pytest

pytest_plugins = ["tests.servers"]

# A worker process of pytest-xdist is given its parent's width here; what a command prints must not depend on it.
os.environ.pop("COLUMNS", None)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's `&` starts us so, and the processes that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_LOCAL = ("127.", "::1", "localhost")


@pytest.fixture(autouse=True, scope="session")
def _clean_environment():
    """Settings of the person's shell must not decide a test; the servers' URLs are taken up by tests/connected."""
    kept = {name: os.environ[name] for name in ("KAFKA_URL", "DATABASE_URL", "REDIS_URL") if name in os.environ}
    for name in list(os.environ):
        if name.startswith(("HOOKLINE_", "GROQ_", "OTEL_")) and name not in {
            "HOOKLINE_MAVEN_URL",
            "HOOKLINE_JAVA_HOME",
        }:
            del os.environ[name]
    for name in kept:
        del os.environ[name]
    os.environ.update({f"TEST_{name}": value for name, value in kept.items()})
    return kept


@pytest.fixture(autouse=True)
def _local_network_only(monkeypatch: pytest.MonkeyPatch):
    """A test that reaches out fails here, not in somebody's firewall."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address, *rest):
        if isinstance(address, tuple) and not str(address[0]).startswith(_LOCAL):
            raise AssertionError(f"a test wanted to connect to {address[0]}")
        return connect(self, address, *rest)

    monkeypatch.setattr(socket.socket, "connect", guarded)
