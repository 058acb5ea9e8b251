"""Places go round among tenants, and one is always left for whoever comes next."""

from __future__ import annotations

import asyncio
import contextlib

from processors.room import Room


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Guests:
    """Tasks that hold a place until they are let go."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.inside: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.doors: dict[str, asyncio.Event] = {}

    async def come(self, *names: str) -> None:
        for name in names:
            self.doors[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._stay(name))
        await self.settle()

    async def go(self, name: str) -> None:
        self.doors[name].set()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def _stay(self, name: str) -> None:
        async with self.room.of(name.partition("-")[0]):
            self.inside.append(name)
            await self.doors[name].wait()
        self.inside.remove(name)


async def all_of(room: Room, places: int) -> None:
    """Return once each of its places has been had by somebody else."""
    async with asyncio.timeout(5), contextlib.AsyncExitStack() as stack:
        for number in range(places):
            await stack.enter_async_context(room.of(f"guest {number}"))


async def test_a_flood_leaves_a_place_for_whoever_comes_next():
    guests = Guests(Room(4))
    await guests.come(*(f"flood-{number}" for number in range(50)))
    assert len(guests.inside) == 3
    await guests.come("quiet-1")
    assert "quiet-1" in guests.inside
    assert guests.room.free == 0


async def test_a_free_place_goes_to_the_tenant_that_has_fewest():
    guests = Guests(Room(3))
    await guests.come("a-1", "a-2", "a-3", "a-4", "b-1", "b-2", "c-1")
    assert guests.inside == ["a-1", "a-2", "b-1"]
    await guests.go("a-1")
    assert guests.inside[-1] == "c-1"
    await guests.go("b-1")
    assert guests.inside[-1] == "b-2"


async def test_who_is_cancelled_takes_no_place():
    guests = Guests(Room(2))
    await guests.come("a-1", "a-2", "a-3")
    guests.tasks["a-2"].cancel()
    await guests.settle()
    await guests.go("a-1")
    assert guests.inside == ["a-3"]
    await guests.go("a-3")
    assert guests.room.free == 2


async def test_one_place_alone_serves_everybody():
    guests = Guests(Room(1))
    await guests.come("a-1", "a-2")
    await guests.go("a-1")
    assert guests.inside == ["a-2"]


async def test_bulk_work_takes_no_more_than_its_share_and_live_work_is_not_held_up_by_it():
    share = 0.5
    room = Room(8, bulk_share=lambda: share, clock=Clock())
    inside: list[str] = []
    doors: dict[str, asyncio.Event] = {}

    async def stay(name: str, *, bulk: bool) -> None:
        async with room.of(name.partition("-")[0], bulk=bulk):
            inside.append(name)
            await doors.setdefault(name, asyncio.Event()).wait()

    async def settle() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(stay(f"noisy-{number}", bulk=True)) for number in range(9)]
    await settle()
    assert len(inside) == 4
    tasks.append(asyncio.create_task(stay("quiet-1", bulk=False)))
    await settle()
    assert inside[-1] == "quiet-1"
    share = 0.05
    doors[inside[0]].set()
    doors[inside[1]].set()
    await settle()
    assert len(inside) == 5, "it has two places left, which is what it always has"
    doors[inside[2]].set()
    await settle()
    assert len(inside) == 6
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert room.free == 8


async def test_a_place_of_bulk_work_rests_after_its_work_while_it_is_to_give_way():
    """INVARIANT: two places that work without a pause keep a CPU busy. If it fails, giving way gives nothing."""
    share, clock = 0.5, Clock()
    room = Room(4, bulk_share=lambda: share, clock=clock)
    async with room.of("noisy", bulk=True):
        clock.now += 0.02
    assert room.free == 3, "its work is done, and its place is not given back yet"
    async with room.of("quiet"):
        clock.now += 50.0
    assert room.free == 3, "live work rests not"
    await all_of(room, 4)
    share = 1.0
    async with room.of("noisy", bulk=True):
        clock.now += 50.0
    assert room.free == 4
    with contextlib.suppress(LookupError):
        share = 0.5
        async with room.of("noisy", bulk=True):
            clock.now += 50.0
            raise LookupError
    assert room.free == 4, "what failed rests not"


async def test_a_tenant_with_much_waiting_rests_and_one_with_little_does_not():
    clock = Clock()
    room = Room(2, share_of_one=lambda: 0.5, clock=clock)
    done: list[str] = []

    async def work(name: str) -> None:
        async with room.of(name.partition("-")[0]):
            await asyncio.sleep(0)
            clock.now += 0.01
        done.append(name)

    tasks = [asyncio.create_task(work(f"noisy-{number}")) for number in range(6)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert done == ["noisy-0"]
    assert room.free == 1, "the place of the first rests, the other one is free for others"
    await asyncio.wait_for(work("quiet-1"), 5)
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    await all_of(room, 2)


async def test_a_tenant_that_is_to_give_way_keeps_half_of_the_places_and_leaves_the_others():
    guests = Guests(Room(8, share_of_one=lambda: 0.1))
    await guests.come(*(f"flood-{number}" for number in range(9)), "quiet-1", "quiet-2", "other-1")
    assert guests.inside == ["flood-0", "flood-1", "flood-2", "flood-3", "quiet-1", "quiet-2", "other-1"]
    await guests.go("flood-0")
    assert guests.inside[-1] == "flood-4"
