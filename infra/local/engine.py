"""What the three engines have in common: the terms on which the stack runs them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Protocol

from infra.local.account import Account
from infra.local.ports import Ports
from infra.local.watcher import Watcher

LOG_TAIL_LINES = 15
LOG_TAIL_BYTES = 256_000
LOG_COMPLAINTS = 5
COMPLAINTS = ("ERROR", "FATAL", "PANIC", "Exception")
POLL_SECONDS = 0.02
LOG_LIMIT_BYTES = 10_000_000


class StackError(RuntimeError):
    """A server of the embedded stack does not come up; the message has the log's tail and what to do."""


class PortTakenError(StackError):
    """Somebody took the port between our choosing it and the server's listening on it; another one will do."""


@dataclass(frozen=True)
class Place:
    """Where an engine lives and with what. Folders are absolute."""

    home: Path  # below it each engine owns one folder of its name
    logs: Path
    cache: Path
    account: Account
    ports: Ports
    password: str
    on_progress: Callable[[str], None]
    cancelled: Event  # set when the stack is stopped while it starts

    def log(self, name: str) -> Path:
        """The log of a server; an overlong one of earlier runs is put aside."""
        path = self.logs / f"{name}.log"
        if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
        return path


class Engine(Protocol):
    """One part of the stack."""

    name: str

    def start(self, watcher: Watcher) -> str:
        """Prepare the data folder if it is new, start, wait until it truly answers, and return the URL.

        Blocks for seconds. Called once per watcher. Raises StackError.
        """
        ...


class LogTail:
    """The end of a server's logs, as far as they were written after this object was made."""

    def __init__(self, *paths: Path) -> None:
        self._begin = {path: path.stat().st_size if path.exists() else 0 for path in paths}

    def written(self) -> dict[Path, list[str]]:
        """The lines of each log since then; of a very long one the last quarter of a megabyte."""
        lines = {}
        for path, begin in self._begin.items():
            try:
                with path.open("rb") as file:
                    size = path.stat().st_size
                    file.seek(max(begin if begin <= size else 0, size - LOG_TAIL_BYTES))
                    lines[path] = file.read().decode(errors="replace").splitlines()
            except FileNotFoundError:
                continue
        return lines

    def mentions(self, sign: str) -> bool:
        """Whether any line since then has this text."""
        return any(sign in line for lines in self.written().values() for line in lines)

    def text(self) -> str:
        """For people: each log's first complaints (a server may go on for pages while it shuts down) and its last lines."""
        parts = []
        for path, lines in self.written().items():
            if not lines:
                continue
            earlier, last = lines[:-LOG_TAIL_LINES], lines[-LOG_TAIL_LINES:]
            complaints = [line for line in earlier if any(word in line for word in COMPLAINTS)][:LOG_COMPLAINTS]
            shown = [*complaints, "..."] if complaints else []
            parts.append("\n".join([f"  {path} ends with:", *(f"    {line}" for line in (*shown, *last))]))
        return "\n".join(parts) or f"  (nothing in {', '.join(map(str, self._begin))})"

    def remedy(self) -> str:
        """What to do about it."""
        return remedy("\n".join(line for lines in self.written().values() for line in lines))


def wait_until(
    answers: Callable[[], bool], *, name: str, watcher: Watcher, place: Place, log: LogTail, seconds: float
) -> None:
    """Poll `answers` (which returns soon) until it is true.

    Raises:
        PortTakenError: the server ended since its port is in use.
        StackError: it ended, or did not answer in time, or `answers` raised it, knowing why it never will.
    """
    limit = time.monotonic() + seconds
    while not answers():
        code = watcher.exit_code(name)
        if code is not None:
            kind = PortTakenError if log.mentions("ddress already in use") else StackError
            raise kind(f"{name} ended while it started (code {code}).\n{log.text()}\n{log.remedy()}")
        if place.cancelled.is_set():
            raise StackError(f"{name}: stopped while it started.")
        if time.monotonic() > limit:
            raise StackError(f"{name} did not answer within {seconds:.0f} s.\n{log.text()}\n{log.remedy()}")
        time.sleep(POLL_SECONDS)


REMEDIES = (
    (
        "could not look up effective user ID",
        "PostgreSQL wants its user to have a name: start as one of /etc/passwd, not as a bare number, or set DATABASE_URL.",
    ),
    ("No space left on device", "free some disk space, then start again."),
    ("Cannot allocate memory", "free some memory: the three servers need about 700 MB."),
    ("ddress already in use", "start again: another port will be chosen."),
    (
        "Permission denied",
        "the data folder has to be writable for the user whom the servers run as; see docs/embedded-stack.md.",
    ),
    ("Too many open files", "raise the limit (ulimit -n 4096), then start again."),
    ("database files are incompatible", "it was made by another PostgreSQL; move the data folder away to begin anew."),
    ("InconsistentClusterIdException", "the data folder mixes two clusters; move it away to begin anew."),
)


def remedy(text: str) -> str:
    """What to do about a log that ends so."""
    for sign, advice in REMEDIES:
        if sign in text:
            return f"What to do: {advice}"
    return "What to do: read the whole log; if the data can go, move the data folder away and start again."
