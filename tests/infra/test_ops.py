from __future__ import annotations

import asyncio
import json

import pytest

from infra import metrics, ops
from infra.settings import Settings, SettingsError


async def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), body


async def fine() -> None:
    return None


async def wrong() -> str:
    return "PostgreSQL does not answer"


async def broken() -> None:
    raise KeyError("never shown")


async def hangs() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def settings() -> Settings:
    return Settings(ops_port=0, _env_file=None)


async def test_ready_says_what_is_wrong_and_live_does_not_care(settings, monkeypatch) -> None:
    monkeypatch.setattr(ops, "CHECK_SECONDS", 0.05)
    checks = {"kafka": fine}
    server = await ops.serve_ops(settings, checks)
    try:
        assert await get(server.port, "/health/ready") == (200, '{"ready": true, "parts": {"kafka": "ok"}}')
        checks.update(postgres=wrong, redis=broken, model=hangs)
        status, body = await get(server.port, "/health/ready")
        assert status == 503
        assert json.loads(body)["parts"] == {
            "kafka": "ok", "postgres": "PostgreSQL does not answer", "redis": "KeyError", "model": "no answer within 0.05 s",
        }  # fmt: skip
        assert (await get(server.port, "/health/live"))[0] == 200
        assert (await get(server.port, "/secret"))[0] == 404
        assert (await get(server.port, "/metrics", "POST"))[0] == 405
    finally:
        await server.stop()


async def test_a_part_that_the_role_goes_on_without_is_told_and_leaves_it_ready(settings) -> None:
    checks = {"kafka": fine, "redis": ops.Dispensable(wrong), "model": ops.Dispensable(broken)}
    server = await ops.serve_ops(settings, checks)
    try:
        status, body = await get(server.port, "/health/ready")
        assert (status, json.loads(body)) == (
            200,
            {"ready": True, "parts": {"kafka": "ok", "redis": "PostgreSQL does not answer", "model": "KeyError"}},
        )
        checks.update(postgres=wrong)
        assert (await get(server.port, "/health/ready"))[0] == 503
    finally:
        await server.stop()


async def test_metrics_are_served(settings) -> None:
    metrics.POISON.labels("ops-test").inc()
    server = await ops.serve_ops(settings, {})
    try:
        status, body = await get(server.port, "/metrics")
        assert status == 200
        assert 'hookline_pump_poison_total{group="ops-test"} 1.0' in body
    finally:
        await server.stop()
        await server.stop()


async def test_a_port_that_is_taken_is_said_with_the_variable_to_set(settings) -> None:
    server = await ops.serve_ops(settings, {})
    try:
        with pytest.raises(SettingsError, match="HOOKLINE_OPS_PORT"):
            await ops.serve_ops(settings.model_copy(update={"ops_port": server.port}), {})
    finally:
        await server.stop()
