"""`hookline source test`, as a person types it: no server is asked."""

from __future__ import annotations

import json
import sys

import pytest

from console.main import main
from tests.ingress.signers import github, slack

BODY = json.dumps({"action": "closed", "deal": {"id": 42, "title": "a customer's words"}, "at": "2026-11-22T10:00:00Z"})
DECLARATION = """
preset: github
changes:
  account: hubspot:145883449
  object: "'deal'"
  id: event.deal.id
  occurred_at: event.at
"""
SECRET = "a-secret-that-nobody-knows"


@pytest.fixture
def hookline(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "github.yaml").write_text(DECLARATION)
    (tmp_path / "body.json").write_text(BODY)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["hookline", *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return code, " ".join((printed.out + printed.err).split())

    return run


def test_a_sample_is_verified_and_shown_as_changes(hookline):
    signature = github(BODY.encode()).request.headers[b"x-hub-signature-256"].decode()
    given = ("source", "test", "github.yaml", "--body", "body.json", "--secret", SECRET)
    code, said = hookline(*given, "--header", f"X-Hub-Signature-256: {signature}")
    assert code == 0
    assert "verification accepted" in said
    assert "1 event(s) would become these Changes" in said
    for part in ("hubspot:145883449", "deal", "42", "updated", "2026-11-22T10:00:00.000Z", "live"):
        assert part in said
    assert "words" not in said
    assert SECRET not in said
    code, said = hookline(*given, "--header", f"X-Hub-Signature-256: {signature[:-1]}x")
    assert (code, "VERIFICATION_FAILED the signature does not hold" in said) == (1, True)
    code, said = hookline(*given)
    assert (code, "SIGNATURE_MISSING a header that the scheme needs did not come" in said) == (1, True)


def test_without_a_secret_the_mapping_alone_is_tried(hookline):
    code, said = hookline("source", "test", "github.yaml", "--body", "body.json")
    assert code == 0
    assert "verification not tried" in said


def test_a_time_can_be_given_for_an_old_sample(hookline, tmp_path):
    (tmp_path / "slack.yaml").write_text(DECLARATION.replace("github", "slack"))
    headers = slack(BODY.encode()).request.headers
    given = ["source", "test", "slack.yaml", "--body", "body.json", "--secret", SECRET]
    for name, value in headers.items():
        given += ["-H", f"{name.decode()}: {value.decode()}"]
    assert hookline(*given, "--at", "2026-11-22T12:01Z")[0] == 0
    code, said = hookline(*given, "--at", "2026-11-22T13:00Z")
    assert (code, "STALE" in said) == (1, True)


def test_what_does_not_become_a_change_says_why(hookline, tmp_path):
    (tmp_path / "body.json").write_text(json.dumps({"deal": {}, "at": "2026-11-22T10:00:00Z"}))
    code, said = hookline("source", "test", "github.yaml", "--body", "body.json")
    assert code == 1
    assert "dead letter MALFORMED_BODY: event 0: changes.id: gives no text" in said
    assert "No Change would come of it." in said


def test_a_wrong_declaration_names_every_field(hookline, tmp_path):
    (tmp_path / "github.yaml").write_text(
        "preset: github\nchanges: {account: hubspot:x, object: 'a[', id: event.id}\nmore: 1\n"
    )
    code, said = hookline("source", "test", "github.yaml", "--body", "body.json")
    assert code == 2
    for part in ("changes.account: the id after the colon", "changes.object: no JMESPath", "more: is no field"):
        assert part in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give either a file with a declaration, or --endpoint NAME"),
        (("none.yaml",), "none.yaml: cannot be read"),
        (("github.yaml", "--body", "none.json"), "none.json: cannot be read"),
        (("github.yaml", "--body", "body.json", "-H", "nonsense"), "write it as `Name: value`"),
        (("github.yaml", "--body", "body.json", "--at", "soon"), "is no time"),
        (("github.yaml", "--source", "sugar"), "source 'sugar' is not installed here: there are custom, hubspot"),
    ],
)
def test_what_cannot_be_done_says_what_to_do(hookline, arguments, said):
    code, printed = hookline("source", "test", *arguments)
    assert code == 2
    assert said in printed


def test_sources_and_presets_are_listed(hookline):
    code, said = hookline("source", "list")
    assert code == 0
    for name in (
        "custom",
        "hubspot",
        "salesforce",
        "standard_webhooks",
        "github",
        "stripe",
        "slack",
        "salesforce_callout",
    ):
        assert name in said
