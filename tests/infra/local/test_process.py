import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.local.process import Server, birth, command_line, end_leftovers
from infra.local.watcher import Watcher, WatcherGoneError

STUBBORN = "trap '' TERM; echo deaf; while :; do sleep 0.05; done"


def _server(folder: Path, name: str, *argv: str, **more: object) -> Server:
    return Server(
        name=name,
        argv=argv or ("/bin/sleep", "300"),
        cwd=str(folder),
        log=str(folder / f"{name}.log"),
        env={"PATH": os.environ["PATH"]},
        **more,  # type: ignore[arg-type]
    )


def _eventually(claim: Callable[[], bool], seconds: float = 10.0) -> bool:
    limit = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > limit:
            return False
        threading.Event().wait(0.005)
    return True


def _alive(pid: int) -> bool:
    return birth(pid) is not None


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[Watcher]:
    watcher = Watcher(tmp_path)
    yield watcher
    watcher.finish()


def test_a_server_runs_in_a_session_of_its_own_and_ends_with_finish(tmp_path: Path, watcher: Watcher) -> None:
    pid = watcher.start(_server(tmp_path, "a"))
    assert os.getsid(pid) == pid
    assert watcher.pids() == {"a": pid}
    watcher.finish()
    assert not _alive(pid)
    assert watcher.exit_code("a") == -signal.SIGTERM


def test_an_exit_is_reported_with_its_code_and_the_output_is_in_the_log(tmp_path: Path, watcher: Watcher) -> None:
    watcher.start(_server(tmp_path, "a", "/bin/sh", "-c", "echo out; echo err >&2; exit 7"))
    assert _eventually(lambda: watcher.exit_code("a") == 7)
    assert (tmp_path / "a.log").read_text() == "out\nerr\n"
    assert watcher.pids() == {}


def test_a_program_that_is_not_there_is_an_error_that_names_it(tmp_path: Path, watcher: Watcher) -> None:
    with pytest.raises(OSError, match="/nowhere/at-all"):
        watcher.start(_server(tmp_path, "a", "/nowhere/at-all"))


def test_one_server_can_be_stopped_and_started_again(tmp_path: Path, watcher: Watcher) -> None:
    first, other = watcher.start(_server(tmp_path, "a")), watcher.start(_server(tmp_path, "b"))
    watcher.stop("a", kill=True)
    assert watcher.exit_codes() == {"a": -signal.SIGKILL}
    second = watcher.start(_server(tmp_path, "a"))
    assert watcher.pids() == {"a": second, "b": other}
    assert first != second


def test_servers_stop_in_their_order(tmp_path: Path, watcher: Watcher) -> None:
    script = "trap 'echo {0} >> order; exit' TERM; echo up > {0}.up; while :; do sleep 0.02; done"
    for name, order in (("late", 1), ("early", 0)):
        watcher.start(_server(tmp_path, name, "/bin/sh", "-c", script.format(name), stop_order=order))
    assert _eventually(lambda: (tmp_path / "late.up").exists() and (tmp_path / "early.up").exists())
    watcher.finish()
    assert (tmp_path / "order").read_text().split() == ["early", "late"]


def test_a_server_that_ignores_the_signal_is_killed(tmp_path: Path, watcher: Watcher) -> None:
    pid = watcher.start(_server(tmp_path, "a", "/bin/sh", "-c", STUBBORN, stop_seconds=0.1))
    assert _eventually(lambda: "deaf" in (tmp_path / "a.log").read_text())
    watcher.finish()
    assert not _alive(pid)
    assert watcher.exit_code("a") == -signal.SIGKILL


def test_after_finish_nothing_can_be_started_and_finishing_again_is_harmless(tmp_path: Path, watcher: Watcher) -> None:
    watcher.finish()
    watcher.finish()
    with pytest.raises(WatcherGoneError):
        watcher.start(_server(tmp_path, "a"))


OWNER = """
    import os, sys, time
    from pathlib import Path
    from infra.local.process import Server
    from infra.local.watcher import Watcher
    run = Path(sys.argv[1])
    watcher = Watcher(run)
    pid = watcher.start(Server("a", ("/bin/sleep", "300"), str(run), str(run / "a.log")))
    if sys.argv[2] == "fork" and os.fork() == 0:
        time.sleep(300)  # a child that inherits the owner's end of the pipe
    print(watcher.pid, pid, os.getpid(), flush=True)
    time.sleep(300)
"""


@pytest.mark.parametrize("kind", ["plain", "fork"])
def test_no_server_outlives_an_owner_that_was_killed(tmp_path: Path, kind: str) -> None:
    """INVARIANT: a killed owner leaves no server behind, not even while a forked child of it holds its end of the pipe.

    If it fails, each crash of `hookline up` leaves a broker and a database running that nobody knows of.
    """
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER), str(tmp_path), kind],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        start_new_session=True,
    )
    assert owner.stdout is not None
    watcher_pid, server_pid, _ = map(int, owner.stdout.readline().split())
    assert _alive(server_pid)
    owner.kill()
    owner.wait()
    assert _eventually(lambda: not _alive(watcher_pid) and not _alive(server_pid))
    if kind == "fork":
        os.killpg(owner.pid, signal.SIGKILL)
    owner.stdout.close()
    assert not (tmp_path / "servers.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next start ends them: see the next test")
def test_no_server_outlives_a_watcher_that_was_killed(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path)
    pid = watcher.start(_server(tmp_path, "a"))
    os.kill(watcher.pid, signal.SIGKILL)
    assert _eventually(lambda: not _alive(pid))
    watcher.finish()


def test_leftovers_are_ended_but_never_a_stranger_with_a_reused_pid(tmp_path: Path) -> None:
    """INVARIANT: a pid alone never decides. If it fails, a start after a reboot kills a process of somebody else's."""
    left, stranger = (subprocess.Popen(["/bin/sleep", "300"]) for _ in range(2))
    noted = {
        "left": [left.pid, birth(left.pid)],
        "stranger": [stranger.pid, "some other birth"],
        "gone": [2**22 + 1, "x"],
    }
    (tmp_path / "servers.json").write_text(json.dumps({"watcher": 1, "servers": noted}))
    assert end_leftovers(tmp_path) == ["left"]
    assert left.wait() == -signal.SIGKILL
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
    assert end_leftovers(tmp_path) == []


def test_the_birth_of_a_process_is_its_own() -> None:
    mine = birth(os.getpid())
    assert mine is not None
    assert mine == birth(os.getpid())
    assert birth(2**22 + 1) is None
    assert "python" in command_line(os.getpid())
    assert command_line(2**22 + 1) == ""
