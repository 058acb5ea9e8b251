import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.local import account
from infra.local.account import Account, cache_folder, reachable_copy, servers_account, servers_home

SOMEBODY = Account(54321, 54321)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may pass through; pytest's own belong to one user alone."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hookline-test-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def test_an_owner_who_is_not_root_runs_the_servers_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert servers_account() == Account()
    assert Account().can_reach(Path("/root/anything"))


@pytest.mark.parametrize(
    ("sudo", "expected"), [(("1000", "1001"), (1000, 1001)), (("0", "0"), None), (("", ""), None), (("-5", "x"), None)]
)
def test_root_hands_over_to_the_caller_of_sudo_or_else_to_nobody(
    monkeypatch: pytest.MonkeyPatch, sudo: tuple[str, str], expected: tuple[int, int] | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", sudo[0])
    monkeypatch.setenv("SUDO_GID", sudo[1])
    chosen = servers_account()
    assert chosen.uid
    assert expected is None or (chosen.uid, chosen.gid) == expected


def test_a_folder_below_a_closed_one_cannot_be_reached(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "deep").mkdir(parents=True)
    closed.chmod(0o700)
    assert not SOMEBODY.can_reach(closed / "deep")
    assert not SOMEBODY.can_reach(closed / "deep" / "not-there-yet")
    assert SOMEBODY.can_reach(Path("/"))
    assert SOMEBODY.can_reach(Path("/usr/bin"))


def test_owner_and_group_permissions_count_for_those_who_have_them() -> None:
    place = Path("/")
    assert Account(place.stat().st_uid, 54321).can_reach(place)
    assert Account(54321, place.stat().st_gid).can_reach(place)


def test_programs_out_of_reach_are_copied_once_and_nothing_of_others_is_changed(open_folder: Path) -> None:
    """INVARIANT: permissions of folders that are not ours stay as they are. If it fails, a start as root opens a home."""
    home = open_folder / "home"
    package = home / "package"
    (package / "bin").mkdir(parents=True)
    (package / "bin" / "server").write_text("#!")
    (package / "bin" / "server").chmod(0o700)
    (package / "share").write_text("data")
    (package / "share").chmod(0o600)
    (home / "package.libs").mkdir()
    home.chmod(0o700)
    cache = open_folder / "cache"
    before = {path: path.stat().st_mode for path in home.rglob("*")}

    copied = reachable_copy([package, home / "package.libs"], cache, SOMEBODY)
    assert [path.name for path in copied] == ["package", "package.libs"]
    assert copied[0].parent == copied[1].parent
    assert (copied[0] / "bin" / "server").stat().st_mode & 0o777 == 0o755
    assert (copied[0] / "share").stat().st_mode & 0o777 == 0o644
    assert home.stat().st_mode & 0o777 == 0o700
    assert before == {path: path.stat().st_mode for path in home.rglob("*")}
    assert reachable_copy([package, home / "package.libs"], cache, SOMEBODY) == copied
    assert len(list((cache / "programs").iterdir())) == 1


def test_programs_within_reach_stay_where_they_are(tmp_path: Path) -> None:
    assert reachable_copy([tmp_path], tmp_path / "cache", Account()) == [tmp_path]
    assert not (tmp_path / "cache").exists()


def test_the_named_cache_wins_and_then_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOOKLINE_CACHE", raising=False)
    assert cache_folder(tmp_path, Account()) == tmp_path / "home" / ".cache" / "hookline"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(tmp_path, Account()) == tmp_path / "xdg" / "hookline"
    monkeypatch.setenv("HOOKLINE_CACHE", str(tmp_path / "named"))
    assert cache_folder(tmp_path, Account()) == tmp_path / "named"
    assert (tmp_path / "named").is_dir()


def test_a_cache_that_cannot_be_made_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file where a folder should be")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOOKLINE_CACHE", raising=False)
    assert cache_folder(tmp_path / "data", Account()) == tmp_path / "data" / "cache"


def test_data_out_of_reach_moves_to_a_folder_of_ours_and_stays_there(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "ROOT_DATA", open_folder / "var")
    data = open_folder / "closed" / ".hookline"
    data.mkdir(parents=True)
    (open_folder / "closed").chmod(0o700)
    home = servers_home(data, SOMEBODY)
    assert home.parent == open_folder / "var"
    assert servers_home(data, SOMEBODY) == home
    (open_folder / "closed").chmod(0o711)
    data.chmod(0o711)
    assert servers_home(data, SOMEBODY) == data


def test_own_refuses_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "kafka").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="symbolic link"):
        Account().own(tmp_path / "kafka")


@as_root
def test_owned_folders_and_files_belong_to_the_servers_user_alone(tmp_path: Path) -> None:
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "left-by-root").write_text("")
    folder = SOMEBODY.own(tmp_path / "kafka")
    file = SOMEBODY.write(folder / "secret", "x")
    for path, mode in ((folder, 0o700), (file, 0o600)):
        assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (54321, 54321, mode)
    assert (folder / "left-by-root").stat().st_uid == 54321
