"""The watcher's program: child processes that cannot outlive their owner.

One small watcher process per stack starts the servers, is their parent, and stops them in order when it is told to, when
its standard input closes, or when its own parent is gone, whichever comes first. So a normal stop, an exception and a
SIGKILL of the owner take the same path. Watcher and servers live in sessions of their own: a Ctrl-C in the terminal
reaches the owner alone, which drains its work first and stops the servers after it.

This file is run by its path with `python -I -S`, which takes some 15 ms, and therefore imports the standard library alone.
The owner's end is `infra.local.watcher`. The watcher has one thread, on purpose: Linux ties "die with your parent" to the
thread that forked.

Owner and watcher exchange one JSON object a line. To the watcher: {"do": "start", "server": {...}},
{"do": "stop" | "kill", "name": ...}, {"do": "finish"}. From it: {"event": "started" | "failed" | "exited", "name": ...}
and {"event": "finished"}.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

OWNER_CHECK_SECONDS = 0.5
KILL_SECONDS = 5.0
FILES = 10240
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Server:
    """One child process: what to run, as whom, where it logs and how it is stopped."""

    name: str
    argv: tuple[str, ...]
    cwd: str
    log: str  # its stdout and stderr are appended here
    env: dict[str, str] = field(default_factory=dict)  # the whole environment: nothing is inherited
    uid: int | None = None  # None: as the owner
    gid: int | None = None
    stop_signal: int = signal.SIGTERM
    stop_seconds: float = 10.0  # after the signal; then SIGKILL
    stop_order: int = 0  # lower ones are gone before higher ones are asked


class _Watch:
    """The watcher itself."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._owner = os.getppid()
        self._children: dict[str, tuple[Server, subprocess.Popen[bytes]]] = {}
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        self._told_to_end = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)

    def main(self) -> None:
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)
        try:
            self._loop()
        finally:
            self._stop_all()
            self._tell({"event": "finished"})

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self._told_to_end = True

    def _loop(self) -> None:
        stdin = sys.stdin.fileno()
        os.set_blocking(stdin, False)
        buffer = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stdin, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while not self._told_to_end and os.getppid() == self._owner:
                ready = {key.fd for key, _ in selector.select(OWNER_CHECK_SECONDS)}
                if self._wake_read in ready:
                    os.read(self._wake_read, 4096)
                self._reap()
                if stdin in ready:
                    chunk = os.read(stdin, 65536)
                    if not chunk:
                        return
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        self._obey(json.loads(line))

    def _obey(self, message: dict[str, Any]) -> None:
        match message["do"]:
            case "start":
                self._start(Server(**{**message["server"], "argv": tuple(message["server"]["argv"])}))
            case "finish":
                self._told_to_end = True
            case "stop":
                self._stop([message["name"]])
            case "kill" if message["name"] in self._children:
                _signal(self._children[message["name"]][1].pid, signal.SIGKILL)

    def _start(self, server: Server) -> None:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            log = os.open(server.log, flags, 0o600)
            try:
                child = subprocess.Popen(
                    server.argv,
                    cwd=server.cwd,
                    env=server.env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    user=server.uid,
                    group=server.gid,
                    extra_groups=None if server.uid is None else [],
                    umask=0o077,
                    preexec_fn=self._die_with_parent,  # noqa: PLW1509 - the watcher has one thread
                )
            finally:
                os.close(log)
        except (OSError, subprocess.SubprocessError) as error:
            self._tell({"event": "failed", "name": server.name, "error": f"{server.argv[0]}: {error}"})
            return
        self._children[server.name] = (server, child)
        self._note()
        self._tell({"event": "started", "name": server.name, "pid": child.pid})

    def _die_with_parent(self) -> None:
        # Runs in the child after it has dropped root, since a change of user clears the setting.
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)

    def _reap(self) -> None:
        for name, (_, child) in list(self._children.items()):
            code = child.poll()
            if code is not None:
                del self._children[name]
                self._note()
                self._tell({"event": "exited", "name": name, "code": code})

    def _stop_all(self) -> None:
        (self._run / "addresses.json").unlink(missing_ok=True)  # from now on nobody attaches to us
        for order in sorted({server.stop_order for server, _ in self._children.values()}):
            self._stop([name for name, (server, _) in self._children.items() if server.stop_order == order])
        (self._run / "servers.json").unlink(missing_ok=True)

    def _stop(self, names: list[str]) -> None:
        begun = time.monotonic()
        mine = {name: self._children[name] for name in names if name in self._children}
        for server, child in mine.values():
            _signal(child.pid, server.stop_signal)
        killed = False
        while any(name in self._children for name in mine):
            time.sleep(0.01)
            self._reap()
            waited = time.monotonic() - begun
            for name, (server, child) in mine.items():
                if name in self._children and waited > server.stop_seconds:
                    _signal(child.pid, signal.SIGKILL)
                    killed = True
            if killed and waited > KILL_SECONDS + max(server.stop_seconds for server, _ in mine.values()):
                return

    def _note(self) -> None:
        pids = {name: [child.pid, birth(child.pid)] for name, (_, child) in self._children.items()}
        temporary = self._run / "servers.json.new"
        with contextlib.suppress(OSError):  # the folder was deleted under us: the servers still have to be stopped
            temporary.write_text(json.dumps({"watcher": os.getpid(), "servers": pids}))
            temporary.replace(self._run / "servers.json")

    def _tell(self, event: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more: the owner is gone
            os.write(sys.stdout.fileno(), json.dumps(event).encode() + b"\n")


def birth(pid: int) -> str | None:
    """When a process was started, in the system's own words, or None if there is no such process.

    A pid with its birth names one process for ever, so that a reused pid is never mistaken for a server of ours.
    """
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None
        state, *fields = stat.rpartition(")")[2].split()
        return None if state == "Z" else f"{boot} {fields[18]}"
    shown = subprocess.run(["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None


def command_line(pid: int) -> str:
    """A process' program and arguments, or nothing if there is no such process."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    return subprocess.run(
        ["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout


def end_leftovers(run: Path) -> list[str]:
    """SIGKILL the servers of a stack whose watcher was itself killed, and return their names.

    Call it with the data folder's lock held: then whatever `servers.json` still names has nobody to look after it.
    """
    try:
        noted = json.loads((run / "servers.json").read_text())["servers"]
    except (OSError, ValueError, KeyError):
        return []
    ended = []
    for name, (pid, born) in noted.items():
        if born is not None and birth(pid) == born:
            _signal(pid, signal.SIGKILL)
            ended.append(name)
    limit = time.monotonic() + KILL_SECONDS
    while time.monotonic() < limit and any(birth(noted[name][0]) == noted[name][1] for name in ended):
        time.sleep(0.01)
    (run / "servers.json").unlink(missing_ok=True)
    return ended


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    os.umask(0o077)
    _soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a login shell's 256 (macOS) or 1024 is too little for Kafka
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (FILES if _hard == resource.RLIM_INFINITY else min(FILES, _hard), _hard)
        )
    _Watch(Path(sys.argv[1])).main()
