"""Who the servers run as, and which folders that user can reach.

PostgreSQL refuses to run as root, and none of the servers should. Where the owner is root they run as the person behind
sudo, or else as `nobody`. That user may be unable to reach the virtual environment or the project (below a home folder
of mode 700, say). Permissions of folders that are not ours are never widened; instead programs are copied into the cache
and data goes below /var/lib/hookline.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT_DATA = Path("/var/lib/hookline")
ROOT_CACHE = Path("/var/cache/hookline")


@dataclass(frozen=True)
class Account:
    """The user that the servers run as. `uid` is None where that is simply the owner, who is not root."""

    uid: int | None = None
    gid: int | None = None

    def can_reach(self, path: Path) -> bool:
        """Whether this user may pass through every folder down to `path` and read it; what is not there yet, it may."""
        if self.uid is None:
            return True
        path = path.absolute()
        for place in (*reversed(path.parents), path):
            try:
                status = place.stat()
            except FileNotFoundError:
                return True
            except OSError:
                return False
            wanted = 0o1 if place.is_dir() else 0o4
            if status.st_uid == self.uid:
                wanted <<= 6
            elif status.st_gid == self.gid:
                wanted <<= 3
            if not status.st_mode & wanted:
                return False
        return True

    def own(self, path: Path) -> Path:
        """Make a folder of mode 700 that belongs to this user, with all that is in it if it had another owner."""
        path.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            raise PermissionError(f"{path} is a symbolic link; the servers' folders have to be real ones.")
        if self.uid is not None and self.gid is not None and path.stat().st_uid != self.uid:
            for folder, _, files in os.walk(path):
                os.chown(folder, self.uid, self.gid)
                for file in files:
                    os.chown(Path(folder, file), self.uid, self.gid, follow_symlinks=False)
        path.chmod(0o700)
        return path

    def write(self, path: Path, text: str) -> Path:
        """Write a file of mode 600 that belongs to this user."""
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            if self.uid is not None and self.gid is not None:
                os.fchown(descriptor, self.uid, self.gid)
        temporary.replace(path)
        return path


def servers_account() -> Account:
    """The owner, or if that is root: the user who called sudo, or else `nobody`."""
    if os.geteuid() != 0:
        return Account()
    sudo = os.environ.get("SUDO_UID", "0"), os.environ.get("SUDO_GID", "0")
    if all(number.isdigit() and int(number) > 0 for number in sudo):
        return Account(int(sudo[0]), int(sudo[1]))
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return Account(65534, 65534)
    return Account(nobody.pw_uid, nobody.pw_gid)


def cache_folder(data: Path, account: Account) -> Path:
    """Where downloads are kept: HOOKLINE_CACHE, XDG_CACHE_HOME, ~/.cache, /var/cache (root), or in `data`: the first usable."""
    named = os.environ.get("HOOKLINE_CACHE")
    if named:
        cache = _made(Path(named).expanduser().absolute())
        if not account.can_reach(cache):
            raise PermissionError(
                f"HOOKLINE_CACHE is {cache}, which the servers cannot reach: they do not run as root but as uid {account.uid}."
                f" What to do: name a folder that every user may pass to, or unset it."
            )
        return cache
    candidates = []
    if os.environ.get("XDG_CACHE_HOME"):
        candidates.append(Path(os.environ["XDG_CACHE_HOME"], "hookline"))
    candidates.append(Path("~/.cache/hookline").expanduser())
    if account.uid is not None:
        candidates.append(ROOT_CACHE)
    for candidate in candidates:
        if candidate.is_absolute() and account.can_reach(candidate):
            try:
                return _made(candidate)
            except OSError:
                continue
    return _made(servers_home(data, account) / "cache")


def servers_home(data: Path, account: Account) -> Path:
    """The folder below which the servers keep their data: `data` itself, or one of ours that their user can reach."""
    if account.can_reach(data):
        return data
    identity = data / "stack-id"
    if not identity.exists():
        identity.write_text(secrets.token_hex(8))
    home = ROOT_DATA / identity.read_text().strip()
    _made(ROOT_DATA)
    home.mkdir(exist_ok=True)
    home.chmod(0o711)
    return home


def reachable_copy(folders: list[Path], cache: Path, account: Account) -> list[Path]:
    """The given sibling folders, or, where the servers' user cannot reach them, copies that it can.

    Args:
        folders: folders of one parent, since libraries are found relative to programs.
        cache: where copies are kept, one set per source and its age.
        account: who has to reach them.
    """
    if all(account.can_reach(folder) and _readable(folder, account) for folder in folders):
        return folders
    stamp = "".join(f"{folder}:{folder.stat().st_mtime_ns};" for folder in folders)
    target = cache / "programs" / hashlib.sha256(stamp.encode()).hexdigest()[:16]
    if not target.is_dir():
        _made(target.parent)
        building = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
        for folder in folders:
            shutil.copytree(
                folder, building / folder.name, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a")
            )
        for place, _, files in os.walk(building):
            Path(place).chmod(0o755)
            for file in files:
                path = Path(place, file)
                if not path.is_symlink():
                    path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        try:
            building.rename(target)
        except OSError:  # somebody else was quicker
            shutil.rmtree(building)
    return [target / folder.name for folder in folders]


def _readable(folder: Path, account: Account) -> bool:
    """Whether the files in a folder of a package can be read: one sample a level, for a package has one umask."""
    return all(account.can_reach(entry) for entry in list(folder.iterdir())[:20])


def _made(folder: Path) -> Path:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written to. What to do: set HOOKLINE_CACHE to a folder of yours.")
    return folder
