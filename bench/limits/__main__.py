"""`make bench-limits`: limits of a provider under four replicas that ask five times as much; the last line is JSON.

What counts is what the stand-in saw: it enforces the same limits in a sliding window, answers 429 when one is exceeded,
and remembers the most that any window held. `WINDOW=60` makes a minute a minute; by default it is 20 s, all else equal; `REQUESTS` is
the limit of a window.

Three parts in one run: interactive questions alone; then a crowd of tenants (equal rights, unequal demands, five times the
limit together); then a replay at full rate with the same interactive questions.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from bench.children import Child
from bench.failure import BenchError
from infra.database.engine import migrate
from infra.local.ports import Ports
from infra.local.stack import EmbeddedStack
from infra.settings import Settings

REPLICAS = 4
TENANTS = 8
DEMANDS = (1, 1, 1, 1, 2, 2, 4, 4)
"""How the crowd's demand is divided; even the smallest asks for more than its fair share."""
OVERLOAD = 5.0
WORDS = 60
MEAN_TOKENS = 77.5
"""What the stand-in counts for one of these questions and its answer, about."""
LATENCY = 0.15
MODEL = "openai/gpt-oss-20b"
MOST_P95 = 2.0
"""Of what interactive questions take alone, what they may take beside a replay."""
WINDOWS = 5
"""Length of the crowd's part; the first window does not count."""


def main() -> int:
    """Run and report; 0 when everything that is claimed held."""
    window = float(os.environ.get("WINDOW", "20"))
    requests = int(os.environ.get("REQUESTS", str(round(30 * window))))
    tokens = round(requests * MEAN_TOKENS * 1.03)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hookline-bench-")))
        folder.chmod(0o755)
        addresses = stack.enter_context(
            # No Kafka here: an address that nobody asks.
            EmbeddedStack(folder / "stack", kafka_url="127.0.0.1:9", database_url=os.environ.get("BENCH_DATABASE_URL"),
                          redis_url=os.environ.get("BENCH_REDIS_URL"))
        )  # fmt: skip
        migrate(Settings(database_url=SecretStr(addresses.database_url), _env_file=None))
        port = Ports(folder / "ports").choose("stand-in")
        stand_in = Child(
            ["infra.local.groq_stand_in", "--port", str(port), "--latency", str(LATENCY), "--window", str(window),
             "--requests-per-minute", str(requests), "--tokens-per-minute", str(tokens), "--forget-bodies"],
            {}, folder, "stand-in",
        )  # fmt: skip
        stack.callback(stand_in.stop)
        url = f"http://127.0.0.1:{port}"
        stand_in.wait_for_answer(f"{url}/stand-in", 20)
        shown = {
            "HOOKLINE_PROVIDER": "groq",
            "HOOKLINE_MODEL": MODEL,
            "HOOKLINE_MODEL_WINDOW_SECONDS": str(window),
            "HOOKLINE_PROVIDER_LIMITS": json.dumps({MODEL: {"requests_per_minute": requests, "tokens_per_minute": tokens}}),
            "HOOKLINE_MODEL_REQUESTS_PER_MINUTE": "1000000",
            "HOOKLINE_MODEL_TOKENS_PER_MINUTE": "1000000000",
            "HOOKLINE_LOG_LEVEL": "WARNING",
            "GROQ_BASE_URL": url,
        }  # fmt: skip
        _say("settings of every replica: " + json.dumps(shown))
        secret = {"DATABASE_URL": addresses.database_url, "REDIS_URL": addresses.redis_url, "GROQ_API_KEY": "stand-in"}
        plan, marks = _plan(window, requests)
        go = folder / "go"
        replicas = [
            Child(
                ["bench.limits.replica", json.dumps({"seed": n, "go": str(go), "sources": sources})],
                {**shown, **secret},
                folder,
                f"replica-{n}",
            )
            for n, sources in enumerate(plan)
        ]
        for replica in replicas:
            stack.callback(replica.stop)
        for replica in replicas:
            replica.wait_for_line("READY", 60)
        began = time.time() + 1.0
        ready = folder / "go.new"
        ready.write_text(str(began))
        ready.rename(go)
        marks = {name: began + after for name, after in marks.items()}
        crowd = _seen_between(stand_in, url, marks["crowd"] + window, marks["crowd_ends"])
        results = [_result(replica, marks["ends"] + 60) for replica in replicas]
        report = _asked(url)
        return _report(window, requests, tokens, marks, crowd, results, report)


