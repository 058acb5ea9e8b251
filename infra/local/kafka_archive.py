"""The archive that lets Kafka start in a third of the time, made by running a throw-away broker once."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from infra.local import jars
from infra.local.engine import Place
from infra.local.jvm import find_java
from infra.local.kafka import RECORD_SECONDS, EmbeddedKafka
from infra.local.ports import Ports
from infra.local.watcher import Watcher

UNUSED_SECONDS = 30 * 86400.0


def make_archive(place: Place) -> Path | None:
    """Return the archive for this Java and these jars; make it, in some 12 s, if there is none.

    None where the broker ran but left no archive (a Java without the means): Kafka then starts in some 3 s.

    Raises:
        StackError: the broker does not run at all.
    """
    locked = jars.locked()
    java = find_java(place.cache, place.account)
    archive = java.archive(place.cache, locked.digest)
    if archive.exists():
        return archive
    archive.parent.mkdir(exist_ok=True)
    archive.parent.chmod(0o755)
    with jars.one_at_a_time(archive.parent / ".lock"):
        if archive.exists():
            return archive
        place.on_progress("Kafka: preparing the archive that makes it start in a second (once, some 12 s)")
        for old in archive.parent.glob("*.archive"):
            if time.time() - old.stat().st_mtime > UNUSED_SECONDS:
                old.unlink()
        with _recording(place) as recorded:
            if not recorded.exists():
                place.on_progress("Kafka: no archive was made; it will start in some 3 s instead of 1")
                return None
            # Copied, not moved: in the cache it belongs to the cache's owner, and appears whole or not at all.
            whole = shutil.copyfile(recorded, archive.with_suffix(f".{secrets.token_hex(4)}"))
            whole.chmod(0o644)
            whole.replace(archive)
    return archive


@contextmanager
def _recording(place: Place) -> Iterator[Path]:
    """Run a broker from start to end in a folder of its own; yields the path where it may have left its archive."""
    inside = place.cache if place.account.can_reach(place.cache) else None
    with tempfile.TemporaryDirectory(dir=inside, prefix="kafka-first-run-") as folder:
        home = Path(folder)
        home.chmod(0o711)
        (home / "run").mkdir()
        mine = replace(place, home=home, logs=home, ports=Ports(home / "ports.json"), on_progress=lambda _line: None)
        recorded = place.account.own(home / "archive") / "new"
        watcher = Watcher(home / "run")
        try:
            EmbeddedKafka(mine, record=recorded).start(watcher)
        finally:
            watcher.finish(seconds=RECORD_SECONDS + 10)
        yield recorded
