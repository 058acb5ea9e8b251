"""Child processes of a benchmark: started with an environment of their own, and always ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from bench.failure import BenchError

ROOT = Path(__file__).resolve().parent.parent
END_SECONDS = 25.0
_NOT_OURS = ("HOOKLINE_", "KAFKA_", "DATABASE_", "REDIS_", "GROQ_", "OTEL_")


class Child:
    """A Python module in a process of its own. Its output is in `log`, but for the first line where that is waited for."""

    def __init__(
        self, module: list[str], settings: Mapping[str, str], folder: Path, name: str, *, path: Path | None = None
    ) -> None:
        """`settings` are all that it gets: what the caller's environment or a `.env` file says is kept from it.

        `path`: a folder of packages that go before the installed ones.
        """
        self.name = name
        self.log = folder / f"{name}.log"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_OURS)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *module],
                env={**kept, **settings, "PYTHONPATH": f"{ROOT}{os.pathsep + str(path) if path else ''}"},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Raises BenchError when it has ended."""
        if self._process.poll() is not None:
            raise BenchError(f"{self.name} ended by itself ({self._process.returncode}):\n{self._tail()}")

    def wait_for_line(self, line: str, seconds: float) -> None:
        """Return when it has printed `line`; raises BenchError when it ends before, or takes longer."""
        self._wait(lambda: f"{line}\n" in self.log.read_text(errors="replace"), seconds)

    def wait_for_answer(self, url: str, seconds: float) -> None:
        """Return when `url` answers 200; raises BenchError when it ends before, or takes longer."""
        self._wait(lambda: _answers(url), seconds)

    def cpu_seconds(self) -> float:
        """CPU time that it has used, all threads; 0 where the system does not tell."""
        return cpu_seconds_of(self.pid)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough; may be called twice."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _wait(self, true: object, seconds: float) -> None:
        assert callable(true)
        deadline = time.monotonic() + seconds
        while not true():
            self.check()
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} is not ready after {seconds:.0f} s:\n{self._tail()}")
            time.sleep(0.05)

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2_000:]


def cpu_seconds_of(pid: int) -> float:
    """CPU time that a process has used, all threads; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_seconds() -> tuple[float, float]:
    """CPU seconds that this machine has been busy, and those that it had, all CPUs; 0 and 0 where the system does not tell."""
    try:
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return 0.0, 0.0
    per_second = os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - ticks[3] - ticks[4]) / per_second, sum(ticks) / per_second


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
