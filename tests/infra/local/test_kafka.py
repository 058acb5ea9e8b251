import pytest

from infra.local.kafka import answers, server_properties


def test_one_node_needs_no_other() -> None:
    settings = server_properties(1, {1: (9092, 9093)})
    assert settings["controller.quorum.voters"] == "1@127.0.0.1:9093"
    assert {value for key, value in settings.items() if key.endswith("replication.factor")} == {"1"}
    assert settings["min.insync.replicas"] == "1"


def test_three_nodes_survive_the_loss_of_one() -> None:
    settings = server_properties(2, {1: (1, 2), 2: (3, 4), 3: (5, 6)})
    assert settings["node.id"] == "2"
    assert settings["controller.quorum.voters"] == "1@127.0.0.1:2,2@127.0.0.1:4,3@127.0.0.1:6"
    assert {value for key, value in settings.items() if key.endswith("replication.factor")} == {"3"}
    assert settings["min.insync.replicas"] == "2"


@pytest.mark.parametrize("nodes", [1, 3])
def test_topics_are_never_made_by_accident_and_nothing_listens_beyond_loopback(nodes: int) -> None:
    settings = server_properties(1, {number: (number, number + 10) for number in range(1, nodes + 1)})
    assert settings["auto.create.topics.enable"] == "false"
    assert all("://127.0.0.1:" in listener for listener in settings["listeners"].split(","))


def test_a_closed_port_is_no_answer() -> None:
    assert answers(1, 1) is False
