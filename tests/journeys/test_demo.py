"""The demo as its user runs it: one command, every role, the sandbox's journal as the judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import psycopg
import pytest

from tests.journeys.groq import groq

pytestmark = [pytest.mark.connected, pytest.mark.timeout(240)]

MODEL = "openai/gpt-oss-120b"
CONTRACT = {
    "deliveries", "changes", "records", "insights", "model_calls", "cache_hits", "crm_writes", "postgres_rows",
    "dead_letters", "lost", "duplicate_effects", "echo_rounds", "p50_ms", "p95_ms", "by_analysis",
}  # fmt: skip


def demo(addresses, database_url, tmp_path, *more, **environment):
    """Run the command on the test's servers; returns the exit code, the last line and all that was written."""
    done = subprocess.run(
        [sys.executable, "-m", "console", "demo", "--json", *more],
        env={
            **os.environ,
            "KAFKA_URL": addresses.kafka_url,
            "HOOKLINE_KAFKA_REPLICATION": "1",
            "DATABASE_URL": database_url,
            "REDIS_URL": addresses.redis_url,
            "HOOKLINE_DATA_DIR": str(tmp_path),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout.strip(), done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


def test_everything_that_people_saved_is_accounted_for(addresses, database_url, tmp_path):
    """INVARIANT: nothing lost, nothing twice, no round caused by our own writes. If this fails, the product is broken."""
    code, report, written = demo(addresses, database_url, tmp_path, "--seconds", "8", "--rate", "8")
    assert set(report) >= CONTRACT
    assert (report["lost"], report["duplicate_effects"], report["echo_rounds"], report["backwards"]) == (0, 0, 0, 0), (
        written[-3000:]
    )
    assert code == 0
    assert report["saves"] > 20
    assert set(report["by_analysis"]) == {"lead_intel", "requirements", "data_quality"}
    assert report["postgres_rows"] == sum(report["by_analysis"].values())
    assert report["crm_writes"] > 0
    assert report["p50_ms"] <= report["p95_ms"]


def test_with_a_key_the_demo_asks_groq(addresses, database_url, tmp_path):
    """The same demo through the `groq` package over real HTTP; the server is the stand-in, which is no model."""
    with groq() as (stand_in, environment):
        code, report, written = demo(addresses, database_url, tmp_path, "--seconds", "8", "--rate", "4", **environment)
    assert (code, report["lost"], report["duplicate_effects"], report["echo_rounds"]) == (0, 0, 0, 0), written[-3000:]
    asked = {request["model"] for request in stand_in.asked}
    assert asked == {MODEL}
    # An attempt on a connection that was closed this moment is counted and never arrives.
    assert report["model_calls"] >= len(stand_in.asked) > 0
    with psycopg.connect(database_url) as connection:
        models = {
            row[0] for row in connection.execute("SELECT DISTINCT model FROM insights WHERE analysis = 'lead_intel'")
        }
    assert MODEL in models
    assert not any(environment["GROQ_API_KEY"] in text for text in (written, str(report)))
