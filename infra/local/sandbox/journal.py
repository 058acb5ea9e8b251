"""What really happened, one JSON object a line: the ground truth for tests and benchmarks.

Law: append only; a save's line is handed to the operating system before any webhook about it leaves (`flush`).
It is read without the sandbox running, and holds no token and no secret (made-up customers' values it does hold).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from infra.local.sandbox.journal_lines import InsightWrite, Save
from infra.local.sandbox.reconciliation import Reconciliation, reconcile

__all__ = ["InsightWrite", "Journal", "JournalWriter", "Reconciliation", "Save"]

NAME = "journal.jsonl"


class Journal:
    """Reads a journal; may be used while the sandbox still writes: a half-written last line is left out."""

    def __init__(self, path: Path) -> None:
        """`path` is the file, or the sandbox's data folder."""
        self.path = path / NAME if path.is_dir() else path

    def lines(self) -> Iterator[dict[str, Any]]:
        """Every line, in order of writing."""
        if not self.path.exists():
            raise FileNotFoundError(f"no journal at {self.path}: start the sandbox with this data folder first")
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield orjson.loads(line)

    def saves(self) -> list[Save]:
        """Every save, in order."""
        return [_read(Save, line) for line in self.lines() if line["kind"] == "save"]

    def insight_writes(self) -> list[InsightWrite]:
        """Every write that touched this product's properties, in order."""
        return [_read(InsightWrite, line) for line in self.lines() if line["kind"] == "insight_write"]

    def deliveries(self) -> list[dict[str, Any]]:
        """Every delivery attempt of a webhook, in order of its answer."""
        return [line for line in self.lines() if line["kind"] == "delivery"]

    def reconcile(self, *, since: int = 0) -> Reconciliation:
        """Hold the saves made from `since` (epoch ms) on against the insights written; see `reconciliation`."""
        saves: list[Save] = []
        writes: list[InsightWrite] = []
        for line in self.lines():
            if line["kind"] == "save" and line["at"] >= since:
                saves.append(_read(Save, line))
            elif line["kind"] == "insight_write":
                writes.append(_read(InsightWrite, line))
        return reconcile(saves, writes)


def _read(kind: Any, line: dict[str, Any]) -> Any:
    values = {name: line[name] for name in kind.__slots__ if name in line}
    if "changed" in values:
        values["changed"] = tuple(values["changed"])
    return kind(**values)


class JournalWriter:
    """Appends lines. A journal left by an earlier run is moved aside first, so that a file tells one run."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME
        if self.path.exists():
            earlier = folder / f"journal.{self.path.stat().st_mtime_ns // 1_000_000}.jsonl"
            self.path.rename(earlier)
        self._file = self.path.open("ab", buffering=256 * 1024)
        self._dirty = False
        self.sequence = 0

    def write(self, kind: str, values: dict[str, Any]) -> int:
        """Append one line and return its number; `flush` makes it visible to other processes."""
        self.sequence += 1
        line = {"kind": kind, "sequence": self.sequence, **values}
        self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        self._dirty = True
        return self.sequence

    def flush(self) -> None:
        """Hand everything written to the operating system; it then outlives this process."""
        if self._dirty:
            self._file.flush()
            self._dirty = False

    def close(self) -> None:
        """Flush and close; may be called twice."""
        if not self._file.closed:
            self._file.close()
