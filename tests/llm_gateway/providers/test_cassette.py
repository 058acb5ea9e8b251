"""Recorded answers: the same question gets the same answer, another question none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llm_gateway.providers.cassette import Cassette, CassetteError
from llm_gateway.providers.provider import Completed, Completion, Message, QuestionRefused

ASKED = Completion(
    "m", (Message("system", "You judge."), Message("user", "a lead")), {"type": "json_object"}, 100, 0.0, 5.0
)


class Once:
    """Answers, and counts how often."""

    name = "groq"
    key = "k"

    def __init__(self) -> None:
        self.asked = 0

    async def complete(self, request: Completion) -> Completed:
        self.asked += 1
        return Completed("{}", request.model, input_tokens=12, output_tokens=3, cached_input_tokens=1)

    async def close(self) -> None: ...


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "verdict.jsonl"


async def test_what_was_recorded_once_is_replayed_without_asking(path: Path):
    model = Once()
    tape = Cassette(path, model)
    first = await tape.complete(ASKED)
    await tape.complete(replace(ASKED, timeout=60.0))
    tape.save()
    assert model.asked == 1
    replayed = Cassette(path)
    assert await replayed.complete(ASKED) == first
    assert (len(replayed), replayed.replayed, replayed.recorded) == (1, 1, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "n"},
        {"messages": (Message("system", "You judge!"), Message("user", "a lead"))},
        {"messages": (*ASKED.messages, Message("user", "again"))},
        {"response_format": {"type": "text"}},
        {"max_output_tokens": 101},
        {"temperature": 0.1},
    ],
)
async def test_whatever_the_model_would_be_told_differently_is_another_question(path: Path, changes: dict[str, object]):
    tape = Cassette(path, Once())
    await tape.complete(ASKED)
    tape.save()
    with pytest.raises(QuestionRefused, match="Record it again"):
        await Cassette(path).complete(replace(ASKED, **changes))  # type: ignore[arg-type]


async def test_a_recording_is_the_same_bytes_in_whatever_order_it_was_made(tmp_path: Path):
    questions = [replace(ASKED, model=name) for name in "abc"]
    made = []
    for name, order in (("one", questions), ("other", questions[::-1])):
        tape = Cassette(tmp_path / name, Once())
        for question in order:
            await tape.complete(question)
        tape.save()
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]


def test_nothing_new_leaves_the_file_alone(path: Path):
    Cassette(path).save()
    assert not path.exists()


@pytest.mark.parametrize("line", ["no json", "{}", '{"question": "q", "model": "m", "answer": {"said": 1}}', "[]"])
def test_a_broken_file_is_named_with_its_line(path: Path, line: str):
    path.parent.mkdir()
    path.write_text(line + "\n")
    with pytest.raises(CassetteError, match=r"verdict\.jsonl:1"):
        Cassette(path)
