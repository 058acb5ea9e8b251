from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest

from llm_gateway.attempts import MOST_ATTEMPTS, Attempts
from llm_gateway.breaker import FAILURES
from llm_gateway.prompt import InputRefused, ModelUnavailable
from llm_gateway.providers.provider import Completed, Completion, Headroom, Message, ProviderFailure, QuestionRefused

Move = Exception | Completed


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class Scripted:
    name = "scripted"

    def __init__(self, *moves: Move) -> None:
        self.moves = list(moves)
        self.asked = 0

    async def complete(self, request: Completion) -> Completed:
        self.asked += 1
        move = self.moves.pop(0) if self.moves else Completed("{}", "m")
        if isinstance(move, Exception):
            raise move
        return move

    async def close(self) -> None: ...


def make(seconds: float) -> Completion:
    return Completion("m", (Message("user", "u"),), {}, 10, 0.0, seconds)


def failure(cause: str = "SERVER_ERROR", *, retry: bool = True, after: float | None = None) -> ProviderFailure:
    return ProviderFailure(cause, "as scripted", retry=retry, retry_after=after)  # type: ignore[arg-type]


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def attempts(time: Time) -> Attempts:
    return Attempts(time, sleep=time.sleep)


def within(time: Time, seconds: float = 30.0) -> float:
    return time.now + seconds


async def test_what_may_pass_is_tried_again_with_growing_jittered_pauses(attempts: Attempts, time: Time):
    provider = Scripted(failure("SERVER_ERROR"), failure("CONNECTION"), failure("TIMEOUT"))
    completed, attempt = await attempts.complete(provider, make, "m", within(time))
    assert (completed.text, attempt) == ("{}", 4)
    assert provider.asked == 4
    assert len(time.slept) == 3
    assert all(low <= slept <= 2 * low for slept, low in zip(time.slept, (0.125, 0.25, 0.5), strict=True))


async def test_there_is_an_end_to_trying(attempts: Attempts, time: Time):
    provider = Scripted(*(failure() for _ in range(99)))
    with pytest.raises(ModelUnavailable) as raised:
        await attempts.complete(provider, make, "m", within(time))
    assert raised.value.cause == "SERVER_ERROR"
    assert provider.asked == MOST_ATTEMPTS


@pytest.mark.parametrize("cause", ["AUTHENTICATION", "MODEL_GONE"])
async def test_what_will_not_pass_is_not_tried_again(attempts: Attempts, time: Time, cause: str):
    provider = Scripted(failure(cause, retry=False))
    with pytest.raises(ModelUnavailable) as raised:
        await attempts.complete(provider, make, "m", within(time))
    assert raised.value.cause == cause
    assert (provider.asked, time.slept) == (1, [])


async def test_a_question_that_is_refused_is_not_tried_again_and_is_not_the_models_fault(
    attempts: Attempts, time: Time
):
    provider = Scripted(*(QuestionRefused("too long") for _ in range(20)))
    for _ in range(20):
        with pytest.raises(InputRefused):
            await attempts.complete(provider, make, "m", within(time))
    assert attempts.breaker("scripted", "m").state == "closed"


async def test_retry_after_is_honoured(attempts: Attempts, time: Time):
    provider = Scripted(failure("RATE_LIMITED", after=7.0))
    await attempts.complete(provider, make, "m", within(time))
    assert provider.asked == 2
    assert 7.0 <= sum(time.slept) <= 7.8


async def test_a_wait_that_does_not_fit_is_not_waited(attempts: Attempts, time: Time):
    """INVARIANT: if this fails, callers hang for a provider's whole `retry-after` and learn nothing."""
    provider = Scripted(failure("RATE_LIMITED", after=47.0))
    with pytest.raises(ModelUnavailable) as raised:
        await attempts.complete(provider, make, "m", within(time))
    assert (raised.value.cause, raised.value.retry_after) == ("RATE_LIMITED", 47.0)
    assert time.slept == []


async def test_while_the_provider_wants_quiet_nobody_asks(attempts: Attempts, time: Time):
    provider = Scripted(failure("RATE_LIMITED", after=47.0))
    for expected in (47.0, 47.0):
        with pytest.raises(ModelUnavailable) as raised:
            await attempts.complete(provider, make, "m", within(time))
        assert raised.value.retry_after == pytest.approx(expected)
    assert provider.asked == 1


