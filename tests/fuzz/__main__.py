"""`make fuzz`: a million bodies (INPUTS=...) through the dialects. Ends with 1 and keeps the body where a promise is broken."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from tests.fuzz.dialects import CORPUS, DIALECTS, BrokenPromiseError, check, seeds
from tests.fuzz.mutate import Mutator

INPUTS = int(os.environ.get("INPUTS", "1000000"))
PROCESSES = int(os.environ.get("PROCESSES", "2"))
SEED = int(os.environ.get("SEED", str(time.time_ns() % 1_000_000)))
_MOST_KEPT = 4_000


@dataclass(frozen=True)
class Campaign:
    """What one dialect's share came to."""

    dialect: str
    inputs: int
    outcomes: int
    findings: int
    told: tuple[str, ...]
    seconds: int


def campaign(dialect: str, inputs: int, seed: int) -> Campaign:
    """Draw bodies, keep those that end in a new way as the next ones' origin."""
    mutator, seen = Mutator(seeds(dialect), seed), set()
    findings: list[str] = []
    began = time.monotonic()
    for _ in range(inputs):
        body = mutator.draw()
        try:
            outcome = check(dialect, body)
        except BrokenPromiseError as error:
            name = hashlib.sha256(body).hexdigest()[:16]
            (CORPUS / dialect / f"finding-{name}").write_bytes(body)
            findings.append(f"{name}: {error}")
            if len(findings) >= 20:
                break
            continue
        if outcome not in seen and len(mutator.corpus) < _MOST_KEPT:
            seen.add(outcome)
            mutator.corpus.append(body)
    return Campaign(dialect, inputs, len(seen), len(findings), tuple(findings), round(time.monotonic() - began))


def main() -> int:
    """Run; the last line is JSON."""
    print(f"{INPUTS} inputs, SEED={SEED}")  # noqa: T201 - a command
    with ProcessPoolExecutor(min(PROCESSES, os.cpu_count() or 1)) as pool:
        share = {"hubspot": 0.35, "salesforce": 0.35, "standard_webhooks": 0.15, "custom": 0.15}
        results = list(pool.map(campaign, DIALECTS, [int(INPUTS * share[name]) for name in DIALECTS], [SEED] * len(DIALECTS)))  # fmt: skip
    for result in results:
        print(result)  # noqa: T201 - a command
    findings = sum(one.findings for one in results)
    print(json.dumps({"inputs": sum(one.inputs for one in results), "findings": findings}))  # noqa: T201 - a command
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
