"""The two watermarks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingress.gate import Gate


def test_it_refuses_at_95_percent_and_takes_again_at_90():
    gate = Gate(100, 1_000)
    assert all(gate.enter() for _ in range(95))
    assert not gate.enter()
    for _ in range(4):
        gate.leave()
    assert not gate.enter()
    gate.leave()
    assert gate.requests == 90
    assert gate.enter()


def test_bytes_close_it_too():
    gate = Gate(100, 1_000)
    assert gate.enter()
    assert gate.take(960)
    assert not gate.enter()
    gate.give_back(50)
    assert not gate.enter()
    gate.give_back(20)
    assert gate.enter()
    assert not gate.take(200)


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 40))
def test_it_never_holds_more_than_its_limit(steps, limit):
    gate = Gate(limit, 1_000)
    inside = 0
    for enters in steps:
        if enters:
            inside += gate.enter()
        elif inside:
            gate.leave()
            inside -= 1
        assert gate.requests == inside <= limit
