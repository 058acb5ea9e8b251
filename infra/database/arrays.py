"""Arrays as PostgreSQL writes them, for statements that give whole columns.

The driver converts a list value by value and asks each of its type first: for a record's four names that is a sixth of what a
statement costs. As one text each is a join.

Law: the same values arrive; whatever is no list of texts, or of whole numbers, is left to the driver.
Source: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

_ARRAY: Final = re.compile(r"%\((\w+)\)[bst]::(text|int|bigint)\[\]")


@lru_cache(maxsize=1_000)
def read(statement: str) -> tuple[str, tuple[tuple[str, bool], ...]]:
    """The statement with those arrays as texts, and their names, each with whether its values are texts."""
    names = {found[1]: found[2] == "text" for found in _ARRAY.finditer(statement)}
    return _ARRAY.sub(r"%(\1)s::\2[]", statement), tuple(names.items())


def written(given: Mapping[str, Any], names: Iterable[tuple[str, bool]]) -> dict[str, Any]:
    """The values with those lists as texts; others, and what is written already, as they are."""
    made = dict(given)
    for name, is_text in names:
        values = made[name]
        if type(values) is list:
            found = texts(values) if is_text else numbers(values)
            if found is not None:
                made[name] = found
    return made


def texts(values: Iterable[Any]) -> str | None:
    """An array of any texts; None where something else is among them, which the driver may know how to write."""
    quoted = []
    for value in values:
        if type(value) is str:
            plain = "\\" not in value and '"' not in value
            quoted.append(f'"{value}"' if plain else _escaped(value))
        elif value is None:
            quoted.append("NULL")
        else:
            return None
    return "{" + ",".join(quoted) + "}"


def numbers(values: Iterable[Any]) -> str | None:
    """An array of whole numbers; None as in `texts`."""
    said = []
    for value in values:
        if type(value) is int:
            said.append(str(value))
        elif value is None:
            said.append("NULL")
        else:
            return None
    return "{" + ",".join(said) + "}"


def _escaped(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
