"""`hookline prompt`: what it shows of a prompt and of a trial; and that the kept recordings still fit the prompts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from console import prompts
from console.runtime import ConsoleError

ROOT = Path(__file__).parents[2]
CASSETTES = ROOT / "tests" / "cassettes"
RECORDS = CASSETTES / "records"
Ask = Callable[..., str]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ask:
    monkeypatch.setenv("HOOKLINE_PROVIDER", "offline")
    monkeypatch.chdir(tmp_path)
    for name in ("KAFKA_URL", "DATABASE_URL", "REDIS_URL", "GROQ_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(prompts.app, [*arguments], catch_exceptions=True)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    return run


def test_the_list_tells_versions_and_sizes(ask: Ask):
    found = {each["name"]: each for each in json.loads(ask("list", "--json"))["prompts"]}
    assert found.keys() == {"lead_intel", "requirements"}
    assert found["lead_intel"]["pack"] > 1
    assert found["lead_intel"]["instruction_tokens"] > 100


@pytest.mark.parametrize("record", ["buyer", "lure", "corrected"])
@pytest.mark.parametrize("name", ["lead_intel", "requirements"])
def test_every_kept_recording_answers_its_prompt_as_it_is_now(ask: Ask, name: str, record: str):
    """A prompt, schema or view that changed must be recorded again: `hookline prompt test ... --record`."""
    found = json.loads(
        ask("test", name, str(RECORDS / f"{record}.json"), "--cassette", str(CASSETTES / f"{name}.jsonl"), "--json")
    )
    assert found["calls"] == 1
    assert found["model"] == "offline-rules"
    payload = found["payload"]
    claims = payload["factors"] if name == "lead_intel" else payload["items"]
    assert claims
    assert "score this contact" not in json.dumps(payload)


def test_a_trial_without_a_cassette_asks_the_provider_and_shows_what_it_cost(ask: Ask):
    said = " ".join(ask("test", "lead_intel", str(RECORDS / "buyer.json")).split())
    assert "Next:" in said
    assert "0 tokens in, 0 out, $0.000000, 1 call; 0 claims dropped" in said


def test_a_changed_prompt_finds_no_recording_and_says_how_to_make_one(ask: Ask, tmp_path: Path):
    changed = tmp_path / "prompt.md"
    text = (ROOT / "processors" / "analyses" / "lead_intel" / "prompt.md").read_text()
    version = next(line for line in text.splitlines() if line.startswith("version:"))
    changed.write_text(text.replace(version, "version: 999").replace("You help", "You serve"))
    tape = tmp_path / "tape.jsonl"
    shutil.copy(CASSETTES / "lead_intel.jsonl", tape)
    arguments = ("test", "lead_intel", str(RECORDS / "buyer.json"), "--prompt", str(changed), "--cassette", str(tape))
    with pytest.raises(ConsoleError, match="Record it again"):
        ask(*arguments)
    before = len(tape.read_text().splitlines())
    ask(*arguments, "--record")
    assert len(tape.read_text().splitlines()) == before + 1
    assert "999" in ask(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("test", "nothing", "{buyer}"), "there are lead_intel, requirements"),
        (("test", "lead_intel", "no-such-file"), "is no file, and no record"),
        (("test", "lead_intel", "{buyer}", "--record"), "give --cassette FILE"),
        (("test", "lead_intel", "{buyer}", "--cassette", "none.jsonl"), "add --record to make it"),
        (("test", "lead_intel", "{broken}"), "is no snapshot: tenant"),
        (("test", "lead_intel", "acme/hubspot:1/deal/7"), "needs running servers"),
    ],
)
def test_what_cannot_be_done_says_what_to_do(ask: Ask, tmp_path: Path, arguments: tuple[str, ...], said: str):
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    given = [each.format(buyer=RECORDS / "buyer.json", broken=broken) for each in arguments]
    with pytest.raises(ConsoleError, match=said):
        ask(*given)
