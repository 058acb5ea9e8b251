"""What the hot paths' statements say when there is no server."""

from __future__ import annotations

import socket

import pytest
from pydantic import SecretStr

from infra.database.engine import build_engine
from infra.database.statement import Statements
from infra.settings import Settings
from infra.unavailable import Unavailable


async def test_a_server_that_refuses_connections_is_away_and_no_bug():
    """INVARIANT: an outage pauses. If it breaks, a restart of PostgreSQL turns good messages into dead letters."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    engine = build_engine(Settings(database_url=SecretStr(f"postgresql://x:y@127.0.0.1:{port}/z"), _env_file=None))
    try:
        with pytest.raises(Unavailable, match="postgres"):
            await Statements(engine).run("SELECT 1", {})
    finally:
        await engine.dispose()
