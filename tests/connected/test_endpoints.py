"""Endpoints on a real database, as an operator handles them: configuration, rotation, windows, on and off."""

from __future__ import annotations

import pytest

from tests.connected.test_console import Command, environment, hookline  # noqa: F401 - the fixtures

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

DECLARATION = "preset: github\nchanges: {account: 'hubspot:145883449', object: \"'deal'\", id: event.id}\n"


@pytest.fixture
def app(hookline, monkeypatch):  # noqa: F811
    hookline("tenant", "add", "senders")
    monkeypatch.setenv("HOOKLINE_NEW_SECRET", "first-client-secret")
    hookline("endpoint", "add", "hubspot", "--tenant", "senders", "--name", "rotating")
    return "rotating"


def test_secrets_rotate_in_windows_that_are_shown_and_an_endpoint_goes_off_and_on(hookline, app, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HOOKLINE_NEW_SECRET", "second-client-secret")
    said = hookline("endpoint", "rotate-secret", app, "--overlap", "2h")
    shown = hookline("endpoint", "show", app)
    for text in (said, shown):
        assert "first-client" not in text
        assert "second-client" not in text
        assert text.count("now") >= 2
    assert "until (UTC)" in shown
    monkeypatch.setenv("HOOKLINE_NEW_SECRET", "")
    assert "HubSpot draws an app's client secret itself" in hookline.fails("endpoint", "rotate-secret", app)
    assert "is no length of time" in hookline.fails("endpoint", "rotate-secret", app, "--overlap", "soon")
    monkeypatch.setenv("HOOKLINE_NEW_SECRET", "your-client-secret")
    assert "the secret does not count" in hookline.fails("endpoint", "add", "hubspot", "--tenant", "senders")
    assert "the secret does not count" in hookline.fails("endpoint", "rotate-secret", app)
    hookline("endpoint", "disable", app)
    assert "enabled no" in hookline("endpoint", "show", app)
    hookline("endpoint", "enable", app)
    assert "enabled yes" in hookline("endpoint", "show", app)


def test_a_declared_sender_is_registered_and_changed(hookline, app, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setenv("HOOKLINE_NEW_SECRET", "")
    assert "needs --config" in hookline.fails("endpoint", "add", "custom", "--tenant", "senders")
    (tmp_path / "a.yaml").write_text(DECLARATION)
    said = hookline("endpoint", "add", "custom", "--tenant", "senders", "--name", "hub", "--config", "a.yaml")
    assert "(shown once)" in said
    hookline("endpoint", "configure", "hub", "--network", "192.30.252.0/22")
    shown = hookline("endpoint", "show", "hub")
    assert '"networks": ["192.30.252.0/22"]' in shown
    assert '"preset": "github"' in shown
    assert "networks.0: 'everywhere' does not appear to be" in hookline.fails(
        "endpoint", "configure", "hub", "--network", "everywhere"
    )
    (tmp_path / "body.json").write_text('{"id": 7}')
    code, tried = hookline._run(
        ("source", "test", "--endpoint", "hub", "--body", "body.json", "--from", "192.30.252.1")
    )
    assert (code, "SIGNATURE_MISSING" in tried, "hubspot:145883449" in tried) == (1, True, True)
    code, tried = hookline._run(("source", "test", "--endpoint", "hub", "--body", "body.json", "--from", "192.30.0.1"))
    assert (code, "ADDRESS_NOT_ALLOWED" in tried) == (1, True)
    assert "nothing to change" in hookline.fails("endpoint", "configure", "hub")
    assert "a Salesforce endpoint's secret is its address" in _salesforce(hookline)


def _salesforce(hookline) -> str:  # noqa: F811
    hookline(
        "endpoint",
        "add",
        "salesforce",
        "--tenant",
        "senders",
        "--name",
        "org",
        "--certificate-name",
        "proxy.salesforce.com",
    )
    assert "the address itself" in hookline("endpoint", "show", "org")
    return hookline.fails("endpoint", "rotate-secret", "org")
