"""The wire as we run it, by raw sockets: smuggling, slow senders, too much of everything. The sources: RFC 9112 (section 11.2,
request smuggling), and what PortSwigger's "HTTP request smuggling" lists of ways to say a length twice."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from infra.http_server import listen
from ingress.server import HttpServer
from ingress.wire import DoorProtocol, WireLimits
from schemas.delivery import Refusal
from tests.ingress.fakes import House, endpoint, house
from tests.ingress.signers import hubspot_v3

EP = endpoint()
BODY = b'[{"portalId":145883449,"objectId":1}]'
LIMITS = WireLimits(headers=20, header_bytes=4_096, header_seconds=0.4, connections=50, idle_seconds=30)
PATH = f"/hooks/{EP.id}".encode()


def signed_head(body: bytes = BODY) -> bytes:
    headers = hubspot_v3(body).request.headers
    return b"".join(b"%b: %b\r\n" % pair for pair in headers.items())


GOOD = b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (PATH, signed_head(), len(BODY), BODY)


@dataclass
class Door:
    house: House
    port: int
    noted: list[tuple[Refusal, str]] = field(default_factory=list)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def send(self, *pieces: bytes, close: bool = False) -> bytes:
        """All that comes back until the door closes the connection, or says nothing more to a sender who is done."""
        reader, writer = await self.open()
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if close:
            writer.write_eof()
        try:
            async with asyncio.timeout(5):
                return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def open_door(limits: WireLimits = LIMITS, **changes) -> AsyncIterator[Door]:
    found = house(EP, **changes)
    await found.make_keys()
    door = Door(found, 0)

    def noted(refusal: Refusal, detail: str) -> str:
        door.noted.append((refusal, detail))
        return "1" * 32

    direct = found.receiver.direct
    server = HttpServer(found.receiver, limits, noted, take=None if direct is None else direct.take)
    listening = listen("127.0.0.1", 0, "ingress_port")
    door.port = listening.getsockname()[1]
    await server.start(listening)
    try:
        yield door
    finally:
        await server.stop()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with open_door() as found:
        yield found


def statuses(answer: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]


LAST = b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % PATH


async def test_a_genuine_request_passes_and_its_connection_goes_on(door: Door):
    assert statuses(await door.send(GOOD + LAST)) == [202, 200]


HIDDEN = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" % PATH
TWO_LENGTHS = {
    "length and chunks": b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
    "two lengths": b"Content-Length: 6\r\nContent-Length: 5\r\n",
    "lengths in a list": b"Content-Length: 6, 5\r\n",
    "a signed length": b"Content-Length: +6\r\n",
    "a negative length": b"Content-Length: -6\r\n",
    "a length in hex": b"Content-Length: 0x6\r\n",
    "a length with a blank inside": b"Content-Length: 1 6\r\n",
    "a length that overflows": b"Content-Length: 99999999999999999999999\r\n",
    "an encoding that is none": b"Transfer-Encoding: xchunked\r\n",
    "chunked not last": b"Transfer-Encoding: chunked, identity\r\n",
    "identity": b"Transfer-Encoding: identity\r\nContent-Length: 6\r\n",
    "chunked twice over two lines": b"Transfer-Encoding: gzip\r\nTransfer-Encoding: identity\r\n",
    "a blank before the colon": b"Transfer-Encoding : chunked\r\nContent-Length: 6\r\n",
    "a folded line": b"Content-Length: 6\r\nTransfer-Encoding:\r\n chunked\r\n",
    "a line feed alone": b"Content-Length: 6\r\nX: y\nTransfer-Encoding: chunked\r\n",
    "a carriage return alone": b"Content-Length: 6\r\nX: y\rTransfer-Encoding: chunked\r\n",
    "a null byte": b"Content-Length: 6\r\nTransfer-Encoding: chun\x00ked\r\n",
    "a vertical tab": b"Content-Length: 6\r\nTransfer-Encoding:\x0bchunked\r\n",
    "no name": b"Content-Length: 6\r\n: chunked\r\n",
}


async def test_a_request_whose_end_can_be_found_in_two_ways_ends_its_connection(door: Door):
    """INVARIANT: what follows a request that is framed ambiguously is never read as a request of its own.

    If this fails, a proxy in front that reads it the other way lets somebody smuggle requests past it.
    """
    for case, headers in TWO_LENGTHS.items():
        head = b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (PATH, headers)
        answer = await door.send(head + b"0\r\n\r\nX" + LAST)
        assert [status >= 400 for status in statuses(answer)] == [True], (case, answer)
        assert b"connection: close" in answer.lower(), (case, answer)
        assert door.house.publisher.outgoing == [], case


CHUNKS = {
    "a size that is none": b"zz\r\n",
    "a signed size": b"+5\r\nabcde\r\n0\r\n\r\n",
    "a size in 0x": b"0x5\r\nabcde\r\n0\r\n\r\n",
    "a size that overflows": b"fffffffffffffffff\r\n",
    "a chunk without its end": b"3\r\nabcd\r\n0\r\n\r\n",
    "a line feed alone after the size": b"3\nabc\r\n0\r\n\r\n",
    "a line feed alone after the chunk": b"3\r\nabc\n0\r\n\r\n",
    "a blank before the size": b" 3\r\nabc\r\n0\r\n\r\n",
}


async def test_chunks_that_can_be_read_in_two_ways_end_the_connection(door: Door):
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % PATH
    for case, chunks in CHUNKS.items():
        answer = await door.send(head + chunks + LAST)
        assert [status >= 400 for status in statuses(answer)] == [True], (case, answer)
        assert door.house.publisher.outgoing == [], case


async def test_a_body_that_looks_like_a_request_stays_a_body(door: Door):
    request = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (PATH, len(GOOD), GOOD)
    assert statuses(await door.send(request + LAST)) == [401, 200]
    assert door.house.publisher.outgoing == []


NO_HTTP = [
    b"GET /hooks/x HTTP/0.9", b"GET /hooks/x HTTP/2.0", b"G\x00T /hooks/x HTTP/1.1", b"get /hooks/x HTTP/1.1",
    b"PRI * HTTP/2.0", b"GET /hooks/\x01x HTTP/1.1", b"\x16\x03\x01\x02\x00\x01\x00", b"GET", b"CONNECT evil:443 HTTP/1.1", b"GET ?x HTTP/1.1",
]  # fmt: skip


async def test_what_is_no_http_gets_one_plain_answer(door: Door):
    for line in NO_HTTP:
        answer = await door.send(line + b"\r\nHost: x\r\n\r\n" + LAST)
        assert statuses(answer) == [400], (line, answer)
        assert b'"cause":"MALFORMED_REQUEST"' in answer, line
        assert b"x-request-id: " + b"1" * 32 in answer, line
    assert {cause for cause, _ in door.noted} == {Refusal.MALFORMED_REQUEST}
    assert len(door.noted) == len(NO_HTTP)


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c"])
async def test_a_change_of_protocol_is_not_made_and_nothing_after_it_is_read(door: Door, upgrade: bytes):
    """INVARIANT: if this fails, `Upgrade` is a tunnel through a proxy's rules."""
    head = b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (PATH, upgrade)
    assert statuses(await door.send(head + GOOD)) == [200]
    assert door.house.publisher.outgoing == []


