"""What a shadow replay tries out in the place of what is live: another prompt, model or version of an analysis.

Law: the analysis itself is left as it is: its questions are put in the words of another prompt file on their way out, so
that every analysis that asks through a prompt file can be tried, without knowing of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel

from llm_gateway.prompt import Answer, Prompt
from llm_gateway.render import PromptFile, PromptFileError, parse
from processors.analyses.analysis import Analysis, Ask, Context, Finding
from schemas.record import RecordSnapshot

T = TypeVar("T", bound=BaseModel)
SLOT = "record"


class CandidateError(ValueError):
    """What was asked to be tried cannot be; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One analysis, changed. Empty fields mean: as it is live."""

    analysis: str = ""
    prompt: str = ""
    """The prompt file's text."""
    model: str = ""
    plugin: str = ""
    """A module that ends in PLUGIN: another version of the analysis, installed beside the live one."""

    @classmethod
    def read(cls, analysis: str, prompt_file: Path | None, model: str, plugin: str) -> Self:
        """From a command's options; raises CandidateError."""
        if prompt_file is None:
            return cls(analysis, "", model, plugin)
        try:
            return cls(analysis, prompt_file.read_text(encoding="utf-8"), model, plugin)
        except (OSError, UnicodeDecodeError) as error:
            raise CandidateError(
                f"{prompt_file} cannot be read ({type(error).__name__}): give a prompt file"
            ) from error

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From `as_json`."""
        return cls(**{name: str(given.get(name, "")) for name in ("analysis", "prompt", "model", "plugin")})

    def as_json(self) -> dict[str, str]:
        """For the table `replays`; holds no customer's data."""
        found = {"analysis": self.analysis, "prompt": self.prompt, "model": self.model, "plugin": self.plugin}
        return {name: value for name, value in found.items() if value}

    def analyses(self, installed: Mapping[str, Analysis]) -> dict[str, Analysis]:
        """What speaks instead of `installed`: the same, but for the one that is tried. Raises CandidateError."""
        found = dict(installed)
        if self.plugin or self.prompt:
            if self.analysis not in found:
                known = ", ".join(sorted(found))
                raise CandidateError(f"a prompt or plug-in belongs to one analysis: give --analysis, one of {known}")
            base = _plugin(self.plugin, self.analysis) if self.plugin else found[self.analysis]
            found[self.analysis] = reprompted(base, self.prompt) if self.prompt else base
        return found


class Reprompted:
    """An analysis that asks in the words of another prompt file."""

    def __init__(self, inner: Analysis, file: PromptFile) -> None:
        self.inner = inner
        self._file = file
        self.name = inner.name
        self.objects = inner.objects
        self.wants_matches = inner.wants_matches
        self.replaced_system = ""
        """The instructions that the last question had before; what a plan compares the new ones with."""

    @property
    def version(self) -> str:
        """The prompt file's, and the analysis's own: its rules count on."""
        return f"{self._file.version}/{self.inner.version}"

    def inputs(self, snapshot: RecordSnapshot) -> dict[str, Any]:
        """See Analysis."""
        return self.inner.inputs(snapshot)

    def pieces(self, snapshot: RecordSnapshot) -> Mapping[str, Any]:
        """See Analysis."""
        return self.inner.pieces(snapshot)

    async def analyse(self, context: Context) -> Finding:
        """See Analysis."""
        return await self.inner.analyse(replace(context, ask=self._asking(context.ask)))

    def _asking(self, ask: Ask) -> Ask:
        def reworded(prompt: Prompt[T], /) -> Awaitable[Answer[T]]:
            self.replaced_system = prompt.system
            return ask(
                self._file.prompt(
                    prompt.answer,
                    {SLOT: prompt.facts},
                    facts=prompt.facts,
                    rules=prompt.rules,
                    judge=prompt.judge,
                    language=prompt.language,
                )
            )

        return reworded


def reprompted(inner: Analysis, text: str) -> Reprompted:
    """`inner`, asking in the words of a prompt file; raises CandidateError for a file that does not fit it."""
    try:
        file = parse(text, "the prompt file")
    except PromptFileError as error:
        raise CandidateError(str(error)) from error
    if file.name != inner.name:
        raise CandidateError(f"the prompt file is for {file.name!r}, not for {inner.name!r}: see `name:` at its top")
    if file.slots != {SLOT}:
        raise CandidateError(f"the prompt file must have the slot {{{{{SLOT}}}}} in its user part, and no other")
    if file.version == inner.version.partition("/")[0]:
        raise CandidateError(
            f"the prompt file has version {file.version}, as the live one has: raise `version:` at its top, so that "
            "insights and accounts tell the two apart"
        )
    return Reprompted(inner.inner if isinstance(inner, Reprompted) else inner, file)


def _plugin(module: str, analysis: str) -> Analysis:
    try:
        found: Analysis = importlib.import_module(module).PLUGIN
    except (ImportError, AttributeError) as error:
        raise CandidateError(f"{module} is no module that ends in PLUGIN ({type(error).__name__})") from error
    if found.name != analysis:
        raise CandidateError(f"{module} is the analysis {found.name!r}: give --analysis {found.name}")
    return found
