"""Ports on loopback: free ones, the same as last time if they still are."""

from __future__ import annotations

import json
import random
import socket
import threading
from pathlib import Path

# Below the ranges from which systems draw the ports of outgoing connections (Linux 32768, macOS 49152 and up).
FIRST, LAST = 20000, 32000
_taken_here: set[int] = set()
_lock = threading.Lock()


class Ports:
    """The ports of one data folder, by name. Thread-safe."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._known: dict[str, int] = {str(name): int(port) for name, port in json.loads(file.read_text()).items()}
        except (OSError, ValueError, AttributeError):
            self._known = {}

    def known(self, name: str) -> int:
        """The port chosen before. Raises KeyError if none was."""
        return self._known[name]

    def choose(self, name: str, *, other: bool = False) -> int:
        """A port that nobody listens on now; last time's if possible, and if not told to take an `other`."""
        with _lock:
            port = self._known.get(name, 0)
            if other or not port or not is_free(port):
                draw = random.SystemRandom()
                port = next(
                    candidate
                    for candidate in iter(lambda: draw.randint(FIRST, LAST), None)
                    if candidate not in _taken_here and candidate not in self._known.values() and is_free(candidate)
                )
            _taken_here.add(port)
            self._known[name] = port
            self._file.write_text(json.dumps(self._known))
            return port


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1 at this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
