"""`make bench-backlog`: a backlog of deliveries drains through translator, hydrator, analyst and the Postgres sink, each
beside a bare loop that does the same reads and writes (`floor.py`); the last line is JSON.

One stage after the other, so that each has the machine and its numbers are its own; within a stage Hookline's role and the
bare loop take turns (`drain.py`). Then the hydrator drains a part once more with one, two and four replicas.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import CommitFailedError

from bench.backlog import chart, feed, floor, portal, shapes
from bench.backlog.drain import SHORT_TURN_SECONDS, Drained, Offsets, Side, alone, drain
from bench.children import Child
from bench.failure import BenchError
from bench.journey import Setting
from console.runtime import ConsoleError
from console.serve import bring_up_to_date
from infra.accounts import Registry
from infra.crm.hubspot_shapes import ACTIVITIES, RELATED
from infra.database.engine import build_engine
from infra.kafka.broker import Publisher
from infra.kafka.codec import Codec
from infra.keyring import Keyring
from infra.local.engine import StackError
from infra.local.ports import Ports
from infra.local.stack import EmbeddedStack
from infra.settings import Settings
from ingress.allowances import Allowances
from ingress.translator_app import GROUP as TRANSLATOR_GROUP
from processors.app import ANALYST_GROUP, HYDRATOR_GROUP
from schemas.topics import CHANGES, DELIVERIES, INSIGHTS, RECORDS
from sinks.app import group_of

TENANT, PORTAL, APP = "backlog", "73000001", "73000001"
START_SECONDS = 60.0
ROLES = {
    "translator": ("translator", TRANSLATOR_GROUP, DELIVERIES.name),
    "hydrator": ("hydrator", HYDRATOR_GROUP, CHANGES.name),
    "analyst": ("analyst", ANALYST_GROUP, RECORDS.name),
    "postgres": ("sinks", group_of("postgres"), INSIGHTS.name),
}
"""Stage → role, group and topic."""
FLOORS = dict(zip(ROLES, floor.TOPICS, strict=True))
REPLICAS = (1, 2, 4)
FLOOR_TURNS = {"analyst": 0.2, "postgres": 0.2}
"""Seconds of a turn of these bare loops, which would be done before there were turns to compare."""
RECORDS_A_TURN_SECOND = 400_000
"""The analyst's bare loop takes longer turns of a larger backlog: some thirty are enough, and it is not what takes the time."""
WEIGHED = 500
"""Messages by which a side's bytes a message are told."""
OURS = {
    "HOOKLINE_DESTINATIONS": "postgres",
    "HOOKLINE_USER_REQUESTS_PER_DAY": "100000000",
    "HOOKLINE_MODEL_REQUESTS_PER_DAY": "100000000",
    "HOOKLINE_MODEL_REQUESTS_PER_MINUTE": "10000000",
    "HOOKLINE_MODEL_TOKENS_PER_MINUTE": "10000000000",
    # What is to be measured is a backlog on the live lane; an operator gives this tenant as much with `hookline tenant rate`.
    "HOOKLINE_TENANT_CHANGES_PER_SECOND": "1000000",
    "HOOKLINE_TENANT_CHANGES_BURST": "1000000",
}


