"""TLS and passwords towards real servers, by settings alone: what works, and what a refusal tells the operator to mend.

Kafka speaks SASL_SSL (SCRAM-SHA-512 and PLAIN) and SSL with client certificates itself. The embedded builds of PostgreSQL
and Valkey are compiled without TLS ("SSL is not supported by this build", "Failed finding TLS support"): in front of these
real servers stands `tests.connected.tls_front`, which ends TLS (after PostgreSQL's SSLRequest) and hands every byte on. So
our side of TLS is tried in full. A PostgreSQL with TLS and channel binding of its own is tried where the machine has one.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import SecretStr
from redis.exceptions import ConnectionError as RedisConnectionError

from console.roles import running
from console.runtime import explained
from infra.database.engine import build_engine, migrate
from infra.database.statement import Statements
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec
from infra.kafka.pump import Pump
from infra.kafka.topics import check_topics, migrate_topics
from infra.keyring import Keyring, MemoryKeys, new_master_key
from infra.local import stack as stack_module
from infra.local.account import servers_account
from infra.local.engine import Engine, Place
from infra.local.kafka import EmbeddedKafka
from infra.local.ports import Ports
from infra.local.postgres import EmbeddedPostgres
from infra.local.stack import EmbeddedStack
from infra.local.valkey import EmbeddedValkey
from infra.ops import ask_all, ask_postgres, ask_redis
from infra.redis import build_redis
from infra.redis_wire import RedisAway, Wire
from infra.settings import Settings
from infra.unavailable import BrokerUnavailable, Unavailable
from schemas.change import Change
from schemas.topics import ALL, CHANGES
from tests.connected.tls_front import tls_front
from tests.ingress.making_certificates import Authority

pytestmark = [pytest.mark.connected, pytest.mark.timeout(90)]

HOST = "localhost"
"""The one name that the certificates have: 127.0.0.1 is the same server by a name that they have not."""
USER, PASSWORD, WRONG = "hookline", secrets.token_hex(12), "not-the-password-7141"


def secure_kafka(place: Place, authority: Authority, ports: dict[str, int]) -> EmbeddedKafka:
    """The embedded Kafka with two more listeners, SASL_SSL and SSL, at the ports that are put into `ports`."""
    certificate, key = authority.issue("kafka", HOST)
    keys = place.account.own(place.home / "kafka-keys")
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    store = place.account.write(keys / "server.pem", pem.decode())
    trust = place.account.write(keys / "ca.pem", authority.certificate.public_bytes(Encoding.PEM).decode())
    login = "org.apache.kafka.common.security"
    ours = "listener.name.sasl_ssl"

    def amend(given: dict[str, str]) -> dict[str, str]:
        again = bool(ports)
        for kind in ("SASL_SSL", "SSL"):
            ports[kind] = place.ports.choose(f"kafka-{kind}", other=again)
        listeners = "".join(f",{kind}://127.0.0.1:{port}" for kind, port in ports.items())
        advertised = "".join(f",{kind}://{HOST}:{port}" for kind, port in ports.items())
        return given | {
            "listeners": given["listeners"] + listeners,
            "advertised.listeners": given["advertised.listeners"] + advertised,
            "listener.security.protocol.map": given["listener.security.protocol.map"] + ",SASL_SSL:SASL_SSL,SSL:SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(store),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(trust),
            "listener.name.ssl.ssl.client.auth": "required",
            f"{ours}.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
            f"{ours}.scram-sha-512.sasl.jaas.config": f"{login}.scram.ScramLoginModule required;",
            f"{ours}.plain.sasl.jaas.config": f'{login}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
        }

    user = ("--add-scram", f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]")
    return EmbeddedKafka(place, amend=amend, format_options=user)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem signed all servers; stranger.pem signed none."""
    folder = tmp_path_factory.mktemp("authorities")
    Authority("stranger").write_ca(folder / "stranger.pem")
    return folder