async def test_a_delivery_that_asks_for_another_protocol_is_refused_for_llhttp_reads_no_body_then(door: Door):
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n%bContent-Length: %d\r\n\r\n" % (
        PATH, signed_head(), len(BODY),
    )  # fmt: skip
    assert statuses(await door.send(head + BODY)) == [400]
    assert door.house.publisher.outgoing == []


@pytest.mark.parametrize("pieces", [
    [b"POST %b HTTP/1.1\r\nHo" % PATH], [b"P"], [b"POST %b HTTP/1.1\r\nHost: x\r\nX-A: " % PATH, b"b"], [b"\r\n\r\n", b"\r\n"],
])  # fmt: skip
async def test_slow_headers_are_cut_off(door: Door, pieces: list[bytes]):
    """INVARIANT: slow-loris. If this fails, a few hundred connections that send a byte now and then keep everybody out."""
    answer = await door.send(*pieces)
    assert 408 in statuses(answer)
    assert b'"cause":"HEADERS_INCOMPLETE"' in answer


async def test_empty_lines_between_requests_buy_no_time(door: Door):
    reader, writer = await door.open()
    writer.write(LAST.replace(b"Connection: close\r\n", b""))
    await reader.readuntil(b"POST.\n")
    writer.write(b"\r\n")
    async with asyncio.timeout(5):
        assert statuses(await reader.read()) == [408]
    writer.close()


