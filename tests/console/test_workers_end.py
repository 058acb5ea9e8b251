"""What becomes of workers whose parent was killed, as processes; what a worker does is in `ingress/lifeline.py`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PARENT = """
import asyncio, sys
from console.workers import Workers
from infra.settings import Settings
settings = Settings(kafka_url="127.0.0.1:1", database_url="postgresql://127.0.0.1:1/x", redis_url="redis://127.0.0.1:1",
                    master_keys="A" * 43 + "=", public_url="https://hooks.test", ingress_port=0, ops_port=0, _env_file=None)
asyncio.run(Workers(settings, 2, [sys.executable, "-c", sys.argv[1]]).run())
"""

WORKER = """
import asyncio, os, signal
from infra.settings import variable
from ingress.lifeline import follow_parent
async def main():
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    {follow}
    os.write(1, b"up\\n")
    await told.wait()
    os.write(1, b"drained\\n")
asyncio.run(main())
"""
PIPE = 'follow_parent(int(os.environ[variable("ingress_lifeline")]), kernel=False)'
KERNEL = "follow_parent(os.pipe()[0])"


@pytest.mark.parametrize(
    "follow",
    [
        pytest.param(PIPE, id="by-the-pipe"),
        pytest.param(
            KERNEL,
            id="by-the-kernel",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux has this signal"),
        ),
    ],
)
def test_workers_drain_and_end_when_their_parent_is_killed(follow):
    """INVARIANT: if this fails, a killed parent leaves workers that answer on the port, that nobody watches or can stop."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOOKLINE_")}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, WORKER.format(follow=follow)],
        cwd=ROOT, env={**environment, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        lines = iter(parent.stdout.readline, "")
        up = 0
        while up < 2:
            up += next(lines) == "up\n"
        parent.send_signal(signal.SIGKILL)
        # The pipe is theirs, too: it ends when the last of them has.
        assert [line for line in lines if line == "drained\n"] == ["drained\n"] * 2
