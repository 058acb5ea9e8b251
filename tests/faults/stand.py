"""The test stand: the servers, the CRM, the model, the wires between them and the roles, and one customer with three accounts.

Law: only what an operator would set is set, and `SETTINGS` says it; the table that a run writes repeats it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from console.sandbox import SandboxProcess
from infra.accounts import Account, Registry
from infra.crm.vendors import connect
from infra.database.engine import build_engine, migrate
from infra.kafka.topics import migrate_topics
from infra.keyring import Keyring
from infra.local.ports import Ports
from infra.local.stack import Addresses, EmbeddedStack
from infra.settings import Settings
from ingress.pubsub.frame import SOURCE
from tests.faults.roles import ROOT, TELLERS, Roles
from tests.faults.wire import Wires

TENANT = "acme"
PORTAL = 81_000_001
ORG = "00D810000000001"
UNTOLD = "00D820000000002"
"""An org that sends no outbound messages: of what changes there tells its event stream alone, or the reconciler alone."""
CHANNEL = "/data/ChangeEvents"
KEY = "gsk_of-the-stand-in"
EVENTS_A_DELIVERY = 5
"""At most; HubSpot sends up to a hundred, and then a few deliveries say everything."""
SETTINGS = {
    "HOOKLINE_ENVIRONMENT": "development",
    "HOOKLINE_PROVIDER": "groq",
    "HOOKLINE_COALESCE_WINDOW_SECONDS": "2",
    "HOOKLINE_QUESTION_REST_SECONDS": "2",
    "HOOKLINE_CRM_TIMEOUT_SECONDS": "5",
    "HOOKLINE_MODEL_TIMEOUT_SECONDS": "10",
    "HOOKLINE_MODEL_REQUESTS_PER_MINUTE": "1000000",
    "HOOKLINE_MODEL_TOKENS_PER_MINUTE": "1000000000",
    "HOOKLINE_MODEL_REQUESTS_PER_DAY": "100000000",
    "HOOKLINE_USER_REQUESTS_PER_DAY": "100000000",
    "HOOKLINE_SALESFORCE_EVENTS_LEASE_SECONDS": "5",
    "HOOKLINE_RECONCILE_EVERY_SECONDS": "3",
    "HOOKLINE_RECONCILE_GRACE_SECONDS": "2",
    "HOOKLINE_RECONCILE_OVERLAP_SECONDS": "20",
    "HOOKLINE_LOG_LEVEL": "INFO",
}
"""What differs from the defaults of production. The sandbox is refused there; the model's limits are not what is tested here."""


class CrmProcess(SandboxProcess):
    """The sandbox with the harness's people, in a process of its own."""

    events_url = ""
    """Of its event bus."""

    def start(self) -> str:
        self.data.mkdir(parents=True, exist_ok=True)
        with (self.data / "sandbox.log").open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.crm", "--data", str(self.data), "--seed", str(self._seed)],
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, (self.data / "sandbox.log").read_text()[-2000:]
        told = json.loads(line)
        self.url, self.events_url = told["sandbox"], told["events"]
        return self.url


class Model:
    """The stand-in of Groq, in a process of its own, and its control."""

    def __init__(self, folder: Path, port: int) -> None:
        self._log = folder / "model.log"
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.model", "--port", str(self.port)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> int:
        """SIGKILL; its exit code."""
        assert self._process is not None
        self._process.kill()
        return self._process.wait()

    def tell(self, **what: Any) -> dict[str, Any]:
        """Its control: see `tests.faults.model`."""
        return _http(f"http://127.0.0.1:{self.port}/control", what)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


