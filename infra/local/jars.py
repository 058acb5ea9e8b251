"""Apache Kafka's jars: exactly the locked ones, each checked before it is used.

`kafka-jars.lock` beside this file names every jar with its Maven coordinates, size and SHA-256. They are fetched by the
standard Maven layout into a cache, several at once; a cut download goes on where it stopped, and a file appears under its
name only after its checksum was right, so that a present file of the right size is a good one. `HOOKLINE_MAVEN_URL` names
another repository (a company's mirror).

To move to another Kafka: `python -m infra.local.jars lock VERSION` resolves anew and rewrites the lock file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

LOCK_FILE = Path(__file__).with_name("kafka-jars.lock")
ATTEMPTS = 5
TIMEOUT_SECONDS = 30.0
PARALLEL = 4
MEGABYTE = 1_000_000

# Left out, for the broker starts, compacts, and serves groups and transactions without them: what only compiling needs
# (scala-reflect), what reads a YAML log configuration (ours is a properties file), and what a
# library needs for parts that Kafka does not call (commons-validator's XML rules).
NOT_NEEDED = frozenset(
    {
        "scala-reflect",
        "jackson-dataformat-yaml",
        "snakeyaml",
        "commons-beanutils",
        "commons-collections",
        "commons-digester",
        "commons-logging",
    }
)
# Kafka's published dependencies name the logging interface but no implementation of it; its distribution adds this one.
LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl"

Progress = Callable[[str], None]


class DownloadError(RuntimeError):
    """A jar cannot be had, and why, and what to do."""


@dataclass(frozen=True)
class Jar:
    """One locked file. `size` in bytes."""

    group: str
    artifact: str
    version: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.artifact}-{self.version}.jar"

    @property
    def path(self) -> str:
        """Where the standard Maven layout has it, below the repository's URL."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.name}"


@dataclass(frozen=True)
class LockedJars:
    """All jars of one Kafka version."""

    kafka: str
    jars: tuple[Jar, ...]

    @property
    def digest(self) -> str:
        """Changes whenever any jar does; hexadecimal."""
        return hashlib.sha256("".join(jar.sha256 for jar in self.jars).encode()).hexdigest()[:16]


def locked(path: Path = LOCK_FILE) -> LockedJars:
    """What the lock file says."""
    document = json.loads(path.read_text())
    return LockedJars(document["kafka"], tuple(Jar(**jar) for jar in document["jars"]))


def repository_url() -> str:
    """The Maven repository: HOOKLINE_MAVEN_URL, or else Maven's own default, which jgo knows."""
    configured = os.environ.get("HOOKLINE_MAVEN_URL")
    if configured:
        return configured.rstrip("/")
    from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415 - only a download needs it, and the package is optional

    return str(MAVEN_CENTRAL_URL).rstrip("/")


def classpath(folder: Path, jars: LockedJars) -> list[Path] | None:
    """The jars' paths in the lock file's order, or None if one is not there in full."""
    paths = [folder / jar.name for jar in jars.jars]
    with contextlib.suppress(OSError):
        if all(path.stat().st_size == jar.size for path, jar in zip(paths, jars.jars, strict=True)):
            return paths
    return None


