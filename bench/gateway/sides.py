"""The processes that are measured: each alone on one CPU, its environment made of what it is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from bench.failure import BenchError

ROOT = Path(__file__).resolve().parents[2]
_NOT_OURS = ("HOOKLINE_", "KAFKA_", "DATABASE_", "REDIS_", "GROQ_", "OTEL_", "OPENAI_", "LITELLM_")
_TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """One process and its children, on the CPUs that it is given."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], folder: Path, cpus: set[int]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_OURS)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["taskset", "-c", ",".join(map(str, sorted(cpus))), *argv],
                env={**kept, "PYTHONPATH": str(ROOT), **env}, cwd=folder, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def wait(self, url: str, seconds: float) -> None:
        """Return when `url` answers anything below 500; raises BenchError when that does not come."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    return
            except OSError:
                pass
            time.sleep(0.2)
        raise BenchError(f"{self.name} does not answer at {url}:\n{self.log.read_text(errors='replace')[-1500:]}")

    def printed(self, pattern: str, seconds: float) -> str:
        """The first match in what it printed; raises BenchError when that does not come."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._process.poll() is None:
            found = re.search(pattern, self.log.read_text(errors="replace"))
            if found:
                return found[0]
            time.sleep(0.1)
        raise BenchError(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-1500:]}")

    def cpu_seconds(self) -> float:
        """Of it and its children, all threads."""
        return sum(_cpu(pid) for pid in _tree(self._process.pid))

    def rss_mib(self) -> float:
        """Resident memory of the process itself."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return 0.0

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough; may be called twice."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@dataclass
class Side:
    """One server that is asked."""

    name: str
    process: Process
    url: str
    key: str
    model: str
    requests: int
    """In each part of a round."""
    caches: bool = True
    miss: list[float] = field(default_factory=list)
    hit: list[float] = field(default_factory=list)
    """CPU milliseconds a request, by round."""


def environment(folder: Path, name: str, package: str) -> Path:
    """A throw-away virtual environment with a package from PyPI; its Python. Raises BenchError when that fails."""
    given = os.environ.get("BENCH_PEERS")
    place = (Path(given) if given else folder) / name
    python = place / "bin" / "python"
    if python.exists():
        return python
    try:
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True, capture_output=True, timeout=120)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", package],
            check=True, capture_output=True, timeout=900, text=True,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        raise BenchError(f"{package} cannot be installed: {str(error.stderr)[-300:]}") from None
    except subprocess.TimeoutExpired:
        raise BenchError(f"{package} was not installed within 15 minutes") from None
    return python


def litellm(folder: Path, python: Path, port: int, upstream: str, redis: str, cpus: set[int]) -> Side:  # noqa: PLR0917
    """LiteLLM's proxy with a Redis cache, one worker."""
    at = urlsplit(redis)
    config = folder / "litellm.yaml"
    config.write_text(
        f"""model_list:
  - model_name: bench
    litellm_params: {{model: openai/gpt-oss-20b, api_base: "{upstream}/v1", api_key: x}}
litellm_settings:
  telemetry: false
  cache: true
  cache_params: {{type: redis, host: "{at.hostname}", port: {at.port}, password: "{at.password or ""}", ttl: 3600}}
general_settings: {{master_key: sk-bench}}
"""
    )
    process = Process(
        "litellm", [str(python.parent / "litellm"), "--config", str(config), "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1"],
        {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR", "PYTHONPATH": ""}, folder, cpus,
    )  # fmt: skip
    try:
        process.wait(f"http://127.0.0.1:{port}/health/liveliness", 180)
    except BenchError:
        process.stop()
        raise
    return Side("litellm", process, f"http://127.0.0.1:{port}/v1", "sk-bench", "bench", 150)


def tensorzero(folder: Path, python: Path, upstream: str, cpus: set[int]) -> Side:
    """TensorZero's gateway, without a database: no observability, and no cache."""
    config = folder / "tensorzero.toml"
    config.write_text(
        f"""[gateway]
observability.enabled = false
disable_pseudonymous_usage_analytics = true
[models.bench]
routing = ["mock"]
[models.bench.providers.mock]
type = "openai"
model_name = "openai/gpt-oss-20b"
api_base = "{upstream}/v1/"
api_key_location = "none"
"""
    )
    process = Process(
        "tensorzero",
        [str(python), str(Path(__file__).with_name("tensorzero_peer.py")), str(config)],
        {"PYTHONPATH": ""},
        folder,
        cpus,
    )
    try:
        url = process.printed(r"http://\S+", 60).rstrip("/")
    except BenchError:
        process.stop()
        raise
    return Side("tensorzero", process, url, "x", "tensorzero::model_name::bench", 1_000, caches=False)


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _tree(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(each for child in children for each in _tree(int(child)))]
