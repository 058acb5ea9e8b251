"""A cassette: a model's answers, recorded once with what they took, and given again to the same questions.

Law: exact question or none: whatever the model would be told differently is another question, and one without a recording is
refused with what to do about it. A cassette is a file of JSON lines, sorted, that is reviewed like code: record it on made-up
records alone, for question and answer stand in it in the clear. Nothing is written before `save`.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from llm_gateway.providers.provider import Completed, Completion, Provider, QuestionRefused
from llm_gateway.render import canonical


class CassetteError(ValueError):
    """The file is no cassette; the text says where."""


class Cassette:
    """Recorded answers. See `Provider`: it replays, and with an `inner` provider records what is missing."""

    def __init__(self, path: Path, inner: Provider | None = None, *, name: str = "") -> None:
        """Reads `path` if it is there (blocks, once); raises CassetteError. `name`: the provider's whose answers these are,
        which prices go by; that of `inner` unless given.
        """
        self._path = path
        self._inner = inner
        self.name = inner.name if inner is not None else name or "groq"
        self.key = inner.key if inner is not None else ""
        self._answers = _read(path)
        self.recorded = 0
        """Answers that were not there before."""
        self.replayed = 0

    def __len__(self) -> int:
        return len(self._answers)

    async def complete(self, request: Completion) -> Completed:
        """See `Provider.complete`; a recorded answer comes at once and costs nothing."""
        name = question(request)
        kept = self._answers.get(name)
        if kept is not None:
            self.replayed += 1
            return Completed(**kept["answer"])
        if self._inner is None:
            raise QuestionRefused(
                f"{self._path} holds no answer of {request.model} to this question: prompt, record or schema have changed since. "
                "Record it again: `hookline prompt test ... --cassette FILE --record`"
            )
        completed = await self._inner.complete(request)
        answer = {field: value for field, value in asdict(completed).items() if field != "headroom"}
        self._answers[name] = {"model": request.model, "answer": answer}
        self.recorded += 1
        return completed

    def save(self) -> None:
        """Write the file, if anything was recorded (blocks)."""
        if not self.recorded:
            return
        lines = [canonical({"question": name, **kept}) for name, kept in sorted(self._answers.items())]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(b"\n".join(lines) + b"\n")

    async def close(self) -> None:
        """See `Provider.close`."""
        if self._inner is not None:
            await self._inner.close()


def question(request: Completion) -> str:
    """What names a question in a cassette: all that the model is told, and no time limits."""
    told = [
        request.model,
        [[turn.role, turn.content] for turn in request.messages],
        request.response_format,
        request.max_output_tokens,
        request.temperature,
    ]
    return hashlib.sha256(canonical(told)).hexdigest()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            entry = orjson.loads(line)
            Completed(**entry["answer"])
            found[str(entry["question"])] = {"model": entry["model"], "answer": entry["answer"]}
        except (ValueError, KeyError, TypeError) as error:
            raise CassetteError(f"{path}:{number}: no recorded answer ({type(error).__name__})") from None
    return found
