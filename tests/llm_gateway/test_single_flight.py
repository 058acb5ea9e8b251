from __future__ import annotations

import asyncio

import pytest

from llm_gateway.single_flight import SingleFlight


class Question:
    def __init__(self) -> None:
        self.asked = 0
        self.cancelled = 0
        self.go = asyncio.Event()
        self.fail: Exception | None = None

    async def ask(self) -> int:
        self.asked += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fail is not None:
            fail, self.fail = self.fail, None
            raise fail
        return self.asked


async def waiting(flights: SingleFlight[int], question: Question, count: int) -> list[asyncio.Task[tuple[int, bool]]]:
    tasks = [asyncio.create_task(flights.join(b"q", question.ask)) for _ in range(count)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_equal_questions_become_one():
    flights, question = SingleFlight[int](lambda _: False), Question()
    tasks = await waiting(flights, question, 64)
    question.go.set()
    results = await asyncio.gather(*tasks)
    assert question.asked == 1
    assert sorted(joined for _, joined in results) == [False] + [True] * 63


async def test_the_next_time_it_is_asked_again():
    flights, question = SingleFlight[int](lambda _: False), Question()
    question.go.set()
    assert await flights.join(b"q", question.ask) == (1, False)
    assert await flights.join(b"q", question.ask) == (2, False)


async def test_one_who_leaves_takes_nothing_from_the_others():
    flights, question = SingleFlight[int](lambda _: False), Question()
    tasks = await waiting(flights, question, 3)
    tasks[0].cancel()
    question.go.set()
    assert [await task for task in tasks[1:]] == [(1, True), (1, True)]
    assert question.cancelled == 0


async def test_when_all_have_left_the_question_is_dropped():
    flights, question = SingleFlight[int](lambda _: False), Question()
    tasks = await waiting(flights, question, 3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)
    assert question.cancelled == 1
    question.go.set()
    assert await flights.join(b"q", question.ask) == (2, False)


async def test_a_failure_is_everybodys():
    flights, question = SingleFlight[int](lambda _: False), Question()
    tasks = await waiting(flights, question, 3)
    question.fail = RuntimeError("no")
    question.go.set()
    for task in tasks:
        with pytest.raises(RuntimeError):
            await task
    assert question.asked == 1


async def test_a_failure_that_is_the_first_ones_own_is_not_passed_on():
    flights, question = SingleFlight[int](lambda error: isinstance(error, TimeoutError)), Question()
    tasks = await waiting(flights, question, 3)
    question.fail = TimeoutError()
    question.go.set()
    with pytest.raises(TimeoutError):
        await tasks[0]
    assert {result for result, _ in await asyncio.gather(*tasks[1:])} == {2}
