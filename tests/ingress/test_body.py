"""Bodies: what was really read counts, compressed or not."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest

from ingress.body import Body, BodyRefusedError
from ingress.deadlines import Deadlines
from ingress.gate import Gate
from schemas.delivery import Refusal

CAP = 1_000


def chunks(*parts: bytes, last: dict | None = None):
    waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts[:-1]]
    waiting.append(last or {"type": "http.request", "body": parts[-1], "more_body": False})
    count = [0]

    async def receive():
        count[0] += 1
        return waiting.pop(0)

    receive.count = count
    return receive


def endless(size: int = 400):
    count = [0]

    async def receive():
        count[0] += 1
        return {"type": "http.request", "body": b"x" * size, "more_body": True}

    receive.count = count
    return receive


async def read(receive, gate: Gate | None = None, seconds: float = 5.0, repeated=(), **headers: str) -> bytes:
    body = Body(gate or Gate(10, 1_000_000), CAP, Deadlines(seconds))
    try:
        return await body.read(
            receive, {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}, repeated
        )
    finally:
        body.release()


async def refusal(receive, **more) -> BodyRefusedError:
    with pytest.raises(BodyRefusedError) as caught:
        await read(receive, **more)
    return caught.value


async def test_chunks_are_joined_without_a_length():
    assert await read(chunks(b"ab", b"", b"cd")) == b"abcd"


async def test_exactly_the_cap_passes_and_one_more_does_not():
    assert len(await read(chunks(b"x" * CAP))) == CAP
    assert (await refusal(chunks(b"x" * (CAP + 1)))).refusal is Refusal.PAYLOAD_TOO_LARGE
    assert (await refusal(chunks(b"x" * CAP, b"x"))).refusal is Refusal.PAYLOAD_TOO_LARGE


async def test_a_content_length_that_lies_low_changes_nothing():
    assert (await refusal(chunks(b"x" * 600, b"x" * 600), content_length="5")).refusal is Refusal.PAYLOAD_TOO_LARGE


async def test_a_huge_announcement_is_refused_unread():
    receive = endless()
    assert (await refusal(receive, content_length=str(10**9))).refusal is Refusal.PAYLOAD_TOO_LARGE
    assert receive.count == [0]


@pytest.mark.parametrize("length", ["abc", "-1", "", "9" * 30, "1e3"])
async def test_an_unreadable_content_length_is_not_believed(length):
    assert await read(chunks(b"ab"), content_length=length) == b"ab"


async def test_an_endless_body_ends_somewhere_and_holds_no_memory():
    receive, gate = endless(), Gate(10, 1_000_000)
    error = await refusal(receive, gate=gate)
    assert error.refusal is Refusal.PAYLOAD_TOO_LARGE
    assert receive.count[0] < 100
    assert gate.bytes == 0


async def test_a_sender_who_dawdles_is_cut_off():
    async def never():
        await asyncio.Event().wait()

    assert (await refusal(never, seconds=0.01)).refusal is Refusal.BODY_INCOMPLETE


async def test_a_sender_who_hangs_up_hears_nothing():
    error = await refusal(chunks(b"ab", b"", last={"type": "http.disconnect"}))
    assert (error.refusal, error.gone) == (Refusal.BODY_INCOMPLETE, True)


async def test_no_room_is_overload():
    assert (await refusal(chunks(b"x" * 600, b"x" * 300), gate=Gate(10, 700))).refusal is Refusal.OVERLOADED


def _gzip(data: bytes) -> bytes:
    """The same bytes whenever it is made, so that tests keep their names."""
    return gzip.compress(data, mtime=0)


def _deflate(data: bytes, window: int) -> bytes:
    packer = zlib.compressobj(wbits=window)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(("encoding", "packed"), [
    ("gzip", _gzip(b"hello")), ("x-gzip", _gzip(b"hello")), ("GZIP", _gzip(b"hello")),
    ("deflate", zlib.compress(b"hello")), ("deflate", _deflate(b"hello", -15)), ("identity", b"hello"), (" gzip ", _gzip(b"hello")),
])  # fmt: skip
async def test_compressed_bodies_are_opened(encoding, packed):
    assert await read(chunks(packed[:3], packed[3:]), content_encoding=encoding) == b"hello"


@pytest.mark.parametrize(("encoding", "packed", "expected"), [
    ("gzip", _gzip(b"x" * 10_000_000)[:CAP], Refusal.PAYLOAD_TOO_LARGE),
    ("deflate", zlib.compress(b"x" * 200_000), Refusal.PAYLOAD_TOO_LARGE),
    ("gzip", _gzip(b"hello")[:-4], Refusal.BODY_INCOMPLETE),
    ("gzip", b"hello", Refusal.BODY_INCOMPLETE),
    ("deflate", b"\x07hello", Refusal.BODY_INCOMPLETE),
    ("gzip", _gzip(b"a") + _gzip(b"b"), Refusal.UNSUPPORTED_ENCODING),
    ("br", b"hello", Refusal.UNSUPPORTED_ENCODING),
    ("gzip, gzip", _gzip(_gzip(b"a")), Refusal.UNSUPPORTED_ENCODING),
])  # fmt: skip
async def test_bombs_and_broken_ones_are_refused(encoding, packed, expected):
    assert (await refusal(chunks(packed), content_encoding=encoding)).refusal is expected


async def test_two_headers_of_encoding_are_two_encodings():
    packed = _gzip(_gzip(b"a"))
    twice = [(b"content-encoding", b"gzip")] * 2
    error = await refusal(chunks(packed), content_encoding="gzip", repeated=twice)
    assert error.refusal is Refusal.UNSUPPORTED_ENCODING


async def test_a_bomb_is_opened_only_as_far_as_honest_bodies_shrink():
    """INVARIANT: opening costs in proportion to what was sent. If this fails, a few bytes a second occupy a processor."""
    gate = Gate(10, 100_000_000)
    body = Body(gate, 50_000_000, Deadlines(5))
    packed = _gzip(b" " * 20_000_000)
    with pytest.raises(BodyRefusedError) as caught:
        await body.read(chunks(packed), {b"content-encoding": b"gzip"})
    assert caught.value.refusal is Refusal.PAYLOAD_TOO_LARGE
    body.release()
    honest = b"".join(b'{"objectId":%d,"propertyName":"jobtitle"},' % number for number in range(20_000))
    assert await body.read(chunks(_gzip(honest)), {b"content-encoding": b"gzip"}) == honest


async def test_somebody_elses_cancelling_is_not_taken_for_the_clock():
    async def never():
        await asyncio.Event().wait()

    task = asyncio.create_task(Body(Gate(1, 1), CAP, Deadlines(5)).read(never, {}))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