async def test_a_byte_now_and_then_buys_no_time(door: Door):
    reader, writer = await door.open()
    dripping = asyncio.create_task(_drip(writer))
    try:
        async with asyncio.timeout(5):
            assert 408 in statuses(await reader.read())
    finally:
        dripping.cancel()
        writer.close()


async def _drip(writer: asyncio.StreamWriter) -> None:
    writer.write(b"POST / HTTP/1.1\r\nX-A: ")
    while True:
        await asyncio.sleep(0.05)  # the attack itself
        writer.write(b"a")


async def test_who_says_nothing_at_all_is_cut_off_later():
    async with open_door(WireLimits(20, 4_096, 0.2, 50, idle_seconds=0.3)) as door:
        assert await door.send() == b""
        assert door.noted == []


async def test_a_slow_body_is_cut_off():
    async with open_door(body_seconds=0.3) as door:
        answer = await door.send(GOOD[:-1])
        assert statuses(answer) == [408]
        assert b'"cause":"BODY_INCOMPLETE"' in answer


LARGE = {
    "many headers": b"".join(b"X-%d: y\r\n" % number for number in range(30)),
    "one large header": b"X: " + b"y" * 5_000 + b"\r\n",
    "an endless header": b"X: " + b"y" * 500_000,
    "an endless name": b"X" * 500_000,
    "large ones together": b"".join(b"X-%d: %b\r\n" % (number, b"y" * 500) for number in range(10)),
}


async def test_too_many_or_too_large_headers_are_refused(door: Door):
    for case, headers in LARGE.items():
        answer = await door.send(b"POST %b HTTP/1.1\r\nHost: x\r\n" % PATH, headers, b"\r\n\r\n")
        assert statuses(answer) == [431], case
        assert b'"cause":"HEADERS_TOO_LARGE"' in answer, case


async def test_an_endless_address_is_refused(door: Door):
    assert statuses(await door.send(b"GET /hooks/" + b"a" * 500_000)) == [431]


async def test_headers_just_below_the_limits_pass(door: Door):
    headers = b"X: " + b"y" * 3_000 + b"\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(15))
    assert statuses(await door.send(LAST.replace(b"Connection", headers + b"Connection"))) == [200]


async def test_one_connection_too_many_hears_when_to_come_again():
    async with open_door(WireLimits(20, 4_096, 5, 3, 30)) as door:
        held = [await door.open() for _ in range(3)]
        for _, writer in held:
            writer.write(b"P")
            await writer.drain()
        answer = await door.send()
        assert statuses(answer) == [503]
        assert b"retry-after: " in answer
        for _, writer in held:
            writer.close()


async def test_rubbish_behind_a_request_in_work_costs_it_nothing():
    """The answer that comes first must belong to the request that came first."""
    arrived, acked = asyncio.Event(), asyncio.Event()

    async def publish(outgoing):
        arrived.set()
        await acked.wait()

    async with open_door(publish=publish) as door:
        asking = asyncio.create_task(door.send(GOOD + b"\x00\x01 rubbish\r\n\r\n"))
        await arrived.wait()
        acked.set()
        assert statuses(await asking) == [202]


async def test_a_repeated_signature_header_counts_once(door: Door):
    forged = GOOD.replace(b"Host: x\r\n", b"Host: x\r\nX-HubSpot-Signature-v3: forged\r\n")
    after = GOOD.replace(b"Content-Length", b"X-HubSpot-Signature-v3: forged\r\nContent-Length")
    assert statuses(await door.send(forged + LAST))[0] in {202, 401}
    assert statuses(await door.send(after + LAST)) == [401, 200]


async def _given(waiting: list) -> object:
    async with asyncio.timeout(5):
        while not waiting:  # noqa: ASYNC110 - the door tells nobody
            await asyncio.sleep(0.005)
    return waiting.pop()


async def test_on_the_short_way_too_answers_wait_for_the_broker_and_keep_their_order():
    waiting: list = []
    async with open_door(offer=lambda _messages, told: waiting.append(told)) as door:
        reader, writer = await door.open()
        writer.write(GOOD + LAST)
        told = await _given(waiting)
        assert door.house.gate.requests == 1
        told(None)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert statuses(answer) == [202, 200]
    assert (door.house.gate.requests, door.house.gate.bytes) == (0, 0)


