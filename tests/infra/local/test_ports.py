import socket
from pathlib import Path

from infra.local.ports import FIRST, LAST, Ports, is_free


def test_a_port_is_free_in_range_and_the_same_next_time(tmp_path: Path) -> None:
    port = Ports(tmp_path / "ports.json").choose("kafka")
    assert FIRST <= port <= LAST
    again = Ports(tmp_path / "ports.json")
    assert again.known("kafka") == port
    assert again.choose("kafka") == port


def test_a_port_that_was_taken_meanwhile_is_given_up(tmp_path: Path) -> None:
    ports = Ports(tmp_path / "ports.json")
    port = ports.choose("kafka")
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        assert not is_free(port)
        assert ports.choose("kafka") != port


def test_each_name_has_a_port_of_its_own_and_another_can_be_asked_for(tmp_path: Path) -> None:
    ports = Ports(tmp_path / "ports.json")
    chosen = [ports.choose(name) for name in ("a", "b", "c")]
    assert len(set(chosen)) == 3
    assert ports.choose("a", other=True) not in chosen


def test_a_damaged_note_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text("{]")
    assert is_free(Ports(tmp_path / "ports.json").choose("a"))
