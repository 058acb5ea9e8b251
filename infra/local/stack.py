"""The embedded stack: Apache Kafka, PostgreSQL and Valkey on loopback, with their data in one folder.

One stack per data folder. Whoever starts it first owns it; a later `start` on the same folder, from any process, attaches
to what runs, and its `stop` then stops nothing. Servers never outlive their owner (see `infra.local.process`).

    python -m infra.local.stack prepare        downloads what a first start needs
    python -m infra.local.stack run            keeps a stack up and prints its three URLs
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from infra.local import jars
from infra.local.account import cache_folder, servers_account, servers_home
from infra.local.engine import Engine, Place, StackError
from infra.local.kafka import EmbeddedKafka
from infra.local.kafka_archive import make_archive
from infra.local.ports import Ports
from infra.local.postgres import EmbeddedPostgres
from infra.local.process import end_leftovers
from infra.local.valkey import EmbeddedValkey
from infra.local.watcher import Watcher

DEFAULT_DATA = Path(".hookline")
OTHER_STARTS_SECONDS = 180.0

Progress = Callable[[str], None]


def silent(_line: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Addresses:
    """Where the three are. They contain passwords: print them for the operator alone, never log them."""

    kafka_url: str
    database_url: str
    redis_url: str


class EmbeddedStack:
    """The three servers of one data folder, or those of them for which no URL is given."""

    def __init__(
        self,
        data: Path,
        *,
        kafka_url: str | None = None,
        database_url: str | None = None,
        redis_url: str | None = None,
        on_progress: Progress = silent,
        kafka_nodes: int = 1,
    ) -> None:
        """Args:
        data: the project's data folder; made if need be.
        kafka_url: a Kafka of the user's; no embedded one is started.
        database_url: likewise a PostgreSQL.
        redis_url: likewise a Redis or Valkey.
        on_progress: told, in lines, what takes time; called from several threads, one at a time.
        kafka_nodes: brokers of the embedded Kafka.
        """
        self._data = Path(data).absolute()
        self._given = {"kafka": kafka_url, "postgres": database_url, "valkey": redis_url}
        self._nodes = kafka_nodes
        self._watcher: Watcher | None = None
        self._place: Place | None = None
        self._addresses: Addresses | None = None
        self._cancelled = threading.Event()
        telling = threading.Lock()

        def tell(line: str) -> None:
            with telling:
                on_progress(line)

        self._tell = tell

    @property
    def attached(self) -> bool:
        """Whether another process owns the servers that `start` found."""
        return self._addresses is not None and self._watcher is None and not all(self._given.values())

    def start(self) -> Addresses:
        """Start what is not given, all at once, and return when each truly answers. Blocks; a second call returns at once.

        Raises:
            StackError: with the log's tail and what to do. Nothing is left running then.
            jars.DownloadError: on a first start without a network.
        """
        if self._addresses is not None:
            return self._addresses
        if all(self._given.values()):
            self._addresses = self._merge({})
            return self._addresses
        try:
            return self._start()
        except PermissionError as error:
            raise StackError(
                f"{error}: a file of the data folder {self._data} belongs to another user (made as root?). What to do: start as"
                f" that user, give the folder to this one (chown -R), or use another data folder."
            ) from error

    def _start(self) -> Addresses:
        run = _run_folder(_data_folder(self._data))
        lock = self._lock_or_attach(run)
        if lock is None:
            assert self._addresses is not None
            return self._addresses
        try:
            left = end_leftovers(run)
            if left:
                self._tell(f"ended what an earlier run left behind: {', '.join(left)}")
            (run / "addresses.json").unlink(missing_ok=True)
            (run / "owner").write_text(str(os.getpid()))
            self._cancelled.clear()
            self._watcher = Watcher(run, hold_fds=(lock,))
        finally:
            os.close(lock)  # the watcher holds it from here on, until the last server is gone
        try:
            found = self._start_engines(self._watcher)
        except BaseException:
            self.stop()
            raise
        self._addresses = self._merge(found)
        _write_private(run / "addresses.json", json.dumps(asdict(self._addresses)))
        return self._addresses

    def stop(self) -> None:
        """Stop what this object started: Kafka first, then the other two; at most about a minute. May be called again."""
        self._cancelled.set()
        self._addresses = None
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.finish()

    def pids(self) -> dict[str, int]:
        """The servers that this object runs, by name: kafka (or kafka-1, ...), postgres, valkey. Empty when attached."""
        return self._watcher.pids() if self._watcher else {}

    def ended(self) -> dict[str, int]:
        """The servers of this object that ended by themselves or were killed, with exit codes (negative: the signal)."""
        return self._watcher.exit_codes() if self._watcher else {}

    def kill(self, name: str) -> None:
        """SIGKILL one server, for fault tests, and return when it is gone. The others stay up."""
        if self._watcher is not None:
            self._watcher.stop(name, kill=True)

    def revive(self, name: str) -> None:
        """Start a server that has ended, at the same address, and return when it answers. Blocks; raises StackError."""
        if self._watcher is None or self._place is None:
            raise StackError(f"{name} cannot be started: this stack is not up, or another process owns it.")
        engine = next(
            each for each in _engines(self._place, self._nodes) if name.split("-", maxsplit=1)[0] == each.name
        )
        if name not in self.pids():
            engine.start(self._watcher)

    def __enter__(self) -> Addresses:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _merge(self, found: dict[str, str]) -> Addresses:
        urls = {name: given or found.get(name, "") for name, given in self._given.items()}
        return Addresses(kafka_url=urls["kafka"], database_url=urls["postgres"], redis_url=urls["valkey"])

    def _lock_or_attach(self, run: Path) -> int | None:
        """The data folder's lock, or None if its servers run already, with their addresses noted."""
        limit = time.monotonic() + OTHER_STARTS_SECONDS
        told = False
        while True:
            lock = os.open(run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            os.close(lock)
            there = _read_addresses(run)
            if there is not None:
                self._addresses = self._merge(
                    {"kafka": there.kafka_url, "postgres": there.database_url, "valkey": there.redis_url}
                )
                return None
            if time.monotonic() > limit:
                raise StackError(
                    f"{self._data} is in use by process {_owner(run)}, whose servers neither came up nor ended within"
                    f" {OTHER_STARTS_SECONDS:.0f} s. What to do: stop that process, or use another data folder."
                )
            if not told:
                self._tell(f"waiting for process {_owner(run)}, which starts or stops the servers of {self._data}")
                told = True
            time.sleep(0.05)

    def _start_engines(self, watcher: Watcher) -> dict[str, str]:
        self._place = _place(self._data, self._tell, self._cancelled)
        wanted = [engine for engine in _engines(self._place, self._nodes) if not self._given[engine.name]]
        found: dict[str, str] = {}
        with ThreadPoolExecutor(len(wanted), thread_name_prefix="stack") as pool:
            futures = {pool.submit(engine.start, watcher): engine.name for engine in wanted}
            try:
                for future in as_completed(futures):
                    found[futures[future]] = future.result()
            except BaseException:
                self._cancelled.set()
                raise
        return found


def _engines(place: Place, kafka_nodes: int) -> list[Engine]:
    return [EmbeddedKafka(place, nodes=kafka_nodes), EmbeddedPostgres(place), EmbeddedValkey(place)]


def running(data: Path) -> Addresses | None:
    """The addresses of the stack that some process keeps up on this data folder, or None. Quick; starts nothing."""
    run = Path(data).absolute() / "run"
    try:
        lock = os.open(run / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_addresses(run)
    finally:
        os.close(lock)
    return None


def prepare(data: Path, on_progress: Progress = silent) -> None:
    """Do what a first start needs and can be done ahead: fetch Kafka's jars, make its start-up archive. Idempotent.

    Raises:
        jars.DownloadError: a jar cannot be had.
        StackError: Kafka does not run on this machine.
    """
    data = _data_folder(Path(data).absolute())
    place = _place(data, on_progress, threading.Event())
    jars.fetch(place.cache / "jars", jars.locked(), on_progress)
    make_archive(place)


def _place(data: Path, on_progress: Progress, cancelled: threading.Event) -> Place:
    account = servers_account()
    home = servers_home(data, account)
    if home != data:
        on_progress(f"the servers do not run as root and cannot reach {data}: their data is in {home}")
    logs = data / "logs"
    logs.mkdir(exist_ok=True)
    return Place(
        home=home,
        logs=logs,
        cache=cache_folder(data, account),
        account=account,
        ports=Ports(data / "ports.json"),
        password=_password(data),
        on_progress=on_progress,
        cancelled=cancelled,
    )


def _password(data: Path) -> str:
    path = data / "password"
    if not path.exists():
        new = path.with_name(f"password.{secrets.token_hex(4)}")
        _write_private(new, secrets.token_hex(24))
        with contextlib.suppress(FileExistsError):  # of two who begin at once, the first one's stays
            os.link(new, path)
        new.unlink()
    return path.read_text().strip()


def _data_folder(data: Path) -> Path:
    """The folder, made with permissions that fit whatever the umask is: the servers' user has to pass through it."""
    if not data.is_dir():
        data.mkdir(parents=True, exist_ok=True)  # somebody else may start this very moment
        data.chmod(0o711 if os.geteuid() == 0 else 0o700)
    if not os.access(data, os.W_OK):
        raise StackError(
            f"{data} cannot be written to; it belongs to user {data.stat().st_uid}. What to do: start as that user, or use"
            f" another data folder."
        )
    return data


def _run_folder(data: Path) -> Path:
    run = data / "run"
    run.mkdir(exist_ok=True)
    run.chmod(0o700)
    return run


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


def _read_addresses(run: Path) -> Addresses | None:
    try:
        return Addresses(**json.loads((run / "addresses.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _owner(run: Path) -> str:
    try:
        return (run / "owner").read_text()
    except OSError:
        return "(unknown)"


def main(arguments: list[str] | None = None) -> int:
    """The command line of this module; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.local.stack", description="The embedded Kafka, PostgreSQL and Valkey."
    )
    parser.add_argument("command", choices=["prepare", "run"])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="the data folder (default: .hookline)")
    chosen = parser.parse_args(arguments)

    def tell(line: str) -> None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    try:
        if chosen.command == "prepare":
            prepare(chosen.data, tell)
        else:
            _run(chosen.data, tell)
    except (StackError, jars.DownloadError, OSError) as error:
        tell(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(data: Path, tell: Progress) -> None:
    ended = threading.Event()

    def end(_number: int, _frame: object) -> None:
        ended.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    begun = time.monotonic()
    stack = EmbeddedStack(data, on_progress=tell)
    try:
        addresses = stack.start()
        tell(f"{'attached' if stack.attached else 'ready'} after {time.monotonic() - begun:.1f} s; Ctrl-C stops it")
        for name, url in (
            ("KAFKA_URL", addresses.kafka_url),
            ("DATABASE_URL", addresses.database_url),
            ("REDIS_URL", addresses.redis_url),
        ):
            sys.stdout.write(f"{name}={url}\n")
        sys.stdout.flush()
        if not stack.attached:
            ended.wait()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stack.stop()


if __name__ == "__main__":
    raise SystemExit(main())