def _plan(window: float, requests: int) -> tuple[list[list[dict[str, Any]]], dict[str, float]]:
    alone, crowd = 0.0, window
    crowd_ends = crowd + WINDOWS * window
    replay = crowd_ends + window
    ends = replay + 3 * window
    rate = OVERLOAD * requests / window / REPLICAS
    interactive_rate = max(0.5, 0.05 * requests / window / REPLICAS)
    base = {"words": WORDS, "deadline": window}
    plan = []
    for _ in range(REPLICAS):
        sources = [
            {
                **base,
                "tenant": f"tenant-{n}",
                "lane": "live",
                "rate": rate * share / sum(DEMANDS),
                "starts": crowd,
                "ends": crowd_ends,
            }
            for n, share in enumerate(DEMANDS)
        ]
        replayed = {"tenant": "replaying", "lane": "bulk", "rate": rate, "starts": replay, "ends": ends}
        person = {"tenant": "person", "lane": "interactive", "rate": interactive_rate}
        sources.append({**base, **replayed})
        sources.append({**base, **person, "starts": alone, "ends": crowd})
        sources.append({**base, **person, "starts": replay + window, "ends": ends})
        plan.append(sources)
    return plan, {"alone": alone, "crowd": crowd, "crowd_ends": crowd_ends, "replay": replay, "ends": ends}


def _seen_between(stand_in: Child, url: str, start: float, end: float) -> dict[str, Any]:
    """What the stand-in saw from `start` to `end`."""
    while time.time() < start:
        time.sleep(0.01)
    before, at = _asked(url), time.time()
    while time.time() < end:
        stand_in.check()
        time.sleep(0.01)
    after, until = _asked(url), time.time()
    counted = ("answered", "prompt_tokens", "completion_tokens", "refused")
    return {name: after[name] - before[name] for name in counted} | {"seconds": until - at}


def _asked(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/stand-in", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _result(replica: Child, until: float) -> dict[str, Any]:
    while time.time() < until:
        for line in replica.log.read_text(errors="replace").splitlines():
            if line.startswith("RESULT "):
                found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
                return found
        time.sleep(0.2)
        if not replica.log.exists():
            break
    replica.check()
    raise BenchError(f"{replica.name} gave no result")


def _report(  # noqa: PLR0917 -- what was measured
    window: float, requests: int, tokens: int, marks: dict[str, float], crowd: dict[str, Any], results: list[dict[str, Any]], report: dict[str, Any]
) -> int:  # fmt: skip
    ended = [tuple(each) for result in results for each in result["ended"]]
    windows = crowd["seconds"] / window
    answered = {f"tenant-{n}": 0 for n in range(TENANTS)}
    causes: dict[str, int] = {}
    for tenant, _lane, began, took, how in ended:
        causes[how] = causes.get(how, 0) + 1
        if how == "answered" and tenant in answered and marks["crowd"] + window <= began + took < marks["crowd_ends"]:
            answered[tenant] += 1
    fair = sum(answered.values()) / TENANTS
    alone = _p95([took for _, lane, began, took, how in ended if lane == "interactive" and began < marks["crowd"]])
    beside = _p95(
        [took for _, lane, began, took, how in ended if lane == "interactive" and began > marks["crowd_ends"]]
    )
    lost = sum(1 for _, lane, _, _, how in ended if lane == "interactive" and how != "answered")
    _say(f"{len(ended)} questions of {REPLICAS} replicas ended: {causes}")
    _say(f"answered by tenant, after the first window: {answered}")
    result = {
        "window_s": window,
        "window": "sliding",
        "requests_limit": requests,
        "tokens_limit": tokens,
        "requests_share": round(crowd["answered"] / windows / requests, 4),
        "tokens_share": round((crowd["prompt_tokens"] + crowd["completion_tokens"]) / windows / tokens, 4),
        "most_requests_in_a_window": round(report["most_requests_in_a_window"] / requests, 4),
        "most_tokens_in_a_window": round(report["most_tokens_in_a_window"] / tokens, 4),
        "refused_429": report["refused"],
        "refused_429_after_first_window": crowd["refused"],
        "smallest_fair_share": round(min(answered.values()) / fair, 3) if fair else 0.0,
        "interactive_p95_alone_ms": round(alone * 1000),
        "interactive_p95_with_replay_ms": round(beside * 1000),
        "interactive_lost": lost,
        "replica_cpu_s": [round(each["cpu_s"], 1) for each in results],
    }
    print(json.dumps(result))
    held = (
        0.97 <= result["requests_share"] <= 1.0
        and 0.90 <= result["tokens_share"] <= 1.0
        and result["refused_429_after_first_window"] == 0
        and result["smallest_fair_share"] >= 0.8
        and result["most_requests_in_a_window"] <= 1.0
        and result["most_tokens_in_a_window"] <= 1.0
        and result["interactive_p95_with_replay_ms"] <= MOST_P95 * result["interactive_p95_alone_ms"]
    )
    return 0 if held else 1


def _p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))] if values else 0.0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
