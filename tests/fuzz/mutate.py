"""Bodies near to real ones: bytes flipped, cut, doubled and spliced, and values put where their format would have others.

Deterministic: the same seed gives the same bodies.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|<[^<>]{0,200}>|[{}\[\],:]|true|false|null|[^\s<>{}\[\],:"]+')

INTERESTING = (
    b"", b"null", b"true", b"[]", b"{}", b'""', b"0", b"-1", b"1e400", b"NaN", b"Infinity", b"9" * 30, b"1.5", b'"\\ud800"', b'"\\u0000"',
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"[" * 200, b'{"a":' * 200, b"]", b"}", b",", b'"__proto__"', b'"' + b"a" * 2_000 + b'"',
    b"hubspot:1", b"<a>" * 100, b"</", b"<!--", b"<![CDATA[", b"]]>", b"&lt;", b"&#0;", b"&#x110000;", b"&x;", b"<?xml version='1.1'?>",
    b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>", b"<!DOCTYPE a [<!ENTITY x 'y'><!ENTITY z '&x;&x;&x;&x;'>]>",
    b"<notifications xmlns='http://soap.sforce.com/2005/09/outbound'>", b"xsi:nil='true'", b"xmlns:a='b'", b"00D000000000001", b"2026-13-45T99:99:99Z",
)  # fmt: skip


class Mutator:
    """Draws bodies from a corpus that may grow."""

    def __init__(self, seeds: Sequence[bytes], seed: int) -> None:
        self._chance = random.Random(seed)
        self.corpus = list(seeds)

    def draw(self) -> bytes:
        """One body, of at most 64 KB."""
        body = self._chance.choice(self.corpus)
        for _ in range(self._chance.choice((1, 1, 1, 2, 2, 3, 5, 8))):
            body = self._chance.choice((self._bits, self._cut, self._double, self._insert, self._token, self._token, self._token, self._splice))(body)  # fmt: skip
        return body[:65_536]

    def _bits(self, body: bytes) -> bytes:
        found = bytearray(body)
        for _ in range(self._chance.choice((1, 2, 8))):
            if found:
                found[self._chance.randrange(len(found))] = self._chance.randrange(256)
        return bytes(found)

    def _cut(self, body: bytes) -> bytes:
        start, end = self._span(body)
        return body[:start] + body[end:]

    def _double(self, body: bytes) -> bytes:
        start, end = self._span(body)
        return body[:end] + body[start:end] * self._chance.choice((1, 2, 20)) + body[end:]

    def _insert(self, body: bytes) -> bytes:
        place = self._chance.randrange(len(body) + 1)
        return body[:place] + self._chance.choice(INTERESTING) + body[place:]

    def _token(self, body: bytes) -> bytes:
        """A whole token becomes another one: the format stays right, the meaning does not."""
        tokens = list(_TOKEN.finditer(body[:20_000]))
        if not tokens:
            return self._insert(body)
        one = self._chance.choice(tokens)
        other = self._chance.choice(
            (*INTERESTING, self._chance.choice(tokens).group(), self._chance.choice(tokens).group())
        )
        return body[: one.start()] + other + body[one.end() :]

    def _splice(self, body: bytes) -> bytes:
        other = self._chance.choice(self.corpus)
        return body[: self._chance.randrange(len(body) + 1)] + other[self._chance.randrange(len(other) + 1) :]

    def _span(self, body: bytes) -> tuple[int, int]:
        start = self._chance.randrange(len(body) + 1)
        return start, min(len(body), start + self._chance.choice((1, 2, 10, 100, 1_000)))