def main() -> int:
    """Run; 0 with a result on the last line, 1 with the reason on standard error."""
    signal.signal(signal.SIGTERM, _ended)
    # Clients grumble about topics that have no leader for a moment after they were made; what fails is raised.
    logging.getLogger().addHandler(logging.NullHandler())
    given = _arguments()
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="hookline-backlog-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o755)  # started as root the servers run as somebody else, who must get in
            result = _measure(Path(folder), given)
    except (BenchError, ConsoleError, StackError) as error:
        print(f"bench.backlog: no result: {error}", file=sys.stderr)
        return 1
    seconds = round(time.monotonic() - began)
    if given.result:
        told = {"day": f"{datetime.now(UTC):%Y-%m-%d}", "cpus": os.cpu_count(), "seconds": seconds, **result}
        given.result.write_text(json.dumps(told, indent=1) + "\n")
    print(f"({seconds} s in all)")
    print(json.dumps(result))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.backlog", description=__doc__)
    parser.add_argument("--changes", type=int, default=1_000_000)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument(
        "--replica-changes", type=int, default=60_000, help="how many each replica test drains; 0: none"
    )
    parser.add_argument("--stages", default=",".join(ROLES), help="the first of: translator,hydrator,analyst,postgres")
    parser.add_argument("--chart", type=Path, help="where the picture of memory goes (SVG)")
    parser.add_argument("--result", type=Path, help="where the last line goes as well, with the day (JSON)")
    parser.add_argument("--profile", type=Path, help="folder for cProfile's data of each role")
    given = parser.parse_args()
    if given.records > given.changes:
        parser.error("--records is at most --changes: a backlog over so many records changes each at least once")
    return given


def _ended(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)


def _measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as stack:
        ports = Ports(folder / "ports.json")
        crm = ports.choose("portal")
        url = f"http://127.0.0.1:{crm}"
        setting = Setting(stack.enter_context(EmbeddedStack(folder / "stack")), url, ports)
        setting.shown.update(OURS)
        settings = setting.settings()
        _show(setting, given)
        bring_up_to_date(settings)
        standing_in = Child(["bench.backlog.portal"], {portal.PORT: str(crm)}, folder, "portal")
        stack.callback(standing_in.stop)
        standing_in.wait_for_line(portal.READY, START_SECONDS)
        account = f"hubspot:{PORTAL}"
        given.shapes = shapes.told(account, TENANT)
        given.judging = shapes.judging_cpu_per_1000(account, TENANT)
        print(f"Judging 1,000 records by itself (rules and grounding, in one process): {given.judging:.2f} CPU s.")
        return uvloop.run(_Run(setting, settings, folder, url, given).all())


def _show(setting: Setting, given: argparse.Namespace) -> None:
    print(
        f"Backlog: {given.changes:,} changes over {given.records:,} records, {feed.EVENTS} a delivery, evenly spread."
    )
    print("Settings of Hookline's processes that differ from their defaults:")
    for name, value in {**setting.shown, **dict.fromkeys(setting.secret, "(set)")}.items():
        print(f"  {name}={value}")
    print(
        f"Layout, {os.cpu_count()} CPUs: Kafka (one broker, {Settings.model_fields['kafka_partitions'].default} partitions a topic), PostgreSQL and Valkey of the\n"
        "  embedded stack; a stand-in of HubSpot's batch reads, one process; `hookline serve ROLE`, one process; the bare loop,\n"
        "  one process. The role works for 1.5 s, then the bare loop for 0.4 s, and so on.",
        flush=True,
    )


