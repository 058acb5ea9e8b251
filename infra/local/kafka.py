"""Apache Kafka itself in KRaft mode: one node that is broker and controller, or several for fault tests.

Topics are made by `hookline migrate` alone, so automatic creation is off. What differs from a broker's defaults is what a
single small machine needs (replication of one, small internal topics, small buffers), never what a client can rely on.
"""

from __future__ import annotations

import base64
import shutil
import socket
import struct
import subprocess
import uuid
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra.local import jars
from infra.local.engine import LogTail, Place, PortTakenError, StackError, remedy, wait_until
from infra.local.jvm import find_java, mark_used
from infra.local.process import Server
from infra.local.watcher import Watcher

READY_SECONDS = 120.0  # after a crash it checks its segments first
RECORD_SECONDS = 120.0  # a run that leaves an archive writes it while it ends
_METADATA, _FIND_COORDINATOR = 3, 10

LOGGING = """\
status = error
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = log/server.log
appender.file.filePattern = log/server.log.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{ISO8601} %-5p [%t] %m (%c)%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 10MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 3
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
logger.config.name = org.apache.kafka.common.config.AbstractConfig
logger.config.level = warn
logger.state.name = state.change.logger
logger.state.level = warn
"""


@dataclass(frozen=True)
class _Node:
    number: int
    name: str
    home: Path
    port: int
    controller_port: int


