import asyncio
import contextlib
import socket
import struct
import threading
from functools import partial

import pytest
import requests
import urllib3

from infra.crm.calls import Calls, LocalGate, TryAgain, may_have_arrived


def make(**more) -> Calls:
    return Calls("test", **{"concurrency": 2, "attempts": 3, "first_wait_seconds": 0.001, **more})


async def test_a_call_runs_off_the_event_loop():
    calls = make()
    assert await calls.run("a", threading.get_ident) != threading.get_ident()
    await calls.close()
    await calls.close()


async def test_it_is_tried_again_as_often_as_allowed():
    calls, tries = make(), []

    def call():
        tries.append(1)
        raise TryAgain("503")

    with pytest.raises(TryAgain, match="503"):
        await calls.run("a", call)
    assert len(tries) == 3
    await calls.close()


async def test_other_errors_are_not_tried_again():
    calls, tries = make(), []

    def call():
        tries.append(1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await calls.run("a", call)
    assert len(tries) == 1
    await calls.close()


async def test_it_succeeds_after_a_failure():
    calls, tries = make(), []

    def call():
        tries.append(1)
        if len(tries) < 2:
            raise TryAgain("429", after=0.001, account_limit=True)
        return "done"

    assert await calls.run("a", call) == "done"
    await calls.close()


async def test_no_more_calls_at_once_than_the_account_allows():
    """INVARIANT: one account never has more than its share of calls. If it fails, one tenant's burst trips vendors' limits."""
    calls = make(concurrency=2)
    lock, now, most, release = threading.Lock(), [0], [0], threading.Event()

    def call():
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
            if now[0] == 2:
                release.set()
        release.wait(5)
        with lock:
            now[0] -= 1

    await asyncio.gather(*(calls.run("a", call) for _ in range(6)))
    assert most[0] == 2
    await calls.close()


async def test_an_account_on_hold_lets_nobody_in_and_others_pass(monkeypatch):
    now = [0.0]
    gate = LocalGate(1, clock=lambda: now[0])
    waited = []

    async def sleep(seconds):
        waited.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("infra.crm.calls.asyncio.sleep", sleep)
    gate.hold("a", 5.0)
    gate.hold("a", 1.0)
    await gate.enter("b")
    assert waited == []
    await gate.enter("a")
    assert waited == [5.0]
    gate.leave("a")
    gate.leave("b")


async def test_giving_up_while_waiting_gives_the_turn_back():
    gate = LocalGate(1)
    gate.hold("a", 60.0)
    waiting = asyncio.ensure_future(gate.enter("a"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate._closed_until.clear()
    await asyncio.wait_for(gate.enter("a"), 1)


@pytest.mark.parametrize(("unheard", "tries"), [(True, 1), (False, 3)])
async def test_what_must_not_be_done_twice_is_repeated_only_if_it_was_certainly_not_done(unheard, tries):
    calls, tried = make(), []

    def call():
        tried.append(1)
        raise TryAgain("no answer", unheard=unheard)

    with pytest.raises(TryAgain):
        await calls.run("a", call, repeatable=False)
    assert len(tried) == tries
    await calls.close()


def _nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1], contextlib.nullcontext()


def _reads_and_hangs_up():
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listening.accept()
        with connection:
            connection.recv(65_536)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    @contextlib.contextmanager
    def running():
        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()
        listening.close()

    return listening.getsockname()[1], running()


@pytest.mark.parametrize("library", [requests, urllib3])
@pytest.mark.parametrize(("server", "arrived"), [(_nobody_listens, False), (_reads_and_hangs_up, True)])
def test_an_error_of_the_library_tells_whether_the_request_may_have_arrived(library, server, arrived):
    port, running = server()
    url = f"http://127.0.0.1:{port}/"
    if library is requests:
        send = partial(requests.post, url, data=b"x", timeout=5)
    else:
        send = partial(urllib3.PoolManager(retries=urllib3.Retry(total=0)).request, "POST", url, body=b"x", timeout=5)
    with running, pytest.raises((OSError, urllib3.exceptions.HTTPError)) as raised:
        send()
    assert may_have_arrived(raised.value) is arrived
