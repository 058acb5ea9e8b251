from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.breaker import LONGEST_SECONDS, Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def broken(clock: Clock) -> Breaker:
    breaker = Breaker(clock, failures=3, open_seconds=5)
    for _ in range(3):
        assert breaker.wait(1) == 0
        breaker.failed()
    return breaker


def test_it_opens_after_failures_in_a_row_and_says_for_how_long():
    breaker = broken(Clock())
    assert breaker.state == "open"
    assert breaker.wait(1) == 5


def test_a_success_in_between_starts_the_count_anew():
    breaker = Breaker(Clock(), failures=3)
    for _ in range(10):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert breaker.state == "closed"


def test_half_open_lets_one_probe_through_and_its_success_closes():
    clock = Clock()
    breaker = broken(clock)
    clock.now += 5
    assert breaker.wait(10) == 0
    assert breaker.wait(10) > 0, "one probe at a time"
    breaker.succeeded()
    assert breaker.state == "closed"
    assert breaker.wait(10) == 0


def test_a_failed_probe_doubles_the_pause_up_to_a_limit():
    clock = Clock()
    breaker = broken(clock)
    for expected in (10, 20, 40, LONGEST_SECONDS, LONGEST_SECONDS):
        clock.now += breaker.wait(1)
        assert breaker.wait(1) == 0
        breaker.failed()
        assert breaker.wait(1) == expected


def test_a_dropped_or_lost_probe_lets_another_one_through():
    clock = Clock()
    breaker = broken(clock)
    clock.now += 5
    assert breaker.wait(10) == 0
    breaker.gave_up()
    assert breaker.wait(10) == 0
    clock.now += 10.1
    assert breaker.wait(10) == 0, "the probe's caller never reported"


@given(st.lists(st.sampled_from(["ask", "tick"])))
def test_a_model_that_always_fails_is_asked_ever_less_but_never_given_up(steps: list[str]):
    clock = Clock()
    breaker = broken(clock)
    for step in steps:
        if step == "tick":
            clock.now += 7
        elif breaker.wait(1) == 0:
            breaker.failed()
        assert 0 <= breaker.wait(1) <= LONGEST_SECONDS
        breaker.gave_up()