class EmbeddedKafka:
    """A Kafka cluster of `nodes` combined nodes; each is a server named kafka, or kafka-1, kafka-2, ...

    `start` starts those nodes that the watcher does not run, so that a killed one of three can be brought back.
    """

    name = "kafka"

    def __init__(
        self,
        place: Place,
        *,
        nodes: int = 1,
        record: Path | None = None,
        amend: Callable[[dict[str, str]], dict[str, str]] = dict,
        format_options: Sequence[str] = (),
    ) -> None:
        """Args:
        place: where it lives.
        nodes: 1, or 3 to survive the loss of one.
        record: leave a start-up archive here when the run ends.
        amend: answers the settings that a node gets for those of `server_properties`; called once a node and start.
        format_options: more of them for kafka-storage's `format` (SCRAM users are made there).
        """
        self._place = place
        self._count = nodes
        self._record = record
        self._amend = amend
        self._format_options = tuple(format_options)

    def server_names(self) -> list[str]:
        """The names under which the watcher knows the nodes."""
        return [self.name] if self._count == 1 else [f"{self.name}-{number}" for number in range(1, self._count + 1)]

    def start(self, watcher: Watcher) -> str:
        """See `Engine.start`. The URL is the list of bootstrap addresses."""
        place = self._place
        locked = jars.locked()
        paths = jars.fetch(place.cache / "jars", locked, place.on_progress, cancelled=place.cancelled)
        java = find_java(place.cache, place.account)
        archive = java.archive(place.cache, locked.digest)
        if archive.exists():
            mark_used(archive)
        options = java.options(archive=archive if archive.exists() else None, record=self._record)
        command = (str(java.program), *options, "-cp", ":".join(map(str, paths)))
        for again in (False, True, True):
            alive = watcher.pids()
            nodes = self._nodes(alive, other=again)
            new = [node for node in nodes if node.name not in alive]
            for node in new:
                self._configure(node, nodes, command)
            try:
                return self._start(watcher, nodes, new, command)
            except PortTakenError:
                for node in new:
                    watcher.stop(node.name, kill=True)
                if alive:
                    raise  # the others know this node by its port
        raise StackError("kafka: three free ports in a row were taken before it listened. What to do: start again.")

    def _nodes(self, alive: Container[str], *, other: bool) -> list[_Node]:
        home = self._place.account.own(self._place.home / self.name)
        ports = self._place.ports

        def port(node: str, name: str) -> int:
            return ports.known(name) if node in alive else ports.choose(name, other=other)

        return [
            _Node(
                number,
                name,
                self._place.account.own(home / f"node-{number}"),
                port(name, name),
                port(name, f"{name}-controller"),
            )
            for number, name in enumerate(self.server_names(), start=1)
        ]

    def _configure(self, node: _Node, nodes: list[_Node], command: tuple[str, ...]) -> None:
        account = self._place.account
        for folder in ("log", "tmp"):
            account.own(node.home / folder)
        account.write(node.home / "log4j2.properties", LOGGING)
        ports = {each.number: (each.port, each.controller_port) for each in nodes}
        properties = self._amend(server_properties(node.number, ports))
        account.write(node.home / "server.properties", "".join(f"{key}={value}\n" for key, value in properties.items()))
        formatted = node.home / "formatted"
        if formatted.exists():
            return
        self._place.on_progress("Kafka: formatting a new data folder")
        shutil.rmtree(node.home / "data", ignore_errors=True)
        self._format(node, command)
        account.write(formatted, "")

    def _format(self, node: _Node, command: tuple[str, ...]) -> None:
        account = self._place.account
        identity = self._place.home / self.name / "cluster-id"
        if not identity.exists():
            account.write(identity, base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="))
        program = [
            part for part in command if not part.startswith("-XX:A")
        ]  # archives are for the broker's own classes
        done = subprocess.run(
            [
                *program,
                "kafka.tools.StorageTool",
                "format",
                f"--cluster-id={identity.read_text()}",
                "--config=server.properties",
                *self._format_options,
            ],
            cwd=node.home,
            env={"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            user=account.uid,
            group=account.gid,
            extra_groups=None if account.uid is None else [],
            umask=0o077,
            check=False,
        )
        if done.returncode:
            raise StackError(f"kafka: its storage cannot be formatted:\n{done.stdout[-2000:]}\n{remedy(done.stdout)}")

    def _start(self, watcher: Watcher, nodes: list[_Node], new: list[_Node], command: tuple[str, ...]) -> str:
        place = self._place
        tails = {}
        for node in new:
            tails[node.name] = LogTail(node.home / "log" / "server.log", place.log(node.name))
            watcher.start(
                Server(
                    name=node.name,
                    argv=(
                        *command,
                        "-Dlog4j2.configurationFile=log4j2.properties",
                        f"-Djava.io.tmpdir={node.home / 'tmp'}",
                        "kafka.Kafka",
                        "server.properties",
                    ),
                    cwd=str(node.home),
                    log=str(place.log(node.name)),
                    env={"LC_ALL": "C"},
                    uid=place.account.uid,
                    gid=place.account.gid,
                    stop_seconds=RECORD_SECONDS if self._record else 20.0,
                    stop_order=0,
                )
            )
        for node in new:
            wait_until(
                partial(answers, node.port, len(nodes)),
                name=node.name,
                watcher=watcher,
                place=place,
                log=tails[node.name],
                seconds=READY_SECONDS,
            )
        return ",".join(f"127.0.0.1:{node.port}" for node in nodes)


def server_properties(number: int, ports: dict[int, tuple[int, int]]) -> dict[str, str]:
    """The settings of node `number`; `ports` has each node's client and controller port."""
    nodes = len(ports)
    replicas = str(min(3, nodes))
    in_sync = str(2 if nodes >= 3 else 1)
    port, controller_port = ports[number]
    return {
        "process.roles": "broker,controller",
        "node.id": str(number),
        "controller.quorum.voters": ",".join(f"{node}@127.0.0.1:{its[1]}" for node, its in ports.items()),
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": "data",  # relative to the node's folder: a path of the user's may hold commas and spaces
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        "group.initial.rebalance.delay.ms": "0",
        # A broker that was killed may register again only after its old session; alone it has no one to be mistaken for.
        "broker.session.timeout.ms": "4000" if nodes == 1 else "9000",
        "broker.heartbeat.interval.ms": "500" if nodes == 1 else "2000",
        "message.max.bytes": "1048588",  # Kafka's own default: 1 MiB and a batch's header
        "num.network.threads": "2",
        "num.io.threads": "4",
        "num.recovery.threads.per.data.dir": "2",
        "log.cleaner.dedupe.buffer.size": str(32 << 20),  # the default would take a quarter of the heap
        "log.cleaner.backoff.ms": "1000",
    }


def answers(port: int, nodes: int) -> bool:
    """Whether a broker lists all `nodes` brokers, and consumer groups have a coordinator (made on first demand)."""
    try:
        metadata = _ask(port, _METADATA, 1, struct.pack(">i", 0))
        if struct.unpack_from(">i", metadata)[0] < nodes:
            return False
        group = b"hookline-embedded"
        found = _ask(port, _FIND_COORDINATOR, 0, struct.pack(">h", len(group)) + group)
        return bool(struct.unpack_from(">h", found)[0] == 0)
    except (OSError, struct.error):
        return False


def _ask(port: int, api: int, version: int, body: bytes) -> bytes:
    """One request in Kafka's protocol; returns the answer's body."""
    with socket.create_connection(("127.0.0.1", port), 1.0) as connection:
        connection.settimeout(5.0)
        request = struct.pack(">hhih", api, version, 1, -1) + body
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as answer:
            length = struct.unpack(">i", answer.read(4))[0]
            return answer.read(length)[4:]