@pytest.fixture(scope="module")
def servers(files: Path) -> Iterator[tuple[Settings, str]]:
    """See `secure`; and the address of Kafka's listener that asks for a client's certificate."""
    authority, ports = Authority(), {}
    authority.write(files, "client", "hookline")
    ca = authority.write_ca(files / "ca.pem")
    certificate, key = authority.write(files, "front", "front", HOST)

    def engines(place: Place, _nodes: int) -> list[Engine]:
        return [secure_kafka(place, authority, ports), EmbeddedPostgres(place), EmbeddedValkey(place)]

    with ExitStack() as open_:
        data = open_.enter_context(
            tempfile.TemporaryDirectory(
                prefix="hookline-tls-", dir=os.environ.get("HOOKLINE_TEST_DATA"), ignore_cleanup_errors=True
            )
        )
        Path(data).chmod(0o755)  # as root the servers run as somebody else, who must get in
        open_.enter_context(pytest.MonkeyPatch.context()).setattr(stack_module, "_engines", engines)
        plain = open_.enter_context(EmbeddedStack(Path(data)))
        database, redis = urlsplit(plain.database_url), urlsplit(plain.redis_url)
        postgres_port = open_.enter_context(tls_front(database.port, certificate, key, asks_first=True))
        redis_port = open_.enter_context(tls_front(redis.port, certificate, key))
        settings = Settings(
            environment="development",
            kafka_url=f"{HOST}:{ports['SASL_SSL']}",
            kafka_security="SASL_SSL",
            kafka_username=USER,
            kafka_password=SecretStr(PASSWORD),
            kafka_ca_file=ca,
            kafka_partitions=2,
            kafka_replication=1,
            database_url=SecretStr(
                f"postgresql://{database.username}:{database.password}@{HOST}:{postgres_port}{database.path}"
                f"?sslmode=verify-full&sslrootcert={ca}"
            ),
            redis_url=SecretStr(f"rediss://:{redis.password}@{HOST}:{redis_port}/0?ssl_ca_certs={ca}"),
            master_keys=SecretStr(base64.b64encode(secrets.token_bytes(32)).decode()),
            ops_port=0,
            _env_file=None,
        )
        migrate(settings)
        asyncio.run(migrate_topics(settings, ALL))
        yield settings, f"{HOST}:{ports['SSL']}"


@pytest.fixture(scope="module")
def secure(servers: tuple[Settings, str]) -> Settings:
    """Settings of a process that reaches all three over TLS; tables and topics were made by the same way."""
    return servers[0]


def edited(settings: Settings, field: str, old: str, new: str) -> Settings:
    """The same with a piece of a URL replaced."""
    url = getattr(settings, field).get_secret_value()
    assert old in url
    return settings.model_copy(update={field: SecretStr(url.replace(old, new))})


# -- Kafka -------------------------------------------------------------------------------------------------------------


def codec() -> Codec:
    return Codec(Keyring(MemoryKeys(), SecretStr(new_master_key())), "hookline/test")


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
async def test_publisher_and_pump_speak_sasl_ssl_by_settings_alone(secure: Settings, mechanism: str) -> None:
    settings = secure.model_copy(update={"kafka_sasl_mechanism": mechanism})
    ours, tenant, seen = codec(), f"t{uuid4().hex}", asyncio.Queue()

    async def handle(raws) -> None:
        for each in (await ours.open(CHANGES, raws))[0]:
            seen.put_nowait(each.payload)

    async def no_poison(raw, error) -> None:
        raise AssertionError(f"laid aside: {raw.offset} {error!r}")

    publisher = Publisher(settings, ours, timeout=15)
    pump = Pump(settings, topics=[CHANGES.name], group=f"g-{tenant}", handler=handle, on_poison=no_poison)
    await publisher.start()
    await pump.start(15)
    change = Change(
        tenant=tenant,
        account="hubspot:1",
        object="contact",
        id="1",
        kind="updated",
        occurred_at=datetime(2026, 11, 23, tzinfo=UTC),
    )
    try:
        await publisher.publish(CHANGES, [change])
        async with asyncio.timeout(20):
            while (found := await seen.get()).tenant != tenant:
                pass
        assert found == change
        assert await publisher.ask() is None
        assert await pump.ask() is None
    finally:
        await pump.drain(10)
        await publisher.stop()


