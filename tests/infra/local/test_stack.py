import json
import stat
from pathlib import Path

import pytest

from infra.local import jvm
from infra.local.account import Account
from infra.local.engine import LogTail, StackError
from infra.local.stack import Addresses, EmbeddedStack, running

GIVEN = {
    "kafka_url": "kafka.example:9092",
    "database_url": "postgresql://db.example/h",
    "redis_url": "redis://r.example/0",
}


def test_with_all_three_given_nothing_is_started_and_no_folder_is_made(tmp_path: Path) -> None:
    stack = EmbeddedStack(tmp_path / "data", **GIVEN)
    with stack as addresses:
        assert addresses == Addresses(**GIVEN)
        assert stack.pids() == {}
        assert not stack.attached
    assert not (tmp_path / "data").exists()


def test_nothing_runs_on_a_folder_that_is_not_there_or_whose_owner_has_gone(tmp_path: Path) -> None:
    assert running(tmp_path / "nowhere") is None
    run = tmp_path / "run"
    run.mkdir()
    (run / "lock").write_text("")
    (run / "addresses.json").write_text(json.dumps(GIVEN))
    assert running(tmp_path) is None


def test_a_log_tail_shows_only_what_was_written_since(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("Address already in use, an hour ago\n")
    tail = LogTail(log, tmp_path / "never-made.log")
    assert "nothing in" in tail.text()
    with log.open("a") as file:
        file.write("No space left on device\n")
    assert "an hour ago" not in tail.text()
    assert str(log) in tail.text()
    assert "free some disk space" in tail.remedy()
    assert not tail.mentions("Address already in use")


def test_a_complaint_far_above_the_end_is_shown_and_found(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    tail = LogTail(log)
    log.write_text("ERROR failed to bind: Address already in use\n" + "INFO shutting down\n" * 200)
    assert tail.mentions("Address already in use")
    assert "failed to bind" in tail.text()
    assert len(tail.text().splitlines()) < 30


def test_a_java_home_that_is_none_is_named_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKLINE_JAVA_HOME", str(tmp_path))
    with pytest.raises(StackError, match=r"HOOKLINE_JAVA_HOME is .*What to do"):
        jvm.find_java(tmp_path, Account())
    (tmp_path / "release").write_text('JAVA_VERSION="11.0.2"\n')
    with pytest.raises(StackError, match="version 17 or later"):
        jvm.find_java(tmp_path, Account())


@pytest.mark.parametrize(("major", "flag"), [(25, "-XX:AOTCache="), (21, "-XX:SharedArchiveFile=")])
def test_each_java_gets_the_archive_option_that_it_knows(major: int, flag: str) -> None:
    options = jvm.Java(Path("/java"), major).options(archive=Path("/a"))
    assert f"{flag}/a" in options
    assert ("--sun-misc-unsafe-memory-access=allow" in options) is (major >= 24)


def test_a_new_data_folder_can_be_passed_by_the_servers_user_whatever_the_umask(tmp_path: Path) -> None:
    from infra.local.stack import _data_folder

    data = _data_folder(tmp_path / "new")
    assert stat.S_IMODE(data.stat().st_mode) in (0o700, 0o711)
