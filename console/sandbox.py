"""The sandbox CRM as a child process, and its controls over HTTP."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from console.runtime import ConsoleError

START_SECONDS = 20.0


class SandboxProcess:
    """The sandbox CRM in a process of its own, so that its work is not counted as ours. Use as a context manager."""

    def __init__(self, data: Path, *, port: int = 0, seed: int = 1) -> None:
        """`data`: folder of its journal and log."""
        self.data = data
        self.url = ""
        self._port = port
        self._seed = seed
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start it and return its address; raises ConsoleError with its log's name when it does not come up."""
        self.data.mkdir(parents=True, exist_ok=True)
        log = self.data / "sandbox.log"
        with log.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603 -- our own module
                [
                    sys.executable,
                    "-m",
                    "infra.local.sandbox",
                    "--port",
                    str(self._port),
                    "--data",
                    str(self.data),
                    "--exit-with-parent",
                    "--seed",
                    str(self._seed),
                ],
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                # Ctrl-C belongs to us: it goes on answering while the roles drain.
                start_new_session=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ConsoleError(f"the sandbox CRM did not start: see {log}")
        self.url = json.loads(line)["sandbox"]
        return self.url

    def stop(self) -> None:
        """End it; may be called twice."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def call(self, method: str, **parameters: Any) -> Any:
        """One control; blocks for some ms. Raises ConsoleError with the sandbox's own words."""
        return self._request(f"/sandbox/{method}", parameters)

    async def acall(self, method: str, **parameters: Any) -> Any:
        """`call`, off the event loop."""
        return await asyncio.to_thread(self._request, f"/sandbox/{method}", parameters)

    async def look(self, path: str) -> Any:
        """`GET path`, as JSON."""
        return await asyncio.to_thread(self._request, path, None)

    def page(self, path: str) -> str:
        """A page's HTML."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:  # noqa: S310 -- our own child on loopback
            return str(answer.read().decode())

    def _request(self, path: str, parameters: dict[str, Any] | None) -> Any:
        body = None if parameters is None else json.dumps(parameters).encode()
        request = urllib.request.Request(f"{self.url}{path}", data=body, headers={"content-type": "application/json"})  # noqa: S310 -- as above
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 -- as above
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise ConsoleError(f"sandbox {path}: {error.read().decode(errors='replace')[:300]}") from error
        except OSError as error:
            raise ConsoleError(
                f"the sandbox CRM at {self.url} does not answer: see {self.data / 'sandbox.log'}"
            ) from error
