"""A gateway's server in front of the Groq stand-in, with a tenant, a key and the official clients: what its tests stand on."""

from __future__ import annotations

import base64
import contextlib
import inspect
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import groq
import openai
import psycopg
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from infra.accounts import Registry
from infra.database.engine import migrate
from infra.database.tables import llm_usage
from infra.local.groq_stand_in import GroqStandIn
from infra.local.stack import Addresses
from infra.settings import Settings
from llm_gateway.server.app import GatewayServer
from llm_gateway.server.keys import VirtualKeys

MODEL = "openai/gpt-oss-20b"
NOTE = "Ada Lovelace wants a rebate"


def ask(number: int = 0, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": f"{NOTE} {number}"}], **more}


@dataclass
class Place:
    settings: Settings
    stand_in: GroqStandIn
    server: GatewayServer
    url: str
    key: str
    keys: VirtualKeys
    tenant: str
    more: list[GatewayServer]

    async def once(self, key: str) -> Any:
        """One question with another key."""
        async with self.openai(key) as client:
            return await client.chat.completions.create(**ask())

    def client(self, official: ModuleType, key: str | None = None, **more: Any) -> Any:
        """One of the official clients, `openai` or `groq`."""
        return self.openai(key, **more) if official is openai else self.groq(key, **more)

    def openai(self, key: str | None = None, **more: Any) -> openai.AsyncOpenAI:
        told = {"base_url": f"{self.url}/v1", "max_retries": 0, **more}
        return openai.AsyncOpenAI(api_key=key or self.key, **told)

    def groq(self, key: str | None = None, **more: Any) -> groq.AsyncGroq:
        return groq.AsyncGroq(base_url=self.url, api_key=key or self.key, **{"max_retries": 0, **more})

    async def another(self) -> str:
        server = GatewayServer(self.settings)
        await server.start()
        self.more.append(server)
        return f"http://127.0.0.1:{server.port}"

    async def rows(self) -> list[Any]:
        await self.server._ledger.flush()
        async with self.server.engine.connect() as connection:
            return list(await connection.execute(sa.select(llm_usage).where(llm_usage.c.tenant == self.tenant)))


@pytest.fixture(scope="session")
def migrated(addresses: Addresses) -> Iterator[Settings]:
    """One database for all of these tests: each has a tenant of its own."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(addresses.database_url, autocommit=True) as connection:
        connection.execute(f'create database "{name}"')
    made = Settings(
        environment="development",
        database_url=SecretStr(urlunsplit(urlsplit(addresses.database_url)._replace(path=f"/{name}"))),
        redis_url=SecretStr(addresses.redis_url),
        master_keys=SecretStr(base64.b64encode(secrets.token_bytes(32)).decode()),
        gateway_port=0,
        ops_port=0,
        _env_file=None,
    )
    migrate(made)
    yield made
    with psycopg.connect(addresses.database_url, autocommit=True) as connection:
        connection.execute(f'drop database "{name}" with (force)')


@contextlib.asynccontextmanager
async def opened(migrated: Settings, tenant: str, **changes: Any) -> AsyncIterator[Place]:
    """A server in front of a stand-in, with a tenant and a key."""
    stand_in = GroqStandIn(lambda request: f"echo {len(request['messages'])}")
    async with stand_in.serve() as url:
        mine = migrated.model_copy(
            update={
                "provider": "groq",
                # A line of the test's own: what a provider gives is kept in Redis by its key.
                "groq_api_key": SecretStr(secrets.token_hex(8)),
                "groq_base_url": url,
                **changes,
            }
        )
        server = GatewayServer(mine)
        await Registry(server.engine, server.keyring).add_tenant(tenant, tenant)
        await server.start()
        keys = VirtualKeys(server.engine)
        _, text = await keys.create(tenant, scopes=("chat", "batch"))
        place = Place(mine, stand_in, server, f"http://127.0.0.1:{server.port}", text, keys, tenant, [])
        yield place
        for each in (*place.more, server):
            await each.drain(5.0)


@pytest.fixture
async def place(migrated: Settings, tenant: str) -> AsyncIterator[Place]:
    async with opened(migrated, tenant) as found:
        yield found


@pytest.fixture(params=[openai, groq], ids=["openai", "groq"])
def official(request: pytest.FixtureRequest) -> ModuleType:
    """Each of the official clients."""
    found: ModuleType = request.param
    return found


def told(error: Any) -> dict[str, Any]:
    """The error object of a client's error: `openai` takes it out of the body, `groq` does not."""
    found: dict[str, Any] = error.body.get("error", error.body)
    return found


async def had(value: Any) -> Any:
    """What `openai` returns read, `groq` lets one wait for."""
    return await value if inspect.isawaitable(value) else value
