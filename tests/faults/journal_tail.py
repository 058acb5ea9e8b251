"""The senders' journal, read as it grows: who was changed, what was acknowledged, and every write that reached a CRM.

Law: what happened is the sandbox's word alone. A write that changes nothing is an effect that came twice; so is a field
that is given, under one version, a value that it had under it before. An as-of or a version that goes down is out of order.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from infra.local.sandbox.journal_lines import Save
from infra.local.sandbox.reconciliation import _GONE, _millis, counts


class Key(NamedTuple):
    """A record."""

    account: str
    object: str
    id: str


@dataclass(slots=True)
class Changed:
    """A record that somebody changed in this round."""

    wanted: int = 0
    """Its last-modified time after the last save that counts, epoch ms."""
    last_at: int = 0
    saves: int = 0
    gone: bool = False


@dataclass(slots=True)
class _Written:
    """What was written on one record so far, over all rounds."""

    as_of: int = 0
    version: tuple[int, ...] = ()
    values: dict[tuple[str, tuple[int, ...]], set[str]] = field(default_factory=dict)


_VERSION = re.compile(r"\d+\.\d+\.\d+")


class JournalTail:
    """One per run; `begin` at each round."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._written: dict[Key, _Written] = defaultdict(_Written)
        self._open: dict[Key, list[Save]] = defaultdict(list)
        self.changed: dict[Key, Changed] = {}
        self.latencies: list[tuple[int, int]] = []
        """When it was saved, and after how many ms it was on the record."""
        self.twice: list[str] = []
        self.out_of_order: list[str] = []
        self.accepted = 0
        """Requests that our door acknowledged."""
        self.events = 0
        """Events in them."""
        self.answers: Counter[str] = Counter()
        self.given_up = 0

    def begin(self) -> None:
        """A new round: forget what was found, keep what stands on the records."""
        self.read()
        self.changed, self.latencies = {}, []
        self.twice, self.out_of_order = [], []
        self.accepted = self.events = self.given_up = 0
        self.answers = Counter()
        self._open.clear()

    def read(self) -> None:
        """Take in what was written since."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._at += len(line)
                self._take(orjson.loads(line))

    @property
    def open_saves(self) -> int:
        """Saves whose insight is not on the record yet."""
        return sum(len(saves) for key, saves in self._open.items() if not self._is_gone(key))

    def _is_gone(self, key: Key) -> bool:
        found = self.changed.get(key)
        return found is not None and found.gone

    def as_of(self, key: Key) -> int:
        """What the record shows, epoch ms."""
        return self._written[key].as_of

    def _take(self, line: dict[str, Any]) -> None:
        match line["kind"]:
            case "delivery":
                self.answers[str(line["status"] or line["problem"])] += 1
                if line["accepted"]:
                    self.accepted += 1
                    self.events += line["events"]
            case "given_up":
                self.given_up += 1
            case "save":
                self._save(Save(**{name: line[name] for name in Save.__slots__ if name in line}))
            case "insight_write":
                self._write(Key(line["account"], line["object"], line["id"]), line)

    def _save(self, save: Save) -> None:
        key = Key(save.account, save.object, save.id)
        if save.cause in _GONE:
            if key not in self.changed:
                self.changed[key] = Changed()
            self.changed[key].gone = True
            self.changed[key].last_at = save.at
        elif counts(save):
            found = self.changed.setdefault(key, Changed())
            found.saves += 1
            found.wanted = max(found.wanted, save.modified_at)
            found.last_at = save.at
            self._open[key].append(save)

    def _write(self, key: Key, line: dict[str, Any]) -> None:
        written = self._written[key]
        if not line["changed"]:
            self.twice.append(f"{key}: a write that changed nothing ({', '.join(sorted(line['values']))})")
        values = {_plain(name): value for name, value in line["values"].items()}
        self._order(key, written, values)
        for name in map(_plain, line["changed"]):
            before = written.values.setdefault((name, written.version), set())
            if str(values[name]) in before:
                self.twice.append(f"{key}: {name} was given the same value twice under version {written.version}")
            before.add(str(values[name]))
        still = []
        for save in self._open.get(key, ()):
            if written.as_of >= save.modified_at:
                self.latencies.append((save.at, line["at"] - save.at))
            else:
                still.append(save)
        self._open[key] = still

    def _order(self, key: Key, written: _Written, values: dict[str, Any]) -> None:
        if values.get("as_of"):
            as_of = _millis(values["as_of"])
            if as_of < written.as_of:
                self.out_of_order.append(f"{key}: as_of went from {written.as_of} to {as_of}")
            written.as_of = as_of
        if _VERSION.fullmatch(str(values.get("version", ""))):
            version = tuple(map(int, str(values["version"]).split(".")))
            if version < written.version:
                self.out_of_order.append(f"{key}: version went from {written.version} to {version}")
            if version != written.version:
                written.values.clear()
            written.version = version


def _plain(name: str) -> str:
    """A property of ours by its short name, in either vendor's spelling."""
    return name.lower().removesuffix("__c").removeprefix("hookline_")