async def test_a_wait_is_not_begun_where_another_model_can_be_asked(attempts: Attempts, time: Time):
    """INVARIANT: if this fails, a fallback comes after the provider's whole `retry-after`."""
    provider = Scripted(failure("RATE_LIMITED", after=47.0))
    for _ in range(2):
        with pytest.raises(ModelUnavailable) as raised:
            await attempts.complete(provider, make, "m", within(time, 120.0), another=True)
        assert (raised.value.cause, raised.value.retry_after) == ("RATE_LIMITED", 47.0)
    assert (provider.asked, time.slept) == (1, [])
    assert attempts.quiet("scripted", "m") == 47.0
    assert await attempts.complete(provider, make, "m", within(time, 120.0)), "who has nobody else to ask waits"
    assert sum(time.slept) >= 47.0
    assert attempts.quiet("scripted", "m") == 0.0


async def test_a_short_wait_is_waited_though_another_model_can_be_asked(attempts: Attempts, time: Time):
    provider = Scripted(failure("RATE_LIMITED", after=0.5))
    assert await attempts.complete(provider, make, "m", within(time), another=True)
    assert 0.5 <= sum(time.slept) <= 0.6


@pytest.mark.parametrize("left", [Headroom(tokens=0, tokens_reset=3.0), Headroom(requests=0, requests_reset=3.0)])
async def test_headers_that_say_nothing_is_left_are_believed(attempts: Attempts, time: Time, left: Headroom):
    provider = Scripted(Completed("{}", "m", headroom=left))
    await attempts.complete(provider, make, "m", within(time))
    assert time.slept == []
    await attempts.complete(provider, make, "m", within(time))
    assert 3.0 <= sum(time.slept) <= 3.4


async def test_a_day_that_is_spent_is_looked_at_again_as_soon_as_a_request_is_back(attempts: Attempts, time: Time):
    """INVARIANT: if this fails, one header silences a model for a day: without a question nobody learns that it may be asked."""
    heard: list[tuple[Headroom | None, float]] = []
    left = Headroom(requests=0, requests_reset=86_400.0, requests_limit=14_400, tokens=5_000, tokens_reset=1.0)
    provider = Scripted(Completed("{}", "m", headroom=left))
    await attempts.complete(provider, make, "m", within(time), told=lambda *told: heard.append(told))
    assert heard == [(left, 6.0)], "everybody is told"
    await attempts.complete(provider, make, "m", within(time))
    assert 6.0 <= sum(time.slept) <= 6.6


@pytest.mark.parametrize(
    ("left", "seconds"),
    [
        (Headroom(), 0.0),
        (Headroom(requests=1, requests_reset=86_394.0, requests_limit=14_400, tokens=1), 0.0),
        (Headroom(requests=0), 0.0),
        (Headroom(requests=0, requests_limit=14_400), 6.0),
        (Headroom(requests=0, requests_reset=86_400.0, requests_limit=1_000), 60.0),
        (Headroom(requests=0, requests_reset=86_400.0), 60.0),
        (Headroom(requests=0, requests_reset=86_400.0, requests_limit=14_400, tokens=0, tokens_reset=7.5), 7.5),
    ],
)
def test_how_long_nothing_is_left(left: Headroom, seconds: float):
    assert left.spent_for() == seconds


async def test_another_model_is_not_held_up(attempts: Attempts, time: Time):
    provider = Scripted(failure("RATE_LIMITED", after=47.0))
    with pytest.raises(ModelUnavailable):
        await attempts.complete(provider, make, "m", within(time))
    assert await attempts.complete(provider, make, "n", within(time))


async def test_the_circuit_opens_and_a_probe_closes_it(attempts: Attempts, time: Time):
    provider = Scripted(*(failure("AUTHENTICATION", retry=False) for _ in range(FAILURES)))
    for _ in range(FAILURES):
        with pytest.raises(ModelUnavailable):
            await attempts.complete(provider, make, "m", within(time))
    with pytest.raises(ModelUnavailable) as raised:
        await attempts.complete(provider, make, "m", within(time))
    assert raised.value.cause == "CIRCUIT_OPEN"
    assert "AUTHENTICATION" in str(raised.value), "why it is open, and so what to do"
    assert raised.value.retry_after is not None
    assert provider.asked == FAILURES
    time.now += raised.value.retry_after
    assert await attempts.complete(provider, make, "m", within(time))
    assert attempts.breaker("scripted", "m").state == "closed"