class _Run:
    """One run, on a stack of its own."""

    def __init__(self, setting: Setting, settings: Settings, folder: Path, url: str, given: argparse.Namespace) -> None:
        self._setting = setting
        self._settings = settings
        self._folder = folder
        self._url = url
        self._given = given
        assert settings.kafka_url is not None
        self._kafka = settings.kafka_url
        self._shapes = given.shapes

    async def all(self) -> dict[str, Any]:
        """Every part of it."""
        self._offsets = Offsets(self._kafka)
        began = time.monotonic()
        await self._set_up()
        print(f"backlog made in {time.monotonic() - began:.0f} s; stage by stage, messages a second:", flush=True)
        await self._offsets.start()
        try:
            drained = [await self._stage(stage) for stage in self._given.stages.split(",")]
            await self._draw(drained)
            replicas = (
                await self._replicas() if "hydrator" in self._given.stages and self._given.replica_changes else {}
            )
        finally:
            await self._offsets.stop()
        return _result(drained, replicas, self._given)

    async def _draw(self, drained: list[Drained]) -> None:
        if self._given.chart:
            title = f"Memory while {self._given.changes:,} changes over {self._given.records:,} records drain"
            svg = chart.memory(title, {each.stage: each.ours.rss for each in drained})
            await asyncio.to_thread(self._given.chart.write_text, svg)

    async def _set_up(self) -> None:
        settings = self._settings
        engine = build_engine(settings)
        assert settings.master_keys is not None
        keyring = Keyring(engine, settings.master_keys)
        registry = Registry(engine, keyring)
        await self._make_topics()
        await registry.add_tenant(TENANT, "Backlog")
        await Allowances(engine, settings).refresh()
        account = await registry.add_account(
            TENANT, "hubspot", f"hubspot:{PORTAL}", config={"app_id": APP}, credentials={"access_token": "bench"}
        )
        door = await registry.add_endpoint(
            TENANT, "hubspot", config={"app_id": APP}, secret="bench-secret", accounts=[account.id]
        )  # fmt: skip
        publisher = Publisher(settings, Codec(keyring, "hookline/bench"), client_id="bench")
        bare = AIOKafkaProducer(bootstrap_servers=self._kafka, acks="all", max_batch_size=512 * 1024)
        await publisher.start()
        await bare.start()
        try:
            at = int(time.time() * 1000) - 60_000
            bodies = feed.bodies(self._given.changes, self._given.records, PORTAL, APP, at)
            await feed.fill(publisher, bare, tenant=TENANT, endpoint=door.id, given=bodies)
        finally:
            await bare.stop()
            await publisher.stop()
            await keyring.stop()
            await engine.dispose()

    async def _make_topics(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._kafka)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(name, self._settings.kafka_partitions, 1) for name in floor.TOPICS])
        finally:
            await admin.close()

    def _floor(self, stage: str, number: int = 0, *, silent: bool = False) -> Child:
        """A process of the bare loop; `silent`: it sends nothing, as if it knew all records."""
        database = self._settings.database_url
        assert database is not None
        told = {
            "stage": stage,
            "kafka": self._kafka,
            "portal": self._url,
            "database": database.get_secret_value(),
            "properties": {plural: list(shapes.properties(plural)) for plural in shapes.PLURALS},
            "kinds": {plural: [*ACTIVITIES, *RELATED[kind]] for plural, kind in shapes.PLURALS.items()},
            "silent": silent,
            **self._shapes,
        }
        name = f"floor-{stage}-{number}"
        return Child(["bench.backlog.floor"], {floor.GIVEN: json.dumps(told)}, self._folder, name)

    def _role(self, stage: str, number: int = 0) -> tuple[Child, str]:
        """A process of the role, and where it says that it is ready."""
        ports = Ports(self._folder / f"ports-{stage}-{number}.json")
        ops = ports.choose("health")
        role = ROLES[stage][0]
        module = ["console", "serve", role]
        if self._given.profile and not number:
            self._given.profile.mkdir(parents=True, exist_ok=True)
            module = ["cProfile", "-o", str(self._given.profile.absolute() / f"{stage}.prof"), "-m", *module]
        child = Child(
            module, self._setting.environment(HOOKLINE_OPS_PORT=str(ops)), self._folder, f"hookline-{stage}-{number}"
        )
        return child, f"http://127.0.0.1:{ops}/health/ready"

    async def _stage(self, stage: str) -> Drained:
        _, group, topic = ROLES[stage]
        bare = self._floor(stage)
        roles: list[Child] = []

        async def help_out() -> Child:
            print(f"    {stage}: the bare loop is done; a second process helps with the rest", flush=True)
            return self._role(stage, 9)[0]

        try:
            await asyncio.to_thread(bare.wait_for_line, floor.READY, START_SECONDS)
            role, ready = self._role(stage)
            roles.append(role)
            await asyncio.to_thread(role.wait_for_answer, ready, START_SECONDS)
            os.kill(bare.pid, floor.BEGIN)
            weight = feed.EVENTS if stage == "translator" else 1
            found = await drain(
                stage,
                self._offsets,
                Side("floor", f"bench.{stage}", FLOORS[stage], [bare], weight, self._floor_turn(stage)),
                Side("hookline", group, topic, roles, weight),
                help_out=help_out,
            )
        finally:
            for child in (bare, *roles):
                with suppress(ProcessLookupError):  # it ended by itself, which is what is told
                    os.kill(child.pid, signal.SIGCONT)
                await asyncio.to_thread(child.stop)
        _check(found)
        _tell(found)
        if (bytes_ := await self._bytes(stage)) is not None:
            print(f"    written, bytes a message: hookline {bytes_[0]:.0f}, floor {bytes_[1]:.0f}", flush=True)
            if bytes_[1] < 0.9 * bytes_[0]:
                raise BenchError(f"{stage}: the floor writes less than Hookline does")
        return found

    def _floor_turn(self, stage: str) -> float:
        seconds = FLOOR_TURNS.get(stage, SHORT_TURN_SECONDS)
        return max(seconds, self._given.records / RECORDS_A_TURN_SECOND) if stage == "analyst" else seconds

    async def _bytes(self, stage: str) -> tuple[float, float] | None:
        """What a message weighs that ours and the floor write, key and headers included, over the first of a partition."""
        written = {"translator": (CHANGES.name, floor.CHANGES), "hydrator": (RECORDS.name, floor.RECORDS)}
        written["analyst"] = INSIGHTS.name, floor.INSIGHTS
        if stage not in written:
            return None
        ours, bare = [await self._weight(topic) for topic in written[stage]]
        return ours, bare

    async def _weight(self, topic: str) -> float:
        consumer = AIOKafkaConsumer(bootstrap_servers=self._kafka, group_id=None)
        await consumer.start()
        try:
            partition = TopicPartition(topic, 0)
            consumer.assign([partition])
            await consumer.seek_to_beginning(partition)
            found = (await consumer.getmany(timeout_ms=5_000, max_records=WEIGHED)).get(partition, [])
        finally:
            await consumer.stop()
        sizes = [
            len(each.key) + len(each.value) + sum(len(name) + len(value) for name, value in each.headers)
            for each in found
        ]
        return sum(sizes) / max(1, len(sizes))

    async def _replicas(self) -> dict[str, dict[str, float]]:
        """The hydrator on the newest part of the same changes again, all of them known and unchanged: reads, and no snapshots."""
        found = {}
        for number in REPLICAS:
            ours, bare = await self._ours_together(number), await self._floors_together(number)
            found[str(number)] = {
                "pipeline_per_s": round(ours),
                "floor_per_s": round(bare),
                "ratio": round(ours / max(1e-9, bare), 2),
            }
            print(f"  hydrator, {number} replica(s): hookline {ours:,.0f}/s, floor {bare:,.0f}/s", flush=True)
        return found

    async def _floors_together(self, number: int) -> float:
        group, topic = "bench.hydrator", FLOORS["hydrator"]
        await self._put_back(group, topic, self._given.replica_changes)
        bare: list[Child] = []
        try:
            bare += [self._floor("hydrator", 10 * number + each, silent=True) for each in range(number)]
            for child in bare:
                await asyncio.to_thread(child.wait_for_line, floor.READY, START_SECONDS)
            for child in bare:
                os.kill(child.pid, floor.BEGIN)
            return await alone(self._offsets, Side(f"{number} bare loops", group, topic, bare))
        finally:
            for child in bare:
                await asyncio.to_thread(child.stop)

    async def _ours_together(self, number: int) -> float:
        _, group, topic = ROLES["hydrator"]
        await self._put_back(group, topic, self._given.replica_changes)
        roles = [self._role("hydrator", 1 + each) for each in range(number)]
        try:
            for child, ready in roles:
                await asyncio.to_thread(child.wait_for_answer, ready, START_SECONDS)
            side = Side(f"{number} replicas", group, topic, [child for child, _ in roles])
            return await alone(self._offsets, side)
        finally:
            for child, _ in roles:
                await asyncio.to_thread(child.stop)

    async def _put_back(self, group: str, topic: str, messages: int) -> None:
        """Set the group's offsets so many messages before the end; nobody may be in the group."""
        ends = await self._offsets.ends(topic)
        each = messages // len(ends)
        consumer = AIOKafkaConsumer(bootstrap_servers=self._kafka, group_id=group, enable_auto_commit=False)
        await consumer.start()
        try:
            consumer.assign(list(ends))
            back: dict[TopicPartition, int] = {partition: max(0, end - each) for partition, end in ends.items()}
            deadline = time.monotonic() + START_SECONDS
            while True:
                try:
                    await consumer.commit(back)
                except CommitFailedError:
                    # Who was ended without leaving is a member until its session is over.
                    if time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(0.5)
                else:
                    break
        finally:
            await consumer.stop()