async def publishing(settings: Settings) -> None:
    await Publisher(settings, codec(), timeout=10).start()


async def pumping(settings: Settings) -> None:
    async def handle(raws) -> None:
        raise AssertionError(raws)

    await Pump(settings, topics=[CHANGES.name], group="never", handler=handle, on_poison=handle).start(1.0)


async def checking(settings: Settings) -> None:
    await check_topics(settings, ALL)


@pytest.mark.parametrize("way", [publishing, pumping, checking])
async def test_a_wrong_kafka_password_is_refused_and_says_what_to_mend(secure: Settings, way) -> None:
    with pytest.raises(BrokerUnavailable, match="HOOKLINE_KAFKA_USERNAME, HOOKLINE_KAFKA_PASSWORD") as caught:
        await way(secure.model_copy(update={"kafka_password": SecretStr(WRONG)}))
    told = str(explained(caught.value))
    assert "HOOKLINE_KAFKA_PASSWORD" in told
    assert WRONG not in told + str(caught.value)


@pytest.mark.parametrize("way", [publishing, pumping, checking])
async def test_an_untrusted_kafka_certificate_is_refused_and_says_what_to_mend(secure: Settings, files, way) -> None:
    with pytest.raises(BrokerUnavailable, match=r"is not trusted .*: set HOOKLINE_KAFKA_CA_FILE") as caught:
        await way(secure.model_copy(update={"kafka_ca_file": files / "stranger.pem"}))
    assert "HOOKLINE_KAFKA_CA_FILE" in str(explained(caught.value))


async def test_kafka_takes_a_clients_certificate_and_its_absence_is_named(servers, files: Path) -> None:
    secure, url = servers
    plain = secure.model_copy(update={"kafka_url": url, "kafka_security": "SSL"})
    ours = {"kafka_cert_file": files / "client.pem", "kafka_key_file": files / "client.key"}
    await checking(plain.model_copy(update=ours))
    with pytest.raises(BrokerUnavailable, match="set HOOKLINE_KAFKA_CERT_FILE and HOOKLINE_KAFKA_KEY_FILE"):
        await checking(plain)


async def test_a_kafka_that_became_unreadable_is_told_by_readiness(secure: Settings, files: Path) -> None:
    told = await Publisher(secure.model_copy(update={"kafka_ca_file": files / "stranger.pem"}), codec()).ask()
    assert "HOOKLINE_KAFKA_CA_FILE" in told


async def test_a_name_that_kafkas_certificate_has_not_is_refused(secure: Settings) -> None:
    """A certificate that is trusted, of another server: without this check anyone with one could stand in between."""
    with pytest.raises(BrokerUnavailable, match="not made for that name: use one that it has in KAFKA_URL"):
        await checking(secure.model_copy(update={"kafka_url": secure.kafka_url.replace(HOST, "127.0.0.1")}))


async def test_a_mechanism_that_kafka_does_not_take_is_named(secure: Settings) -> None:
    with pytest.raises(BrokerUnavailable, match="does not take SCRAM-SHA-256: set HOOKLINE_KAFKA_SASL_MECHANISM"):
        await checking(secure.model_copy(update={"kafka_sasl_mechanism": "SCRAM-SHA-256"}))