@dataclass
class Stand:
    """What faults and judge work with."""

    folder: Path
    nodes: int
    stack: EmbeddedStack
    addresses: Addresses
    """The servers' own: the judge looks past the wires."""
    wires: Wires
    crm: CrmProcess
    model: Model
    roles: Roles
    settings: Settings
    """For this process, past the wires."""
    environment: dict[str, str]
    """The roles'."""
    chance: random.Random
    door: str = ""
    """Where senders send to."""
    accounts: dict[str, int] = field(default_factory=dict)
    """Account → its weight in the load."""
    untold: dict[str, int] = field(default_factory=dict)
    """The same, of accounts whose changes no webhook tells."""
    endpoints: dict[str, str] = field(default_factory=dict)
    """CRM → path of its endpoint."""
    secret: str = ""
    """Of the HubSpot app."""
    token: str = ""
    engine: AsyncEngine = field(init=False)
    keyring: Keyring = field(init=False)

    def __post_init__(self) -> None:
        self.engine = build_engine(self.settings)
        assert self.settings.master_keys
        self.keyring = Keyring(self.engine, self.settings.master_keys)

    @property
    def portal(self) -> str:
        return f"hubspot:{PORTAL}"

    @property
    def org(self) -> str:
        return next(key for key in self.accounts if key.startswith("salesforce:"))

    def worked_on(self) -> dict[str, int]:
        """Account → its weight, of those whose changes somebody tells now."""
        told = any(self.roles.of(kind) for kind in TELLERS)
        return {**self.accounts, **self.untold} if told else self.accounts

    def brokers(self) -> list[str]:
        """The names of Kafka's nodes."""
        return ["kafka"] if self.nodes == 1 else [f"kafka-{number}" for number in range(1, self.nodes + 1)]

    def sql(self, statement: str, given: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Ask PostgreSQL past the wires. Blocks."""
        with psycopg.connect(self.addresses.database_url, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement, given)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def lead_receivers(self) -> None:
        """Let the front wire lead to all receivers that are wanted."""
        self.wires.lead("door", *(("127.0.0.1", member.port) for member in self.roles.of("receiver")))

    async def scale(self, **replicas: int) -> None:
        """Have so many replicas of each kind, and wait until they are ready."""
        named = {kind.replace("_", "-"): number for kind, number in replicas.items()}
        await asyncio.to_thread(self.roles.scale, named)
        await self.roles.until_ready()
        self.lead_receivers()


@contextlib.contextmanager
def open_stand(
    folder: Path,
    *,
    seed: int,
    nodes: int = 3,
    portal_size: int = 2_000,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Stand]:
    """Everything up but the roles: `stand.scale()` comes next. `settings`: of the roles, instead of those in `SETTINGS`."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # as root the servers run as somebody else, who must get in
    ports = Ports(folder / "ports.json")
    with ExitStack() as life:
        stack = EmbeddedStack(folder / "stack", kafka_nodes=nodes)
        addresses = life.enter_context(stack)
        wires = life.enter_context(Wires())
        crm = CrmProcess(folder / "crm", seed=seed)
        life.callback(crm.stop)
        crm.start()
        model = Model(folder, ports.choose("model"))
        life.callback(model.stop)
        model.start()
        environment = {**_environment(addresses, wires, crm, model, nodes), **settings}
        roles = Roles(folder, environment, ports)
        life.callback(roles.stop)
        own = Settings(
            environment="development",
            kafka_url=addresses.kafka_url,
            kafka_replication=min(3, nodes),
            database_url=SecretStr(addresses.database_url),
            redis_url=SecretStr(addresses.redis_url),
            master_keys=SecretStr(environment["HOOKLINE_MASTER_KEYS"]),
            sandbox_url=crm.url,
            public_url=environment["HOOKLINE_PUBLIC_URL"],
            _env_file=None,
        )
        stand = Stand(folder, nodes, stack, addresses, wires, crm, model, roles, own, environment, random.Random(seed))
        stand.door = environment["HOOKLINE_PUBLIC_URL"]
        asyncio.run(_set_up(stand, portal_size))
        # Its connections belong to the loop that is over.
        stand.__post_init__()
        yield stand


def _environment(addresses: Addresses, wires: Wires, crm: CrmProcess, model: Model, nodes: int) -> dict[str, str]:
    # Led to the receivers once they have ports.
    door = f"http://127.0.0.1:{wires.add('door', ('127.0.0.1', 9))}"
    return {
        **SETTINGS,
        "HOOKLINE_PUBLIC_URL": door,
        "KAFKA_URL": wires.add_kafka(addresses.kafka_url),
        "HOOKLINE_KAFKA_REPLICATION": str(min(3, nodes)),
        "DATABASE_URL": _through(wires, "postgres", addresses.database_url),
        "REDIS_URL": _through(wires, "redis", addresses.redis_url),
        "HOOKLINE_SANDBOX_URL": _through(wires, "crm", crm.url),
        "HOOKLINE_SALESFORCE_EVENTS_URL": _through(wires, "crm-events", crm.events_url),
        "GROQ_API_KEY": KEY,
        "GROQ_BASE_URL": f"http://127.0.0.1:{wires.add('model', ('127.0.0.1', model.port))}",
        "HOOKLINE_MASTER_KEYS": base64.b64encode(secrets.token_bytes(32)).decode(),
    }


def _through(wires: Wires, name: str, url: str) -> str:
    parts = urlsplit(url)
    port = wires.add(name, (parts.hostname or "127.0.0.1", parts.port or 0))
    who = f"{parts.username or ''}:{parts.password}@" if parts.password else ""
    return urlunsplit(parts._replace(netloc=f"{who}127.0.0.1:{port}"))


async def _set_up(stand: Stand, size: int) -> None:
    """Tables, topics, and the customer: what an admin does."""
    await asyncio.to_thread(migrate, stand.settings)
    await migrate_topics(stand.settings)
    registry = Registry(stand.engine, stand.keyring)
    stand.secret = secrets.token_hex(16)
    stand.token = f"token-{secrets.token_hex(12)}"
    await registry.add_tenant(TENANT)
    app = await registry.add_endpoint(TENANT, "hubspot", config={"app_id": str(PORTAL)}, secret=stand.secret)
    messages = await registry.add_endpoint(TENANT, "salesforce")
    stand.endpoints = {"hubspot": f"/hooks/{app.id}", "salesforce": f"/hooks/{messages.id}"}
    consumer = {"consumer_key": "key-of-the-stand", "consumer_secret": secrets.token_hex(16)}
    call = stand.crm.acall
    manners = {"parallel": 60, "timeout_s": 8.0, "batch": EVENTS_A_DELIVERY}
    await call(
        "create_app",
        app_id=PORTAL,
        client_secret=stand.secret,
        target_url=stand.door + stand.endpoints["hubspot"],
        **manners,
    )
    await call("create_portal", portal_id=PORTAL, app_id=PORTAL, access_token=stand.token, size=size)
    org = await call(
        "create_org",
        org_id=ORG,
        target_url=stand.door + stand.endpoints["salesforce"],
        size=size // 3,
        **consumer,
        **manners,
    )
    instance = stand.environment["HOOKLINE_SANDBOX_URL"]
    accounts = [
        await registry.add_account(
            TENANT,
            "hubspot",
            stand.portal,
            config={"app_id": str(PORTAL)},
            credentials={"access_token": stand.token},
            endpoints=[app.id],
        ),
        await registry.add_account(
            TENANT,
            "salesforce",
            org["account"],
            config={"instance_url": instance.replace("http:", "https:"), "integration_user": org["integration_user"]},
            credentials=consumer,
            endpoints=[messages.id],
        ),
    ]
    stand.accounts = {stand.portal: 4, org["account"]: 1}
    accounts.append(await _untold(stand, registry, size // 3))
    await _provision(stand, accounts)
    await stand.engine.dispose()


async def _untold(stand: Stand, registry: Registry, size: int) -> Account:
    consumer = {"consumer_key": "key-of-the-untold", "consumer_secret": secrets.token_hex(16)}
    org = await stand.crm.acall("create_org", org_id=UNTOLD, size=size, **consumer)
    instance = stand.environment["HOOKLINE_SANDBOX_URL"].replace("http:", "https:")
    account = await registry.add_account(
        TENANT,
        "salesforce",
        org["account"],
        config={"instance_url": instance, "integration_user": org["integration_user"]},
        credentials=consumer,
    )
    await registry.add_endpoint(TENANT, SOURCE, config={"channel": CHANNEL}, accounts=[account.id])
    stand.untold = {account.id: 1}
    return account


async def _provision(stand: Stand, accounts: list[Account]) -> None:
    settings = stand.settings.model_copy(update={"sandbox_url": stand.environment["HOOKLINE_SANDBOX_URL"]})
    clients = connect(settings, ["hubspot", "salesforce"])
    try:
        for account in accounts:
            await clients[account.crm].provision(account)
    finally:
        await asyncio.gather(*(client.close() for client in clients.values()))


def _http(url: str, what: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(what).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or b"{}")