def fetch(
    folder: Path,
    jars: LockedJars,
    on_progress: Progress,
    *,
    url: str | None = None,
    pause: float = 1.0,
    cancelled: threading.Event | None = None,
) -> list[Path]:
    """Return the jars' paths, downloading what is missing. May block for minutes; may be called again, and at once by many.

    Args:
        folder: where the files go; made if need be, readable by all users (a server may run as another one).
        jars: what to fetch.
        on_progress: told one line per file and a summary.
        url: the repository; `repository_url()` if None.
        pause: seconds before the second attempt at a file, doubled for each further one.
        cancelled: set from elsewhere to give up soon; what was fetched so far is kept.

    Raises:
        DownloadError: not reachable, not found, or a checksum that stays wrong.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    with one_at_a_time(folder / ".lock"):
        present = classpath(folder, jars)
        if present is not None:
            return present
        missing = [jar for jar in jars.jars if not _has(folder, jar)]
        source = url or repository_url()
        counter = _Counter(on_progress, len(missing), sum(jar.size for jar in missing), cancelled or threading.Event())
        on_progress(
            f"Apache Kafka {jars.kafka}: fetching {len(missing)} jars, {counter.total / MEGABYTE:.1f} MB, into {folder}"
        )
        largest_first = sorted(missing, key=lambda jar: -jar.size)
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="jars") as pool:
            futures = [pool.submit(_fetch_one, source, folder, jar, counter, pause) for jar in largest_first]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                counter.cancelled.set()
                pool.shutdown(cancel_futures=True)
                raise
    return [folder / jar.name for jar in jars.jars]


def _has(folder: Path, jar: Jar) -> bool:
    path = folder / jar.name
    return path.is_file() and path.stat().st_size == jar.size and _sha256(path) == jar.sha256


class _Counter:
    """What has been fetched so far, told line by line."""

    def __init__(self, on_progress: Progress, files: int, total: int, cancelled: threading.Event) -> None:
        self.total = total
        self.cancelled = cancelled
        self._on_progress = on_progress
        self._files = files
        self._done_files = 0
        self._done = 0
        self._lock = threading.Lock()

    def done(self, jar: Jar, *, resumed_at: int) -> None:
        with self._lock:
            self._done += jar.size
            self._done_files += 1
            resumed = f", resumed at {resumed_at / MEGABYTE:.1f} MB" if resumed_at else ""
            self._on_progress(
                f"  [{self._done_files}/{self._files}] {jar.name} {_shown(jar.size)}{resumed}"
                f" ({self._done / MEGABYTE:.1f} of {self.total / MEGABYTE:.1f} MB)"
            )

    def again(self, jar: Jar, why: str) -> None:
        with self._lock:
            self._on_progress(f"  {jar.name}: {why}; trying again")


def _fetch_one(source: str, folder: Path, jar: Jar, counter: _Counter, pause: float) -> None:
    part = folder / f"{jar.name}.part"
    resumed_at = part.stat().st_size if part.exists() else 0
    why = ""
    for attempt in range(ATTEMPTS):
        if counter.cancelled.wait(pause * 2 ** (attempt - 1) if attempt else 0):
            raise DownloadError(
                f"{jar.name}: given up when told to. Run the same command again: it goes on where it stopped."
            )
        try:
            _append(f"{source}/{jar.path}", part, jar, counter.cancelled)
        except urllib.error.HTTPError as error:
            error.close()
            why = f"{source}/{jar.path} answered {error.code}"
            if error.code in (401, 403, 404, 410):
                break
        except (OSError, http.client.HTTPException) as error:
            why = f"the download was cut or never began ({getattr(error, 'reason', None) or error or type(error).__name__})"
        else:
            if part.stat().st_size == jar.size and _sha256(part) == jar.sha256:
                part.chmod(0o644)
                part.replace(folder / jar.name)
                counter.done(jar, resumed_at=resumed_at)
                return
            short = part.stat().st_size < jar.size
            why = "the download was cut" if short else "its checksum is not the locked one"
            if not short:
                part.unlink()
                resumed_at = 0
        if attempt + 1 < ATTEMPTS and not counter.cancelled.is_set():
            counter.again(jar, why)
    raise DownloadError(
        f"{jar.name} cannot be fetched: {why}.\n"
        f"What to do: check the network and any proxy (HTTPS_PROXY), or point HOOKLINE_MAVEN_URL to a Maven repository that"
        f" this machine reaches, and run the same command again: it goes on where it stopped. With Kafka, PostgreSQL and"
        f" Redis of your own (KAFKA_URL, DATABASE_URL, REDIS_URL) nothing has to be fetched."
    )


def _append(url: str, part: Path, jar: Jar, cancelled: threading.Event) -> None:
    """Add to the part file what it lacks. Returns early, without an error, when the connection closes too soon or if told to."""
    have = part.stat().st_size if part.exists() else 0
    if have > jar.size:
        part.unlink()
        have = 0
    if have == jar.size:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "hookline"})  # noqa: S310 - the operator's own URL, or the default
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - as above
        resumed = answer.status == 206
        with part.open("ab" if resumed else "wb") as file:
            left = jar.size - (have if resumed else 0) + 1  # one more byte shows that a file is too long
            while left > 0 and not cancelled.is_set():
                block = answer.read(min(left, 1 << 18))
                if not block:
                    break
                file.write(block)
                left -= len(block)


def _shown(size: int) -> str:
    return f"{size / MEGABYTE:.1f} MB" if size >= 100_000 else f"{size / 1000:.0f} kB"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process at a time through; the others wait, and then find its work done."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def lock(version: str, path: Path = LOCK_FILE) -> LockedJars:
    """Resolve Kafka `version` anew, fetch every jar once to measure it, and write the lock file."""
    import jgo  # noqa: PLC0415 - only this maintainer's command resolves anything

    kafka = f"org.apache.kafka:kafka_2.13:{version}"
    log4j = next(a.version for a in jgo.resolve(kafka) if a.artifactId == "log4j-core")
    artifacts = [*jgo.resolve(kafka), *jgo.resolve(f"{LOGGING}:{log4j}")]
    found: dict[str, Jar] = {}
    for artifact in artifacts:
        if artifact.artifactId in NOT_NEEDED or artifact.artifactId in found:
            continue
        blank = Jar(artifact.groupId, artifact.artifactId, artifact.version, 0, "")
        with urllib.request.urlopen(f"{repository_url()}/{blank.path}", timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - as above
            content = answer.read()
        found[artifact.artifactId] = Jar(
            blank.group, blank.artifact, blank.version, len(content), hashlib.sha256(content).hexdigest()
        )
    jars = LockedJars(version, tuple(sorted(found.values(), key=lambda jar: (jar.group, jar.artifact))))
    document = {"kafka": version, "jars": [asdict(jar) for jar in jars.jars]}
    path.write_text(json.dumps(document, indent=1) + "\n")
    return jars


def main(arguments: list[str]) -> int:
    """`lock VERSION` rewrites the lock file; anything else says so."""
    if len(arguments) != 2 or arguments[0] != "lock":
        sys.stderr.write("usage: python -m infra.local.jars lock VERSION\n")
        return 2
    begun = time.monotonic()
    jars = lock(arguments[1])
    size = sum(jar.size for jar in jars.jars) / MEGABYTE
    sys.stdout.write(f"{LOCK_FILE}: {len(jars.jars)} jars, {size:.1f} MB, {time.monotonic() - begun:.0f} s\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
