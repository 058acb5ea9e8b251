"""wrk, fed with requests that were signed beforehand: none twice, so that nothing can be answered from memory.

Law: a run with a single error, or a request sent twice, is no measurement.
"""

from __future__ import annotations

import base64
import hmac
import itertools
import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bench.failure import BenchError

CONNECTIONS = 32
SHARED_CONNECTIONS = 128
"""Where several workers share them: with fewer each has so few that its batches are half as large, and cost as much."""
PACED_CONNECTIONS = 256
"""At an even pace each waits before it sends again: the more there are, the less an answer's time takes from the pace."""
WINDOW_MS = 280_000
"""HubSpot's signatures hold for five minutes."""
_SCRIPT = Path(__file__).with_name("load.lua")


def event(number: int) -> dict[str, object]:
    """As HubSpot sends it, 380 bytes."""
    return {
        "eventId": 3_181_526_809 + number * 7_919, "subscriptionId": 3 + number % 5, "portalId": 145_883_449, "appId": 13_723,
        "occurredAt": 1_751_276_050_977 + number * 37, "subscriptionType": "contact.propertyChange", "attemptNumber": 0,
        "objectId": 46_987 + number * 104_729, "changeFlag": "UPDATED", "propertyName": ("jobtitle", "phone", "city", "lifecyclestage")[number % 4],
        "propertyValue": f"Head of {('Sales', 'IT', 'Operations', 'Finance')[number % 4]} {number * 31}", "changeSource": "CRM_UI",
        "sourceId": f"userId:{5_554_413 + number % 11}", "objectTypeId": "0-1", "isSensitive": False,
    }  # fmt: skip


def body_of(events: int, run: int) -> bytes:
    """One delivery; of another `run` it is another one, so that no signature ever comes twice."""
    return json.dumps([event(number + 100_000 * run) for number in range(events)], separators=(",", ":")).encode()


@dataclass(frozen=True)
class Run:
    """What one run of wrk saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


class Load:
    """Runs wrk against one address at a time."""

    def __init__(self, folder: Path, secret: bytes, public: str, path: str) -> None:
        wrk = shutil.which("wrk")
        if wrk is None:
            raise BenchError("wrk is not installed: `apt-get install wrk` on Debian and Ubuntu")
        self._wrk = wrk
        self._folder = folder
        self._secret = secret
        self._public = public.encode()
        self._path = path
        self._number = itertools.count()
        self.errors = 0

    def run(
        self,
        port: int,
        events: int,
        seconds: float,
        expected: float,
        *,
        connections: int = CONNECTIONS,
        rate: float = 0.0,
        again: bool = False,
    ) -> Run:
        """Send for `seconds`; `expected` requests a second at most. `rate` > 0: at that pace, else as fast as answers come.

        `again`: whoever is measured looks at no request, so that each may come several times.
        """
        signed, content = self._folder / "signed.txt", self._folder / "body.json"
        body = body_of(events, next(self._number))
        connections = PACED_CONNECTIONS if rate else connections
        content.write_bytes(body)
        with signed.open("wb") as file:
            for stamp in self._stamps(int(expected * (seconds + 1)) + connections):
                file.write(self._line(stamp, body))
        pause = connections / rate * 1000 if rate else 0
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: hooks.example.com\r\nUser-Agent: HubSpot Connect 2.0 (http://dev.hubspot.com/)\r\n"
            "Accept: */*\r\nContent-Type: application/json\r\nX-HubSpot-Timeout-Millis: 5000\r\nX-Forwarded-Proto: https\r\n"
        )
        environment = {
            **os.environ, "BENCH_SIGNED": str(signed), "BENCH_BODY": str(content), "BENCH_HEAD": head, "BENCH_PAUSE_MS": f"{pause:.0f}",
        }  # fmt: skip
        command = [
            self._wrk,
            "-t1",
            f"-c{connections}",
            f"-d{seconds:.0f}s",
            "-s",
            str(_SCRIPT),
            f"http://127.0.0.1:{port}",
        ]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=seconds + 60
        )
        if done.returncode:
            raise BenchError(f"wrk failed: {done.stderr[-500:]}")
        told = json.loads(done.stdout.strip().rsplit("\n", 1)[-1])
        errors = {name: told[name] for name in ("connect", "read", "write", "late", "status") if told[name]}
        self.errors += sum(errors.values())
        if errors or (told["again"] and not again):
            # Late: no answer within wrk's two seconds. Status: of 4xx and 5xx.
            raise BenchError(f"wrk's errors: {errors or 'none'}; {told['again']} times all requests used up; p50 {told['p50_us']} us, p99 {told['p99_us']} us, longest {told['longest_us']} us")  # fmt: skip
        return Run(told["requests"], told["microseconds"] / 1e6, told["p50_us"] / 1e3, told["p99_us"] / 1e3)

    def _stamps(self, count: int) -> list[int]:
        if count > WINDOW_MS:
            raise BenchError(f"{count} requests need more milliseconds than a signature holds for")
        now = int(time.time() * 1000)
        return list(range(now - count, now))

    def _line(self, stamp: int, body: bytes) -> bytes:
        text = b"%d" % stamp
        covered = b"POST" + self._public + self._path.encode() + body + text
        signature = base64.b64encode(hmac.digest(self._secret, covered, "sha256"))
        return b"X-HubSpot-Signature-v3: %b\tX-HubSpot-Request-Timestamp: %b\n" % (signature, text)