async def test_tls_to_a_port_that_speaks_none_is_named(secure: Settings) -> None:
    redis = urlsplit(secure.redis_url.get_secret_value())
    async with plain_server() as port:
        with pytest.raises(BrokerUnavailable, match=r"no TLS with us .*KAFKA_URL, HOOKLINE_KAFKA_SECURITY"):
            await checking(secure.model_copy(update={"kafka_url": f"{HOST}:{port}"}))
        client = build_redis(edited(secure, "redis_url", f":{redis.port}", f":{port}"))
        assert "`rediss://` in REDIS_URL" in await ask_redis(client)
        await client.aclose()


@asynccontextmanager
async def plain_server():
    """The port of a server that answers a greeting in no TLS at all."""

    def answer(_reader, writer) -> None:
        writer.write(b"-ERR unknown command\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


async def test_engine_and_statements_verify_postgres_in_full(secure: Settings) -> None:
    engine = build_engine(secure)
    try:
        async with engine.connect() as connection:
            assert (await connection.execute(sa.text("SELECT 1"))).scalar_one() == 1
            raw = await connection.get_raw_connection()
            assert raw.driver_connection.pgconn.ssl_in_use
        assert await Statements(engine).run("SELECT %(given)s::int", {"given": 7}) == [(7,)]
        assert await ask_postgres(engine) is None
    finally:
        await engine.dispose()


@pytest.mark.parametrize(
    ("old", "new", "mend"),
    [
        ("ca.pem", "stranger.pem", "is not trusted: set `sslrootcert` in DATABASE_URL"),
        ("ca.pem", "absent.pem", "`sslrootcert` in DATABASE_URL names no file that can be read"),
        (f"@{HOST}", "@127.0.0.1", "not made for the host in DATABASE_URL"),
        (f"@{HOST}", f"{WRONG}@{HOST}", "refuses user and password: mend them in DATABASE_URL"),
    ],
)
async def test_what_postgres_is_refused_for_says_what_to_mend(secure: Settings, old: str, new: str, mend: str) -> None:
    engine = build_engine(edited(secure, "database_url", old, new))
    try:
        with pytest.raises(Unavailable) as caught:
            await Statements(engine).run("SELECT 1", {})
        with pytest.raises(sa.exc.OperationalError) as raised:
            async with engine.connect():
                pass
        for told in (str(caught.value), str(explained(raised.value)), await ask_postgres(engine)):
            assert mend in told
            assert WRONG not in told
    finally:
        await engine.dispose()


@contextmanager
def own_postgres(files: Path) -> Iterator[int]:
    """The port of a PostgreSQL that speaks TLS itself, from the machine's packages, with a new data folder."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if _has_tls(path)]
    if not found:
        pytest.skip("this machine has no PostgreSQL with TLS below /usr/lib/postgresql; the embedded build has none")
    account = servers_account()
    with tempfile.TemporaryDirectory(prefix="hookline-own-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        home = account.own(Path(folder) / "home")
        for name in ("front.pem", "front.key"):
            account.write(home / name, (files / name).read_text())
        account.write(home / "password", PASSWORD)
        run = {"cwd": home, "env": {"LC_ALL": "C"}, "user": account.uid, "group": account.gid}
        run |= {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        run |= {} if account.uid is None else {"extra_groups": []}
        first = ("-D", "data", "-U", USER, "--pwfile=password", "--auth=scram-sha-256", "-E", "UTF8", "--no-sync")
        subprocess.run([found[-1] / "initdb", *first], check=True, **run)
        port = Ports(Path(folder) / "ports.json").choose("own")
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "ssl": "on",
            "ssl_cert_file": "../front.pem",
            "ssl_key_file": "../front.key",
        }
        given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        server = subprocess.Popen([found[-1] / "postgres", "-D", "data", "-p", str(port), *given], **run)
        try:
            yield port
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(20)


def _has_tls(programs: Path) -> bool:
    built = (
        subprocess.run([programs / "pg_config", "--configure"], capture_output=True, text=True, check=False).stdout
        if (programs / "pg_config").exists()
        else ""
    )
    return (programs / "initdb").exists() and "openssl" in built


async def test_a_postgres_with_tls_of_its_own_is_spoken_to_with_channel_binding(servers, files: Path) -> None:
    with own_postgres(files) as port:
        url = f"postgresql://{USER}:{PASSWORD}@{HOST}:{port}/postgres?sslmode=verify-full&channel_binding=require"
        engine = build_engine(
            servers[0].model_copy(update={"database_url": SecretStr(f"{url}&sslrootcert={files}/ca.pem")})
        )
        stranger = build_engine(
            servers[0].model_copy(update={"database_url": SecretStr(f"{url}&sslrootcert={files}/stranger.pem")})
        )
        try:
            async with asyncio.timeout(20):
                while await ask_postgres(engine) is not None:  # noqa: ASYNC110 -- a server that starts does not tell
                    await asyncio.sleep(0.05)
            there = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            assert await Statements(engine).run(there, {}) == [(True,)]
            assert "is not trusted" in await ask_postgres(stranger)
        finally:
            await engine.dispose()
            await stranger.dispose()


# -- Redis -------------------------------------------------------------------------------------------------------------


async def test_client_and_wire_speak_to_redis_over_tls(secure: Settings) -> None:
    client = build_redis(secure)
    wire = Wire(client)
    key = f"tls-{uuid4().hex}"
    try:
        assert await wire.run(("SET", key, "said over the wire", "EX", 60)) == [b"OK"]
        assert await client.get(key) == b"said over the wire"
        assert await ask_redis(client) is None
    finally:
        await wire.close()
        await client.aclose()


@pytest.mark.parametrize(
    ("old", "new", "mend"),
    [
        ("?ssl_ca_certs=", "?client_name=", "is not trusted: add `?ssl_ca_certs=FILE` to REDIS_URL"),
        ("ca.pem", "stranger.pem", "is not trusted"),
        ("ca.pem", "absent.pem", "a file that REDIS_URL names cannot be read"),
        (f"@{HOST}", "@127.0.0.1", "not made for the host in REDIS_URL"),
        (f"@{HOST}", f"{WRONG}@{HOST}", "refuses user and password: mend them in REDIS_URL"),
    ],
)
async def test_what_redis_is_refused_for_says_what_to_mend(secure: Settings, old: str, new: str, mend: str) -> None:
    client = build_redis(edited(secure, "redis_url", old, new))
    wire = Wire(client)
    try:
        with pytest.raises(RedisAway, match=re.escape(mend)):
            await wire.run(("PING",))
        with pytest.raises(RedisConnectionError) as caught:
            await client.ping()
        told = str(explained(caught.value)) + await ask_redis(client)
        assert told.count(mend) == 2
        assert WRONG not in told
    finally:
        await wire.close()
        await client.aclose()


async def test_a_wire_goes_on_looking_while_its_authoritys_file_is_absent(secure: Settings, files: Path) -> None:
    """A file that is mounted late must not leave a process without Redis until it is restarted."""
    late = files / "late.pem"
    client = build_redis(edited(secure, "redis_url", "ca.pem", "late.pem"))
    there = asyncio.Event()
    wire = Wire(client, changed=lambda up: there.set() if up else None)
    try:
        with pytest.raises(RedisAway, match="cannot be read"):
            await wire.ready()
        late.write_bytes((files / "ca.pem").read_bytes())
        async with asyncio.timeout(10):
            await there.wait()
        assert await wire.run(("PING",)) == [b"PONG"]
    finally:
        await wire.close()
        await client.aclose()


# -- all three ---------------------------------------------------------------------------------------------------------


async def test_a_role_becomes_ready_over_all_three(secure: Settings) -> None:
    async with running(secure, ["translator"]) as roles, asyncio.timeout(30):
        while any((told := await ask_all(roles["translator"].readiness())).values()):  # noqa: ASYNC110 -- readiness is asked, it does not tell
            await asyncio.sleep(0.05)
    assert {"kafka", "postgres", "redis"} <= told.keys()
