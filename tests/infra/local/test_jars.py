import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from infra.local import jars
from infra.local.jars import DownloadError, Jar, LockedJars

CONTENT = {name: hashlib.sha256(name.encode()).digest() * 40_000 for name in ("one", "two")}  # 1.28 MB each


def _jar(name: str, content: bytes | None = None) -> Jar:
    content = CONTENT[name] if content is None else content
    return Jar("org.example", name, "1.0", len(content), hashlib.sha256(content).hexdigest())


@dataclass
class Repository:
    """A Maven repository that can misbehave."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)  # one entry is used up per answer
    ignore_ranges: bool = False
    ranges: list[str | None] = field(default_factory=list)


@pytest.fixture
def repository() -> Iterator[Repository]:
    told = Repository(files={f"/org/example/{name}/1.0/{name}-1.0.jar": content for name, content in CONTENT.items()})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = told.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            wanted = self.headers["Range"]
            told.ranges.append(wanted)
            begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and not told.ignore_ranges else 0
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            body = content[begin:]
            self.wfile.write(body[: told.cut_after.pop(0)] if told.cut_after else body)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield told
    server.shutdown()
    server.server_close()
    thread.join()


def _fetch(folder: Path, repository: Repository, *wanted: Jar, lines: list[str] | None = None) -> list[Path]:
    told = [] if lines is None else lines
    return jars.fetch(folder, LockedJars("9.9", wanted), told.append, url=repository.url, pause=0.001)


def test_all_jars_arrive_and_progress_names_each_with_its_size(tmp_path: Path, repository: Repository) -> None:
    lines: list[str] = []
    paths = _fetch(tmp_path, repository, _jar("one"), _jar("two"), lines=lines)
    assert [path.read_bytes() for path in paths] == [CONTENT["one"], CONTENT["two"]]
    assert "fetching 2 jars, 2.6 MB" in lines[0]
    assert any("one-1.0.jar 1.3 MB" in line for line in lines)
    assert "(2.6 of 2.6 MB)" in lines[-1]


def test_what_is_there_is_not_fetched_again(tmp_path: Path, repository: Repository) -> None:
    _fetch(tmp_path, repository, _jar("one"))
    lines: list[str] = []
    _fetch(tmp_path, repository, _jar("one"), lines=lines)
    assert len(repository.ranges) == 1
    assert lines == []


def test_a_cut_download_goes_on_where_it_stopped(tmp_path: Path, repository: Repository) -> None:
    repository.cut_after = [500_000, 300_000]
    (path,) = _fetch(tmp_path, repository, _jar("one"))
    assert path.read_bytes() == CONTENT["one"]
    assert repository.ranges == [None, "bytes=500000-", "bytes=800000-"]


def test_the_next_run_resumes_the_part_that_a_killed_one_left(tmp_path: Path, repository: Repository) -> None:
    (tmp_path / "one-1.0.jar.part").write_bytes(CONTENT["one"][:700_000])
    lines: list[str] = []
    (path,) = _fetch(tmp_path, repository, _jar("one"), lines=lines)
    assert path.read_bytes() == CONTENT["one"]
    assert repository.ranges == ["bytes=700000-"]
    assert "resumed at 0.7 MB" in lines[-1]


def test_a_server_that_ignores_ranges_is_read_from_the_beginning(tmp_path: Path, repository: Repository) -> None:
    repository.ignore_ranges = True
    (tmp_path / "one-1.0.jar.part").write_bytes(b"x" * 700_000)
    (path,) = _fetch(tmp_path, repository, _jar("one"))
    assert path.read_bytes() == CONTENT["one"]


def test_a_corrupted_part_is_thrown_away_and_fetched_anew(tmp_path: Path, repository: Repository) -> None:
    (tmp_path / "one-1.0.jar.part").write_bytes(b"x" * 700_000)
    (path,) = _fetch(tmp_path, repository, _jar("one"))
    assert path.read_bytes() == CONTENT["one"]
    assert repository.ranges == ["bytes=700000-", None]


def test_a_truncated_jar_in_the_cache_is_replaced(tmp_path: Path, repository: Repository) -> None:
    (tmp_path / "one-1.0.jar").write_bytes(CONTENT["one"][:10])
    (path,) = _fetch(tmp_path, repository, _jar("one"))
    assert path.read_bytes() == CONTENT["one"]


@pytest.mark.parametrize("length", [len(CONTENT["one"]), len(CONTENT["one"]) + 5000])
def test_a_wrong_checksum_never_becomes_a_jar(tmp_path: Path, repository: Repository, length: int) -> None:
    """INVARIANT: only locked bytes are run. If it fails, whoever answers for the repository runs code on our machine."""
    repository.files["/org/example/one/1.0/one-1.0.jar"] = b"y" * length
    with pytest.raises(DownloadError, match="its checksum is not the locked one"):
        _fetch(tmp_path, repository, _jar("one"))
    assert not (tmp_path / "one-1.0.jar").exists()
    assert not (tmp_path / "one-1.0.jar.part").exists()


def test_a_missing_file_is_reported_at_once_with_its_address_and_what_to_do(
    tmp_path: Path, repository: Repository
) -> None:
    repository.files.clear()
    with pytest.raises(DownloadError, match=r"(?s)one-1\.0\.jar answered 404.*HOOKLINE_MAVEN_URL"):
        _fetch(tmp_path, repository, _jar("one"))


def test_offline_the_error_says_what_to_do_and_keeps_what_is_there(tmp_path: Path, repository: Repository) -> None:
    (tmp_path / "one-1.0.jar.part").write_bytes(CONTENT["one"][:700_000])
    repository.url = "http://127.0.0.1:1"
    with pytest.raises(DownloadError, match=r"(?s)never began.*goes on where it stopped.*KAFKA_URL"):
        _fetch(tmp_path, repository, _jar("one"))
    assert (tmp_path / "one-1.0.jar.part").stat().st_size == 700_000


def test_two_at_once_fetch_each_jar_once(tmp_path: Path, repository: Repository) -> None:
    threads = [threading.Thread(target=_fetch, args=(tmp_path, repository, _jar("one"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "one-1.0.jar").read_bytes() == CONTENT["one"]
    assert len(repository.ranges) == 1


def test_the_lock_file_names_each_jar_once_with_its_checksum() -> None:
    locked = jars.locked()
    assert len({jar.name for jar in locked.jars}) == len(locked.jars)
    assert {f"kafka_2.13-{locked.kafka}.jar", f"kafka-clients-{locked.kafka}.jar"} <= {jar.name for jar in locked.jars}
    assert all(len(bytes.fromhex(jar.sha256)) == 32 and jar.size > 0 for jar in locked.jars)
    assert not {jar.artifact for jar in locked.jars} & jars.NOT_NEEDED


def test_another_repository_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKLINE_MAVEN_URL", "https://mirror.example/maven/")
    assert jars.repository_url() == "https://mirror.example/maven"
