"""The owner's end of the watcher (`infra.local.process`): start, stop and kill servers, and learn how they ended."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra.local import process
from infra.local.process import Server


class WatcherGoneError(RuntimeError):
    """The watcher has ended, so nothing can be started or stopped through it any more."""


class Watcher:
    """The owner's end of the watcher. Thread-safe; every method may be called again after `finish`, and then does nothing."""

    def __init__(self, run: Path, *, hold_fds: tuple[int, ...] = ()) -> None:
        """Start the watcher.

        Args:
            run: folder where the watcher keeps `servers.json` (the pids), and whose `addresses.json` it removes as soon as
                it begins to stop.
            hold_fds: descriptors that the watcher keeps open as long as it lives (the data folder's lock).
        """
        self._changed = threading.Condition()
        self._pids: dict[str, int] = {}
        self._codes: dict[str, int] = {}
        self._errors: dict[str, str] = {}
        self._over = False
        self._write = threading.Lock()
        with (run / "watcher.log").open(
            "wb"
        ) as log:  # not the owner's: that may be a pipe that somebody reads to its end
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(process.__file__).resolve()), str(run)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
                start_new_session=True,
                pass_fds=hold_fds,
            )
        self._reader = threading.Thread(target=self._read, name="watcher-events", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The watcher's own pid."""
        return self._process.pid

    def start(self, server: Server, *, seconds: float = 30.0) -> int:
        """Start a server and return its pid once it has been forked and executed.

        Raises:
            OSError: the program could not be executed.
            WatcherGoneError: the watcher has ended.
        """
        with self._changed:
            for known in (self._pids, self._codes, self._errors):
                known.pop(server.name, None)
        self._send({"do": "start", "server": asdict(server)})
        with self._changed:
            name = server.name
            self._changed.wait_for(lambda: name in self._pids or name in self._errors or self._over, seconds)
            if name in self._errors:
                raise OSError(self._errors[name])
            if name not in self._pids:
                raise WatcherGoneError(f"{name} was not started: its watcher process (pid {self.pid}) has ended.")
            return self._pids[name]

    def exit_code(self, name: str) -> int | None:
        """The code with which the server ended (negative: the signal), or None while it runs or is not known."""
        with self._changed:
            return self._codes.get(name)

    def pids(self) -> dict[str, int]:
        """The servers that run now."""
        with self._changed:
            return {name: pid for name, pid in self._pids.items() if name not in self._codes}

    def exit_codes(self) -> dict[str, int]:
        """The servers that have ended and were not started again, with their codes."""
        with self._changed:
            return dict(self._codes)

    def stop(self, name: str, *, kill: bool = False, seconds: float = 30.0) -> None:
        """Stop one server (or SIGKILL it) and return when it has ended. Others stay up."""
        if name not in self.pids():
            return
        self._send({"do": "kill" if kill else "stop", "name": name})
        with self._changed:
            self._changed.wait_for(lambda: name in self._codes or self._over, seconds)

    def finish(self, *, seconds: float = 75.0) -> None:
        """Stop everything in order and return when the watcher has ended."""
        with contextlib.suppress(WatcherGoneError):
            self._send({"do": "finish"})
        with contextlib.suppress(OSError), self._write:
            if self._process.stdin:
                self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()  # on Linux the servers die with it; elsewhere the next start ends what is left
            self._process.wait()
        self._reader.join(5)
        if self._process.stdout:
            self._process.stdout.close()

    def _send(self, message: dict[str, Any]) -> None:
        stdin = self._process.stdin
        try:
            with self._write:
                if stdin is None or stdin.closed:
                    raise WatcherGoneError("the watcher process has been finished already.")
                stdin.write(json.dumps(message).encode() + b"\n")
                stdin.flush()
        except OSError as error:
            raise WatcherGoneError(f"the watcher process (pid {self.pid}) has ended.") from error

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            with self._changed:
                match event["event"]:
                    case "started":
                        self._pids[event["name"]] = event["pid"]
                    case "failed":
                        self._errors[event["name"]] = event["error"]
                    case "exited":
                        self._codes[event["name"]] = event["code"]
                self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()