async def test_a_drain_waits_for_what_is_on_the_short_way():
    """INVARIANT: whoever was taken in is answered. If this fails, a restart makes senders repeat what Kafka has."""
    waiting: list = []
    opened = open_door(offer=lambda _messages, told: waiting.append(told))
    door = await opened.__aenter__()
    reader, writer = await door.open()
    writer.write(GOOD)
    told = await _given(waiting)
    stopping = asyncio.create_task(opened.__aexit__(None, None, None))
    async with asyncio.timeout(5):
        while True:
            try:
                _, other = await door.open()
            except OSError:
                break
            other.close()
    assert not stopping.done()
    told(None)
    answer = await asyncio.wait_for(reader.read(), 5)
    assert statuses(answer) == [202]
    assert b"connection: close" in answer
    writer.close()
    await asyncio.wait_for(stopping, 10)


async def test_who_hangs_up_on_the_short_way_costs_nothing():
    waiting: list = []
    async with open_door(offer=lambda _messages, told: waiting.append(told)) as door:
        _, writer = await door.open()
        writer.write(GOOD)
        told = await _given(waiting)
        writer.transport.abort()
        await asyncio.wait_for(_until_gone(writer), 5)
        told(None)
        assert (door.house.gate.requests, door.house.gate.bytes) == (0, 0)
        assert statuses(await door.send(LAST)) == [200]


async def _until_gone(writer: asyncio.StreamWriter) -> None:
    try:
        await writer.wait_closed()
    except OSError:
        return


async def test_a_body_in_pieces_goes_the_usual_way_and_ends_the_same(door: Door):
    head, _, body = GOOD.partition(b"\r\n\r\n")
    for cut in (1, len(head), len(head) + 4, len(head) + 10, len(GOOD) - 1):
        reader, writer = await door.open()
        writer.write(GOOD[:cut])
        await writer.drain()
        await asyncio.sleep(0.01)  # two segments; should they come as one, the test only sees less
        writer.write(GOOD[cut:] + LAST)
        assert statuses(await asyncio.wait_for(reader.read(), 5)) == [202, 200]
        writer.close()
    assert body == BODY


async def test_who_asks_whether_to_go_on_is_told_and_served(door: Door):
    head, _, body = GOOD.partition(b"\r\n\r\n")
    reader, writer = await door.open()
    for _ in range(2):
        writer.write(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert answer.startswith(b"HTTP/1.1 202 ")
        await reader.readexactly(len(b'{"accepted":true}'))
    writer.close()


async def test_requests_of_one_connection_go_either_way_in_any_order(door: Door):
    """INVARIANT: nothing of a request stays for the next one on its connection. If it fails, one sender's headers count for another's."""
    unsigned = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (PATH, len(BODY), BODY)
    greeting = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % PATH
    reader, writer = await door.open()
    for request, status in [(GOOD, 202), (unsigned, 401), (greeting, 200), (unsigned, 401), (GOOD, 202), (greeting, 200), (GOOD, 202)]:  # fmt: skip
        for cut in (len(request), len(request) - 1):
            writer.write(request[:cut])
            await writer.drain()
            await asyncio.sleep(0 if cut == len(request) else 0.01)
            writer.write(request[cut:])
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert answer.startswith(b"HTTP/1.1 %d " % status)
            length = re.search(rb"content-length: (\d+)", answer)
            assert length is not None
            await reader.readexactly(int(length[1]))
    writer.close()


async def test_a_closed_connection_leaves_nothing_that_waits_for_a_collection():
    """INVARIANT: what belonged to a connection goes with it. If this fails, hundreds of them are collected at once, and meanwhile
    nobody is answered.
    """
    gc.collect()
    gc.disable()
    try:
        async with open_door() as door:
            for number in range(5):
                reader, writer = await door.open()
                writer.write(GOOD if number % 2 else b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
                await reader.readuntil(b"\r\n\r\n")
                writer.close()
                await writer.wait_closed()
            left = True
            for _ in range(500):
                left = any(isinstance(each, DoorProtocol) for each in gc.get_objects())
                if not left:
                    break
                await asyncio.sleep(0.01)
            assert not left
    finally:
        gc.enable()
