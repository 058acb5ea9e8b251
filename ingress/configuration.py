"""What an endpoint may be configured with, by source, and the errors that a person reads when it is wrong.

Law: the console asks here before anything is stored; the hot path never does. No error repeats a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from pydantic import ConfigDict, Field, ValidationError

from ingress.conditions import Conditions
from ingress.sources.source import Source


class ConfigurationError(ValueError):
    """It cannot be used; the text names every field that is wrong and what to do."""


class EndpointConfiguration(Conditions):
    """What every endpoint may have. A source with fields of its own has a subclass."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate_per_second: float | None = Field(default=None, ge=0)
    """Outweighs the setting; 0: no limit."""
    rate_burst: int | None = Field(default=None, ge=1)


@runtime_checkable
class Configured(Protocol):
    """A source with a configuration of its own."""

    configuration: type[EndpointConfiguration]


def checked(source: Source, given: Mapping[str, Any]) -> dict[str, Any]:
    """`given`, unchanged, if an endpoint of this source may have it; raises ConfigurationError."""
    model = source.configuration if isinstance(source, Configured) else EndpointConfiguration
    try:
        model.model_validate(dict(given))
    except ValidationError as error:
        raise ConfigurationError(
            f"this configuration cannot be used for {source.name}:\n" + "\n".join(problem_lines(error))
        ) from None
    return dict(given)


_REMEDIES = {
    "missing": "is missing: add it",
    "extra_forbidden": "is no field that is known here: remove it, or see docs/senders.md for the name that is meant",
    "union_tag_invalid": "names no scheme: hmac, bearer, basic or standard_webhooks",
    "union_tag_not_found": "is missing: hmac, bearer, basic or standard_webhooks",
}
_TAGS = frozenset({"hmac", "bearer", "basic", "standard_webhooks"})


def problem_lines(error: ValidationError) -> list[str]:
    """One line a problem: the field's place, and what to write there."""
    found = []
    for problem in error.errors(include_url=False, include_input=False):
        place = [str(part) for part in problem["loc"]]
        # Pydantic puts the union's tag into the path; nobody wrote it there.
        if place[:1] == ["verify"] and len(place) > 1 and place[1] in _TAGS:
            del place[1]
        if problem["type"].startswith("union_tag"):
            place.append("scheme")
        said = _REMEDIES.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
        field = ".".join(part for part in place if part)
        found.append(f"  - {field}: {said}" if field else f"  - {said}")
    return list(dict.fromkeys(found))