async def test_being_rate_limited_opens_no_circuit(attempts: Attempts, time: Time):
    provider = Scripted(*(failure("RATE_LIMITED", after=0.1) for _ in range(3 * FAILURES)))
    for _ in range(3):
        with pytest.raises(ModelUnavailable):
            await attempts.complete(provider, make, "m", within(time))
    assert attempts.breaker("scripted", "m").state == "closed"


async def test_a_model_that_never_answers_is_cut_off_in_time():
    class Hangs(Scripted):
        async def complete(self, request: Completion) -> Completed:
            self.asked += 1
            await asyncio.Event().wait()
            raise AssertionError

    clock: Callable[[], float] = asyncio.get_running_loop().time
    began = clock()
    provider = Hangs()
    with pytest.raises(ModelUnavailable) as raised:
        await Attempts(clock).complete(provider, make, "m", began + 0.3)
    assert raised.value.cause == "TIMEOUT"
    assert clock() - began < 0.45


class Slow(Scripted):
    """Answers after some seconds, or lets the connection stand as long."""

    def __init__(self, time: Time, seconds: float, *moves: Move) -> None:
        super().__init__(*moves)
        self.time, self.seconds = time, seconds
        self.allowed: list[float] = []

    async def complete(self, request: Completion) -> Completed:
        self.allowed.append(request.timeout)
        self.time.now += self.seconds
        return await super().complete(request)


async def test_an_answer_that_takes_most_of_the_time_is_waited_for(attempts: Attempts, time: Time):
    """INVARIANT: if this fails, an answer of 75 s is asked for four times within 120 s, paid for each time and never heard."""
    provider = Slow(time, 75.0)
    assert await attempts.complete(provider, make, "m", within(time, 120.0))
    assert provider.allowed == [pytest.approx(119.75)]


async def test_a_timeout_is_tried_again_only_where_more_time_is_left_than_it_took(attempts: Attempts, time: Time):
    long, short = Slow(time, 75.0, failure("TIMEOUT")), Slow(time, 5.0, failure("TIMEOUT"))
    with pytest.raises(ModelUnavailable, match="TIMEOUT"):
        await attempts.complete(long, make, "m", within(time, 120.0))
    assert long.asked == 1
    assert await attempts.complete(short, make, "n", within(time, 120.0))
    assert short.asked == 2


@dataclass
class Told:
    unheard: int = 0


@pytest.mark.parametrize(
    ("move", "unheard"),
    [
        (Completed("{}", "m"), 0),
        (failure("SERVER_ERROR", retry=False), 0),
        (failure("CONNECTION", retry=False), 0),
        (QuestionRefused("too long"), 0),
        (failure("TIMEOUT", retry=False), 1),
    ],
)
async def test_what_was_sent_and_not_heard_of_is_told(attempts: Attempts, time: Time, move: Move, unheard: int):
    sent = Told()
    with suppress(ModelUnavailable, InputRefused):
        await attempts.complete(Scripted(move), make, "m", within(time), sent=sent)
    assert sent.unheard == unheard


async def test_what_is_dropped_while_the_provider_has_it_is_not_heard_of(attempts: Attempts, time: Time):
    class Hangs(Scripted):
        async def complete(self, request: Completion) -> Completed:
            began.set()
            await asyncio.Event().wait()
            raise AssertionError

    began, sent = asyncio.Event(), Told()
    asking = asyncio.create_task(
        attempts.complete(Hangs(), make, "m", asyncio.get_running_loop().time() + 1e6, sent=sent)
    )
    await began.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert sent.unheard == 1


async def test_a_deadline_that_is_over_asks_nobody(attempts: Attempts, time: Time):
    provider = Scripted()
    with pytest.raises(ModelUnavailable):
        await attempts.complete(provider, make, "m", time.now)
    assert provider.asked == 0


async def test_a_model_that_a_client_made_up_opens_no_circuit(time: Time):
    attempts = Attempts(time, sleep=time.sleep, named_by_clients=True)
    provider = Scripted(*(failure("MODEL_GONE", retry=False) for _ in range(FAILURES + 2)))
    for _ in range(FAILURES + 2):
        with pytest.raises(ModelUnavailable, match="MODEL_GONE"):
            await attempts.complete(provider, make, "no-such-model", time() + 10)
    assert attempts.breaker("scripted", "no-such-model").state == "closed"
