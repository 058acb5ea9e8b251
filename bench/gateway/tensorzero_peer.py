"""Runs TensorZero's gateway (Rust, as its PyPI package brings it) until SIGTERM; prints its address.

Run by the peer's own Python, so it imports nothing of ours: `python tensorzero_peer.py CONFIG`.
"""

from __future__ import annotations

import signal
import sys

from tensorzero import tensorzero  # type: ignore[import-not-found]  # in the peer's environment alone

if __name__ == "__main__":
    gateway = tensorzero._start_http_gateway(  # noqa: SLF001 -- what its `patch_openai_client` calls
        config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
    )
    print(gateway.base_url, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
