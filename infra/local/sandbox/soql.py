"""A usable part of SOQL: SELECT fields or COUNT(), FROM, WHERE, ORDER BY, LIMIT, OFFSET.

Law: parses and evaluates over records in memory; what it does not know it refuses as MALFORMED_QUERY, never guesses.
Conditions: =, !=, <, <=, >, >=, LIKE, IN, NOT IN; AND, OR, NOT, parentheses; no relationships, no grouping.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from infra.local.sandbox.identifiers import millis, with_suffix

_TOKEN = re.compile(
    r"\s*(?:(?P<string>'(?:\\.|[^'\\])*')|(?P<time>\d{4}-\d\d-\d\d(?:T[\d:.]+(?:Z|[+-]\d\d:?\d\d))?)"
    r"|(?P<number>-?\d+(?:\.\d+)?)|(?P<word>[A-Za-z_][\w.]*)|(?P<sign><=|>=|!=|<>|[=<>(),]))"
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "'": "'", '"': '"', "\\": "\\", "_": "_", "%": "%"}
MAX_LENGTH = 100_000
MAX_DEPTH = 50

Getter = Callable[[str], Any]
Test = Callable[[Getter], bool]


class SoqlError(ValueError):
    """A query that cannot be understood."""


@dataclass(slots=True)
class Query:
    """A parsed query."""

    fields: list[str] = field(default_factory=list)
    count: bool = False
    source: str = ""
    where: Test = lambda _: True
    used: list[str] = field(default_factory=list)
    """Fields that conditions and ordering name."""
    order: list[tuple[str, bool, bool]] = field(default_factory=list)
    """(field, descending, nulls last)"""
    limit: int | None = None
    offset: int = 0


def parse(text: str) -> Query:
    """Parse one query; raises SoqlError with what was expected where."""
    if len(text) > MAX_LENGTH:
        raise SoqlError(f"the query is longer than {MAX_LENGTH} characters")
    return _Parser(_tokens(text)).query()


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    place, end = 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            raise SoqlError(f"unexpected token: {text[place : place + 20]!r}")
        found.append((match.lastgroup, match.group(match.lastgroup)))
        place = match.end()
    return found


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens
        self.place = 0
        self.depth = 0
        self.result = Query()

    def peek(self) -> str:
        return self.tokens[self.place][1].upper() if self.place < len(self.tokens) else ""

    def take(self, *expected: str) -> str:
        if self.place >= len(self.tokens):
            raise SoqlError(f"unexpected end of query: expected {' or '.join(expected) or 'more'}")
        text = self.tokens[self.place][1]
        if expected and text.upper() not in expected:
            raise SoqlError(f"unexpected token: {text!r}, expected {' or '.join(expected)}")
        self.place += 1
        return text

    def name(self) -> str:
        kind = self.tokens[self.place][0] if self.place < len(self.tokens) else ""
        if kind != "word":
            raise SoqlError(f"unexpected token: {self.take()!r}, expected a name")
        return self.take()

    def optional(self, word: str) -> bool:
        if self.peek() == word:
            self.place += 1
            return True
        return False

    def query(self) -> Query:
        result = self.result
        self.take("SELECT")
        while True:
            word = self.name()
            if word.upper() == "COUNT" and self.optional("("):
                self.take(")")
                result.count = True
            elif word.upper() == "FIELDS" and self.optional("("):
                result.fields.append(f"FIELDS({self.take('ALL', 'STANDARD', 'CUSTOM').upper()})")
                self.take(")")
            else:
                result.fields.append(word)
            if not self.optional(","):
                break
        self.take("FROM")
        result.source = self.name()
        if self.optional("WHERE"):
            result.where = self.either()
        if self.optional("ORDER"):
            self.take("BY")
            self.ordering()
        if self.optional("LIMIT"):
            result.limit = self.whole()
        if self.optional("OFFSET"):
            result.offset = self.whole()
        if self.place < len(self.tokens):
            raise SoqlError(f"unexpected token: {self.take()!r}")
        return result

    def whole(self) -> int:
        text = self.take()
        if not text.isdigit():
            raise SoqlError(f"unexpected token: {text!r}, expected a whole number")
        return int(text)

    def ordering(self) -> None:
        while True:
            column = self.name()
            down = self.optional("DESC")
            if not down:
                self.optional("ASC")
            last = False
            if self.optional("NULLS"):
                last = self.take("FIRST", "LAST").upper() == "LAST"
            self.result.used.append(column)
            self.result.order.append((column, down, last))
            if not self.optional(","):
                return

    def either(self) -> Test:
        tests = [self.both()]
        while self.optional("OR"):
            tests.append(self.both())
        return tests[0] if len(tests) == 1 else lambda get: any(test(get) for test in tests)

    def both(self) -> Test:
        tests = [self.one()]
        while self.optional("AND"):
            tests.append(self.one())
        return tests[0] if len(tests) == 1 else lambda get: all(test(get) for test in tests)

    def one(self) -> Test:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise SoqlError("conditions are nested too deeply")
        try:
            if self.optional("NOT"):
                inner = self.one()
                return lambda get: not inner(get)
            if self.optional("("):
                inner = self.either()
                self.take(")")
                return inner
            return self.condition()
        finally:
            self.depth -= 1

    def condition(self) -> Test:
        column = self.name()
        self.result.used.append(column)
        sign = self.take("=", "!=", "<>", "<", "<=", ">", ">=", "LIKE", "IN", "NOT").upper()
        if sign in {"IN", "NOT"}:
            if sign == "NOT":
                self.take("IN")
            values = self.values()
            wanted = {_comparable(value) for value in values}
            return lambda get: (_comparable(get(column)) in wanted) == (sign == "IN")
        value = self.value()
        if sign == "LIKE":
            pattern = _like(str(value))
            return lambda get: pattern.fullmatch(str(get(column) or "")) is not None
        want = _comparable(value)
        if sign == "=":
            return lambda get: _comparable(get(column)) == want
        if sign in {"!=", "<>"}:
            return lambda get: _comparable(get(column)) != want
        return lambda get: _ordered(sign, _comparable(get(column)), want)

    def values(self) -> list[Any]:
        self.take("(")
        values = [self.value()]
        while self.optional(","):
            values.append(self.value())
        self.take(")")
        return values

    def value(self) -> Any:
        if self.place >= len(self.tokens):
            raise SoqlError("unexpected end of query: expected a value")
        kind, text = self.tokens[self.place]
        self.place += 1
        if kind == "string":
            return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), text[1:-1])
        if kind == "number":
            return float(text)
        if kind == "time":
            return ("time", millis(text)) if "T" in text else text
        words: dict[str, Any] = {"TRUE": True, "FALSE": False, "NULL": None}
        if kind == "word" and text.upper() in words:
            return words[text.upper()]
        raise SoqlError(f"unexpected token: {text!r}, expected a value")


def _comparable(value: Any) -> Any:
    """Values of one kind compare: times as milliseconds, text without case, numbers as numbers."""
    if isinstance(value, tuple):
        return value[1]
    if isinstance(value, str):
        if len(value) > 18 and value[4:5] == "-" and value[10:11] == "T":
            moment = millis(value)
            if moment is not None:
                return moment
        if len(value) == 15 and value.isalnum() and value[:1].isdigit():
            return with_suffix(value).lower()
        return value.lower()
    return value


def _ordered(sign: str, have: Any, want: Any) -> bool:
    if have is None or want is None:
        return False
    try:
        if sign == "<":
            return bool(have < want)
        if sign == "<=":
            return bool(have <= want)
        return bool(have > want) if sign == ">" else bool(have >= want)
    except TypeError:
        return False


def _like(pattern: str) -> re.Pattern[str]:
    parts = [".*" if c == "%" else "." if c == "_" else re.escape(c) for c in pattern]
    return re.compile("".join(parts), re.IGNORECASE | re.DOTALL)


def run(query: Query, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that a query finds, in its order. Field names are looked up as written."""
    found = [row for row in rows if query.where(row.get)]
    for column, down, last in reversed(query.order):
        there = [row for row in found if row.get(column) is not None]
        empty = [row for row in found if row.get(column) is None]
        there.sort(key=lambda row, column=column: _sortable(row[column]), reverse=down)  # type: ignore[misc]  # a default binds the loop's variable
        found = there + empty if last else empty + there
    end = None if query.limit is None else query.offset + query.limit
    return found[query.offset : end]


def _sortable(value: Any) -> tuple[int, Any]:
    plain = _comparable(value)
    return (0, plain) if isinstance(plain, int | float) else (1, str(plain))