def _tell(each: Drained) -> None:
    ours, bare = each.ours, each.floor
    print(
        f"  {each.stage:<11} {ours.total:>9,} messages: hookline {ours.per_second:8,.0f}/s, floor {bare.per_second:8,.0f}/s, "
        f"ratio {each.ratio:.2f} ({min(len(ours.rates), len(bare.rates))} turns); CPU s/1,000: {ours.cpu_per_1000:.2f} and "
        f"{bare.cpu_per_1000:.2f}; RSS {_start(each):.0f} to {max(mib for _, mib in ours.rss):.0f} MiB",
        flush=True,
    )


def _check(each: Drained) -> None:
    for side in (each.ours, each.floor):
        if not side.done:
            raise BenchError(
                f"{each.stage}: the backlog was gone before {side.name} had warmed up; ask for more with --changes"
            )


def _result(drained: list[Drained], replicas: dict[str, dict[str, float]], given: argparse.Namespace) -> dict[str, Any]:
    """Over all stages: changes by the sum of the stages' times."""

    def whole(side: str) -> float:
        sides = [(each.ours, each.floor if side == "floor" else each.ours) for each in drained]
        return sum(ours.total * ours.weight / max(1e-9, which.per_second) for ours, which in sides)

    by_stage = {
        each.stage: {
            "messages": each.ours.total,
            "floor_per_s": round(each.floor.per_second),
            "pipeline_per_s": round(each.ours.per_second),
            "ratio": round(each.ratio, 2),
            "turns": min(len(each.ours.rates), len(each.floor.rates)),
            "cpu_s_per_1000": round(each.ours.cpu_per_1000, 3),
            "floor_cpu_s_per_1000": round(each.floor.cpu_per_1000, 3),
            "rss_start_mib": round(_start(each)),
            "rss_peak_mib": round(max(mib for _, mib in each.ours.rss)),
        }
        for each in drained
    }
    return {
        "floor_per_s": round(given.changes / whole("floor")),
        "pipeline_per_s": round(given.changes / whole("ours")),
        "ratio": round(whole("floor") / whole("ours"), 2),
        "by_stage": by_stage,
        "rss_start_mib": round(max(_start(each) for each in drained)),
        "rss_peak_mib": max(each["rss_peak_mib"] for each in by_stage.values()),
        "replicas": replicas,
        "judging_cpu_s_per_1000": round(given.judging, 3),
        "changes": given.changes,
        "records": given.records,
    }


def _start(each: Drained) -> float:
    """Memory once it is warm: the median while the first tenth of its backlog drained."""
    early = [mib for share, mib in each.ours.rss if share <= 0.1] or [each.ours.rss[0][1]]
    return float(median(early))


if __name__ == "__main__":
    raise SystemExit(main())
