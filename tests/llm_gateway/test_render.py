from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.render import PromptFileError, canonical, parse
from tests.llm_gateway.conftest import Verdict

FILE = """---
name: verdict
version: 3
max_output_tokens: 700
---
# system
You judge leads.
# user
The record:
{{record}}
Today: {{ today }}
"""


def test_a_file_has_a_name_a_version_and_named_slots():
    file = parse(FILE, "verdict.md")
    assert (file.name, file.version, file.max_output_tokens, file.temperature) == ("verdict", "3", 700, 0.0)
    assert file.system == "You judge leads."
    assert file.slots == {"record", "today"}


def test_values_that_are_not_text_become_canonical_json():
    assert parse(FILE, "f").render({"record": {"b": 1, "a": None}, "today": "Monday"}) == (
        'The record:\n{"a":null,"b":1}\nToday: Monday'
    )


@given(st.text())
def test_a_value_is_never_read_for_slots_again(text: str):
    """INVARIANT: CRM text is data. If this fails, a note that says {{today}} reaches into the prompt."""
    rendered = parse(FILE, "f").render({"record": {"note": text + "{{today}}"}, "today": "Monday"})
    assert rendered == f"The record:\n{canonical({'note': text + '{{today}}'}).decode()}\nToday: Monday"


@given(st.text())
def test_text_inside_a_value_cannot_leave_its_line(text: str):
    """INVARIANT: if this fails, a note can begin a line of its own and pose as an instruction."""
    line = parse(FILE, "f").render({"record": {"note": text}, "today": "Monday"}).split("\n")[1]
    assert json.loads(line) == {"note": text}


@pytest.mark.parametrize("values", [{"record": 1}, {"record": 1, "today": 2, "more": 3}, {}])
def test_missing_and_unknown_values_are_errors(values):
    with pytest.raises(PromptFileError, match="slot"):
        parse(FILE, "f").render(values)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("no front matter", "front matter"),
        (FILE.replace("version: 3\n", ""), "lacks 'version'"),
        (FILE.replace("version: 3", "version: 3\nversion: 4"), "once each"),
        (FILE.replace("version: 3", "versoin: 3"), "once each"),
        (FILE.replace("700", "many"), "numbers"),
        (FILE.replace("# system", "# sytem"), "# system"),
        (FILE.replace("# system\n", "stray\n# system\n"), "# system"),
        (FILE.replace("You judge leads.", "You judge {{record}}."), "system part has a slot"),
        (FILE.replace("{{record}}", "{{Record}}"), "a slot is written"),
    ],
)
def test_a_broken_file_says_what_is_wrong_and_where(broken: str, says: str):
    with pytest.raises(PromptFileError, match=says) as raised:
        parse(broken, "verdict.md")
    assert "verdict.md" in str(raised.value)


def test_a_file_makes_a_prompt_whose_facts_are_its_values():
    prompt = parse(FILE, "f").prompt(Verdict, {"record": {"a": 1}, "today": "Monday"})
    assert prompt.facts == {"record": {"a": 1}, "today": "Monday"}
    assert (prompt.version, prompt.max_output_tokens) == ("3", 700)
