"""Prompt files: text with a version in its front matter, rendered by filling named slots and nothing else.

A prompt file:

    ---
    name: lead_intel
    version: 3
    max_output_tokens: 1500
    ---
    # system
    You score leads. ...
    # user
    The record, as JSON:
    {{record}}

Law: no logic, no nesting; a filled-in value is never read for slots again; the system part has no slots, so that no
word of a customer's can stand where instructions stand, and providers can cache it. A missing or an unknown value is
an error. Values that are not text are written as canonical JSON, which text inside them cannot break out of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import orjson

from llm_gateway.prompt import Judgement, Prompt, T

_SLOT = re.compile(r"\{\{\s*([a-z][a-z0-9_]*)\s*\}\}")
_KNOWN = frozenset({"name", "version", "max_output_tokens", "temperature", "cache_ttl_seconds", "pack"})


class PromptFileError(ValueError):
    """A prompt file, or what it was rendered with, is wrong; the text says where."""


@dataclass(frozen=True, slots=True)
class PromptFile:
    """One prompt file, read."""

    name: str
    version: str
    system: str
    user: str
    """With its slots."""
    slots: frozenset[str]
    max_output_tokens: int = 2000
    temperature: float = 0.0
    cache_ttl_seconds: int | None = None
    """How long its answers are kept; 0: not at all, None: as settings say."""
    pack: int = 1
    """At most so many questions share one call; 1: none."""

    def render(self, values: Mapping[str, Any]) -> str:
        """The user part with every slot filled; raises PromptFileError for missing and for unknown values."""
        if values.keys() != self.slots:
            missing = ", ".join(sorted(self.slots - values.keys())) or "none"
            unknown = ", ".join(sorted(values.keys() - self.slots)) or "none"
            raise PromptFileError(
                f"prompt {self.name} {self.version}: slots without a value: {missing}; values without a slot: {unknown}"
            )
        return _SLOT.sub(lambda found: _text(values[found[1]]), self.user)

    def prompt(
        self,
        answer: type[T],
        values: Mapping[str, Any],
        *,
        facts: Mapping[str, Any] | None = None,
        rules: Callable[[Mapping[str, Any]], T] | None = None,
        judge: Callable[[T], Judgement] | None = None,
        language: Callable[[], str] | None = None,
    ) -> Prompt[T]:
        """The question, ready to ask; `facts` are `values` unless given."""
        return Prompt(
            name=self.name,
            version=self.version,
            system=self.system,
            user=self.render(values),
            answer=answer,
            facts=values if facts is None else facts,
            rules=rules,
            max_output_tokens=self.max_output_tokens,
            temperature=self.temperature,
            cache_ttl_seconds=self.cache_ttl_seconds,
            judge=judge,
            language=language,
            pack=self.pack,
        )


def load(path: Path | Traversable) -> PromptFile:
    """Read a prompt file (blocks; once, when a plug-in is built); raises PromptFileError."""
    return parse(path.read_text(encoding="utf-8"), path.name)


def parse(text: str, where: str) -> PromptFile:
    """Read a prompt file's text; `where` names it in errors."""
    lines = text.lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in (line.strip() for line in lines[1:]):
        raise PromptFileError(f"{where}: it must begin with front matter between two lines of ---")
    end = next(number for number, line in enumerate(lines[1:], 1) if line.strip() == "---")
    matter = _front_matter(lines[1:end], where)
    system, user = _parts(lines[end + 1 :], where)
    if _SLOT.search(system):
        raise PromptFileError(
            f"{where}: the system part has a slot; what changes from record to record belongs to the user part"
        )
    slots = frozenset(_SLOT.findall(user))
    if "{{" in _SLOT.sub("", user):
        raise PromptFileError(f"{where}: a slot is written {{{{name}}}}, in lower case letters, digits and _")
    try:
        return PromptFile(
            name=matter["name"],
            version=matter["version"],
            system=system,
            user=user,
            slots=slots,
            max_output_tokens=int(matter.get("max_output_tokens", "2000")),
            temperature=float(matter.get("temperature", "0")),
            cache_ttl_seconds=int(matter["cache_ttl_seconds"]) if "cache_ttl_seconds" in matter else None,
            pack=max(1, int(matter.get("pack", "1"))),
        )
    except KeyError as missing:
        raise PromptFileError(f"{where}: the front matter lacks {missing}") from None
    except ValueError:
        raise PromptFileError(
            f"{where}: max_output_tokens, temperature, cache_ttl_seconds and pack are numbers"
        ) from None


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values, equal bytes. Raises TypeError for what is not JSON-able."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else canonical(value).decode()


def _front_matter(lines: list[str], where: str) -> dict[str, str]:
    matter: dict[str, str] = {}
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if not colon or not value.strip() or name.strip() not in _KNOWN or name.strip() in matter:
            raise PromptFileError(f"{where}: front matter is `name: value`, once each, of {', '.join(sorted(_KNOWN))}")
        matter[name.strip()] = value.strip().strip("\"'")
    return matter


def _parts(lines: list[str], where: str) -> tuple[str, str]:
    marks = [
        (number, line.strip().lower())
        for number, line in enumerate(lines)
        if line.strip().lower() in {"# system", "# user"}
    ]
    if [mark for _, mark in marks] != ["# system", "# user"] or any(line.strip() for line in lines[: marks[0][0]]):
        raise PromptFileError(f"{where}: after the front matter come `# system` and `# user`, once each, in this order")
    (first, _), (second, _) = marks
    return "\n".join(lines[first + 1 : second]).strip(), "\n".join(lines[second + 1 :]).strip()
