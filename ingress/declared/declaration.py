"""A declaration: everything that is known of a sender that has no code of its own here.

Law: read whole or not at all. Each error names the field and what to write there; no error repeats a value, for somebody may have
put a secret where it does not belong. A declaration holds no secret: those are the endpoint's.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from infra.accounts import RegistryError, account_id
from ingress.configuration import ConfigurationError, EndpointConfiguration, problem_lines
from ingress.declared.bounded import Expression, compiled
from ingress.declared.presets import completed
from ingress.declared.schemes import Scheme
from schemas.change import ChangeKind
from schemas.record import ObjectType

MAX_FILE_BYTES = 64 * 1024


DeclarationError = ConfigurationError
"""The declaration cannot be used; the text names every field that is wrong and what to do, and holds no value of it."""


def _expression(text: str) -> str:
    compiled(text)
    return text


Jmespath = Annotated[str, AfterValidator(_expression)]
"""Searched in `{"body": the whole body, "event": one event of it, "position": its place from 0}`."""


class Changes(BaseModel):
    """Where in the body stands what a Change needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["json", "form"] = "json"
    """`form`: application/x-www-form-urlencoded; each name with its first value."""
    events: Jmespath = "body"
    """One event, or a list of them."""
    when: Jmespath | None = None
    """Events for which this is false, null or empty are counted and dropped."""
    account: str
    """`hubspot:33` or `salesforce:00D...` as it is, or an expression that gives it."""
    object: Jmespath
    id: Jmespath
    kind: Jmespath | None = None
    occurred_at: Jmespath | None = None
    """ISO 8601, or seconds or milliseconds since 1970."""
    event_id: Jmespath | None = None
    """What makes it the same event when it comes again."""
    fields: Jmespath | None = None
    """Names of the fields that changed: a list, or one name."""
    edited_by: Jmespath | None = None
    objects: dict[str, ObjectType | Literal["ignore"]] = Field(default_factory=dict)
    """The sender's word → ours, or `ignore`; `*` is every other word. Without it the sender must use our words."""
    kinds: dict[str, ChangeKind | Literal["ignore"]] = Field(default_factory=dict)
    """Likewise."""

    @field_validator("account")
    @classmethod
    def _fixed_or_searched(cls, value: str) -> str:
        try:
            return account_id(value)
        except RegistryError:
            if value.startswith(("hubspot:", "salesforce:")):
                raise ValueError("the id after the colon is none: hubspot:<portal id> or salesforce:<org id>") from None
        return _expression(value)

    def expression(self, name: str) -> Expression | None:
        """The compiled one of this field; None where it is not given, or is a fixed account."""
        text = getattr(self, name)
        if text is None or (name == "account" and text.startswith(("hubspot:", "salesforce:"))):
            return None
        return compiled(text)


class Declaration(EndpointConfiguration):
    """One sender: how it signs, what its bodies mean, and the conditions that every endpoint may set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    preset: str | None = None
    verify: Scheme
    changes: Changes

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """Fill in what the preset says."""
        return completed(given) if isinstance(given, Mapping) else given


def read(given: Mapping[str, Any]) -> Declaration:
    """The declaration; raises DeclarationError with every problem at once."""
    try:
        return Declaration.model_validate(dict(given))
    except ValidationError as error:
        raise DeclarationError("this declaration cannot be used:\n" + "\n".join(problem_lines(error))) from None


def read_file(path: Path) -> dict[str, Any]:
    """What a YAML, TOML or JSON file says, not yet judged; raises DeclarationError."""
    loaders: dict[str, Callable[[str], Any]] = {
        ".yaml": _yaml,
        ".yml": _yaml,
        ".toml": tomllib.loads,
        ".json": json.loads,
    }
    loader = loaders.get(path.suffix.lower())
    if loader is None:
        raise DeclarationError(
            f"{path.name}: the name must end in {', '.join(sorted(loaders))}, to say what it is written in"
        )
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DeclarationError(
                f"{path.name}: larger than {MAX_FILE_BYTES} bytes; a declaration has some dozen lines"
            )
        found = loader(path.read_text("utf-8"))
    except OSError as error:
        raise DeclarationError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DeclarationError(f"{path.name}: cannot be read as {path.suffix[1:]}: {_where(error)}") from None
    if not isinstance(found, dict):
        raise DeclarationError(f"{path.name}: expected fields such as `verify` and `changes`, found something else")
    return found


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ValueError(f"line {mark.line + 1}, column {mark.column + 1}" if mark else "no YAML") from None
    except yaml.YAMLError:
        raise ValueError("no YAML") from None


def _where(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}: {error.msg}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
