from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from infra.redis_wire import RedisAway, RedisError, Script, Wire, _Incomplete, _parse, pack

Answer = Callable[[bytes], bytes | None]
"""From what came in to what goes out; None hangs."""


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[Redis]:
    """Something that speaks enough of Redis' protocol: HELLO is answered, everything else is `answer`'s."""
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while data := await reader.read(65_536):
            if b"HELLO" in data:
                writer.write(b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n")
                continue
            out = answer(data)
            if out is not None:
                writer.write(out)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = Redis(host="127.0.0.1", port=listening.sockets[0].getsockname()[1])
    try:
        yield client
    finally:
        await client.aclose()
        listening.close()
        for writer in writers:
            writer.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def wired(answer: Answer, **options: Any) -> AsyncIterator[Wire]:
    async with server(answer) as client:
        wire = Wire(client, **options)
        try:
            yield wire
        finally:
            await wire.close()


def test_a_command_is_packed_as_redis_reads_it():
    assert pack(("SET", "k", b"\x00\r\n", 7)) == b"*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$3\r\n\x00\r\n\r\n$1\r\n7\r\n"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (b"$3\r\na\r\n\r\n", b"a\r\n"),
        (b"$-1\r\n", None),
        (b"_\r\n", None),
        (b":-7\r\n", -7),
        (b"+OK\r\n", b"OK"),
        (b"*2\r\n:1\r\n*1\r\n$0\r\n\r\n", [1, [b""]]),
        (b"%1\r\n+a\r\n:1\r\n", {b"a": 1}),
        (b"#t\r\n", True),
        (b",1.5\r\n", 1.5),
        (b">1\r\n+x\r\n", [b"x"]),
    ],
)
def test_every_kind_of_answer_is_read_and_none_before_it_is_whole(said: bytes, meant: Any):
    assert _parse(said, 0) == (meant, len(said))
    for cut in range(len(said)):
        with pytest.raises(_Incomplete):
            _parse(said[:cut], 0)


def test_an_error_is_an_answer():
    error, _ = _parse(b"-NOSCRIPT no\r\n", 0)
    assert isinstance(error, RedisError)
    assert str(error) == "NOSCRIPT no"


async def test_what_many_ask_at_once_goes_out_together_and_comes_back_in_order():
    came: list[bytes] = []

    def answer(data: bytes) -> bytes:
        came.append(data)
        return b"".join(b":%d\r\n" % n for n in range(data.count(b"PING")))

    async with wired(answer) as wire:
        await wire.ready()
        answers = await asyncio.gather(*(wire.send(pack(("PING",))) for _ in range(50)))
    assert answers == list(range(50))
    assert len(came) == 1


async def test_messages_come_in_between_answers():
    heard: list[tuple[bytes, bytes]] = []
    async with wired(
        lambda _: b">3\r\n+message\r\n+channel\r\n+hello\r\n+PONG\r\n",
        push=lambda channel, text: heard.append((channel, text)),
    ) as wire:
        assert await wire.run(("PING",)) == [b"PONG"]
    assert heard == [(b"channel", b"hello")]


async def test_a_redis_that_says_nothing_is_away_for_all_at_once_and_then_without_waiting():
    """INVARIANT: if this fails, an unreachable Redis hangs every request."""
    loop = asyncio.get_running_loop()
    states: list[bool] = []
    async with wired(lambda _: None, seconds=0.2, changed=states.append) as wire:
        await wire.ready()
        began = loop.time()
        answers = await asyncio.gather(*(wire.run(("PING",)) for _ in range(20)), return_exceptions=True)
        assert all(isinstance(answer, RedisAway) for answer in answers)
        assert 0.2 <= loop.time() - began < 2.0
        assert states[:2] == [True, False]


async def test_nobody_there_is_said_after_one_look():
    client = Redis(host="127.0.0.1", port=9)
    wire = Wire(client)
    for _ in range(2):
        with pytest.raises(RedisAway):
            await wire.run(("PING",))
    assert not wire.there
    await wire.close()
    await client.aclose()


async def test_scripts_that_were_forgotten_are_loaded_and_called_again():
    calls: list[str] = []

    def answer(data: bytes) -> bytes:
        out = b""
        for part in data.split(b"*")[1:]:
            if b"LOAD" in part:
                calls.append("load")
                out += b"+sha\r\n"
            elif b"EVALSHA" in part:
                calls.append("call")
                out += b"-NOSCRIPT No matching script\r\n" if calls.count("call") == 1 else b":1\r\n"
        return out

    script = Script(b"return 1")
    async with wired(answer) as wire:
        await wire.ready()
        wire._scripts = {b"x": script}
        assert await wire.run(script.call("a")) == [1]
    assert calls == ["call", "load", "call"]


async def test_who_left_takes_no_answer_of_another():

    def answer(data: bytes) -> bytes:
        return b"".join(b":%d\r\n" % n for n in range(data.count(b"PING")))

    async with wired(answer) as wire:
        await wire.ready()
        first, second = wire.send(pack(("PING",))), wire.send(pack(("PING",)))
        first.cancel()
        assert await second == 1
