"""One connection to Redis that many tasks share: commands go out together, answers and messages come in together.

Law: a Redis that says nothing for `seconds` is away, and then every waiting call learns it at once (`RedisAway`), later
ones without waiting, and a task of its own finds Redis again. No command is sent twice: whoever hears `RedisAway` cannot
know whether it was carried out. A batch is no transaction: what must be atomic is one script.

Why not redis-py for this: its pipeline costs 100 to 250 µs of CPU a trip, this 15 to 20 µs. It still reads the address,
opens TLS contexts and knows passwords: the connection is described by a redis-py client. The protocol is RESP3, where
messages of SUBSCRIBE come in on the same connection: https://github.com/redis/redis-specifications/blob/master/protocol/RESP3.md
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import redis.asyncio
from redis.asyncio.connection import SSLConnection

from infra import refused

REDIS_SECONDS = 2.0
CONNECT_SECONDS = 1.0
LONGEST_PAUSE = 1.0
_FIRST_PAUSE = 0.05
_SECOND_LOOK = 0.1

Command = tuple[str | bytes | int | float, ...]
Push = Callable[[bytes, bytes], None]
"""Called with channel and message."""


class RedisAway(Exception):  # noqa: N818 -- reads as what happened
    """Redis did not answer, or answered an error."""


class RedisError(Exception):
    """Redis answered an error; it stands in place of the answer."""


class Script:
    """A Lua script, called by its digest."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        # Redis names scripts by SHA-1; it guards nothing.
        self.digest = hashlib.sha1(text, usedforsecurity=False).hexdigest()

    def call(self, *args: str | bytes | float) -> Command:
        """The command that runs it; keys are made from arguments, as everything lies on one primary."""
        return ("EVALSHA", self.digest, 0, *args)


def pack(command: Command) -> bytes:
    """The command as Redis reads it."""
    parts = [b"*%d\r\n" % len(command)]
    for part in command:
        value = part if isinstance(part, bytes) else str(part).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(value), value))
    return b"".join(parts)


class _Incomplete(Exception):  # noqa: N818 -- no error: more bytes are on their way
    """The answer is not here yet."""


class _PushMessage(list[Any]):
    """An answer that nobody asked for."""


def _parse(data: bytes | bytearray, at: int) -> tuple[Any, int]:  # noqa: C901, PLR0911, PLR0912 -- one branch a type of RESP3
    end = data.find(b"\r\n", at)
    if end < 0:
        raise _Incomplete
    kind, said, after = data[at], data[at + 1 : end], end + 2
    if kind == 36 or kind == 61:  # noqa: PLR1714 -- $ bulk, = verbatim; two comparisons cost less than a set
        size = int(said)
        if size < 0:
            return None, after
        if len(data) < after + size + 2:
            raise _Incomplete
        return bytes(data[after : after + size]), after + size + 2
    if kind == 58:  # :
        return int(said), after
    if kind == 43:  # +
        return bytes(said), after
    if kind in b"*~>":
        if int(said) < 0:
            return None, after
        items: list[Any] = _PushMessage() if kind == 62 else []
        for _ in range(int(said)):
            item, after = _parse(data, after)
            items.append(item)
        return items, after
    if kind == 45:  # -
        return RedisError(said.decode(errors="replace")), after
    if kind == 95:  # _
        return None, after
    if kind == 37:  # %
        pairs: dict[Any, Any] = {}
        for _ in range(int(said)):
            key, after = _parse(data, after)
            pairs[key], after = _parse(data, after)
        return pairs, after
    if kind == 35:  # boolean
        return said == b"t", after
    if kind == 44:  # double
        return float(said), after
    raise RedisError(f"an answer of a kind that is not known here: {chr(kind)}")


class _Line(asyncio.Protocol):
    """The connection itself."""

    def __init__(self, heard: Callable[[_Line, Any], None], lost: Callable[[_Line], None]) -> None:
        self._heard = heard
        self._lost = lost
        self._rest = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # By what it can do: uvloop's transports are not asyncio's by inheritance.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        held: bytes | bytearray = data
        if self._rest:
            self._rest += data
            held = self._rest
        at = 0
        try:
            while at < len(held):
                value, at = _parse(held, at)
                self._heard(self, value)
        except _Incomplete:
            self._rest = bytearray(held[at:])
        except (RedisError, ValueError):
            self._rest = bytearray()
            self.abort()
        else:
            if self._rest:
                self._rest = bytearray()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 -- the protocol's signature
        self._lost(self)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Wire:
    """See above. Used by the tasks of one loop; connects at first use."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        scripts: Sequence[Script] = (),
        *,
        greeting: Sequence[Command] = (),
        push: Push | None = None,
        changed: Callable[[bool], None] | None = None,
        seconds: float = REDIS_SECONDS,
    ) -> None:
        """`greeting` is sent first on every connection (SUBSCRIBE, for one); `changed` hears True when Redis is there
        (again) and False when it went away; neither may raise.
        """
        self._pool = client.connection_pool
        self._scripts = {script.digest.encode(): script for script in scripts}
        self._greeting = tuple(greeting)
        self._push = push
        self._changed = changed
        self._seconds = seconds
        self._line: _Line | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._out: list[bytes] = []
        self._connecting: asyncio.Task[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._heard_at = 0.0
        self._suspect: asyncio.Future[Any] | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._closed = False
        self._missing = False
        """Redis was looked for, and not found yet."""
        self._refused: str | None = None
        """What to mend, where Redis is there and refuses us."""

    @property
    def there(self) -> bool:
        """Redis answers, as far as is known."""
        return self._line is not None

    async def ready(self) -> None:
        """Return when connected; raises RedisAway after one look, or at once when Redis is known to be away."""
        if self._line is not None:
            return
        if self._closed or self._missing:
            raise self._away()
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect(), name="redis-wire")
        loop = asyncio.get_running_loop()
        until = loop.time() + CONNECT_SECONDS + self._seconds + 0.5
        while self._line is None:
            if self._missing or self._closed or loop.time() > until:
                raise self._away()
            await self._met()

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """Send one packed command, together with all others of this turn of the loop. The future's result is its
        answer; RedisAway and RedisError are raised from it. Nothing is sent while Redis is away.
        """
        # Kept: Python 3.11 asks the kernel for the process' id whenever it is asked for the loop.
        loop = self._loop or asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if self._line is None:
            answer.set_exception(self._away())
            answer.exception()  # whoever does not wait for it need not look
            return answer
        if not self._out:
            loop.call_soon(self._flush)
        self._out.append(packed)
        self._due.append((answer, loop.time()))
        if self._watch is None:
            self._watch = loop.call_later(self._seconds, self._look)
        return answer

    async def run(self, *commands: Command) -> list[Any]:
        """Each command's answer, in order; raises RedisAway, also for an answer that is an error."""
        await self.ready()
        if len(commands) == 1:
            # Nearly always: without a gathering of one, which costs another turn of the loop.
            return [await self.evaluate(pack(commands[0]))]
        answers = await asyncio.gather(*(self.send(pack(command)) for command in commands), return_exceptions=True)
        if any(isinstance(each, RedisError) and str(each).startswith("NOSCRIPT") for each in answers):
            await self.load()
            answers = await asyncio.gather(*(self.send(pack(command)) for command in commands), return_exceptions=True)
        for each in answers:
            if isinstance(each, RedisError):
                raise RedisAway(f"Redis refused a command ({str(each)[:80]})")
            if isinstance(each, BaseException):
                raise each
        return answers

    async def evaluate(self, packed: bytes) -> Any:
        """The answer to one packed call of a script, which is given to Redis again if that forgot it. Raises RedisAway, also
        for an answer that is an error.
        """
        try:
            return await self.send(packed)
        except RedisError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise RedisAway(f"Redis refused a command ({str(error)[:80]})") from error
        await self.load()
        try:
            return await self.send(packed)
        except RedisError as error:
            raise RedisAway(f"Redis refused a command ({str(error)[:80]})") from error

    async def load(self) -> None:
        """Give Redis the scripts, which it forgets when it restarts."""
        await asyncio.gather(*(self.send(pack(("SCRIPT", "LOAD", each.text))) for each in self._scripts.values()))

    async def close(self) -> None:
        """Hang up, after what was sent has been answered or timed out; may be called twice."""
        self._closed = True
        if self._due:
            await asyncio.wait([future for future, _ in self._due], timeout=self._seconds)
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._watch is not None:
            self._watch.cancel()
        if self._line is not None:
            self._line.abort()
            # The transport closes its socket in the loop's next turn.
            await asyncio.sleep(0)
        self._forget()

    # the connection

    def _away(self) -> RedisAway:
        return RedisAway(self._refused or "Redis does not answer")

    async def _met(self) -> None:
        """One more state of the search: found, or looked for in vain."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _tell(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _connect(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while not self._closed:
                line = await self._greeted()
                if line is not None:
                    self._line, self._missing = line, False
                    if self._changed is not None:
                        self._changed(True)
                    self._tell()
                    return
                self._missing = True
                self._tell()
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            self._connecting = None
            self._missing = self._line is None
            self._tell()

    def _tls(self) -> ssl.SSLContext | None:
        """As the client describes it; raises OSError where a file of it cannot be read."""
        if not issubclass(self._pool.connection_class, SSLConnection):
            return None
        described: Any = self._pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py has no types here
        context: ssl.SSLContext = described.ssl_context.get()
        return context

    async def _greeted(self) -> _Line | None:
        loop = self._loop = asyncio.get_running_loop()
        options = self._pool.connection_kwargs
        answers: asyncio.Queue[Any] = asyncio.Queue()
        line = _Line(lambda _line, value: answers.put_nowait(value), lambda _line: answers.put_nowait(None))
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                context = self._tls()
                if "path" in options:
                    await loop.create_unix_connection(lambda: line, options["path"])
                else:
                    await loop.create_connection(
                        lambda: line, options.get("host", "localhost"), options.get("port", 6379), ssl=context
                    )
                hello: Command = ("HELLO", 3)
                if options.get("password"):
                    hello = (*hello, "AUTH", options.get("username") or "default", options["password"])
                commands: list[Command] = [hello]
                if options.get("db"):
                    commands.append(("SELECT", int(options["db"])))
                commands += [("SCRIPT", "LOAD", script.text) for script in self._scripts.values()]
                commands += self._greeting
                assert line.transport is not None
                line.transport.write(b"".join(pack(command) for command in commands))
                for _ in commands:
                    answer = await answers.get()
                    if answer is None or isinstance(answer, RedisError):
                        known = not str(answer).startswith(("WRONGPASS", "NOAUTH"))
                        self._refused = None if known else refused.redis_password()
                        line.abort()
                        return None
        except (OSError, TimeoutError) as error:
            self._refused = refused.redis_client(error)
            line.abort()
            return None
        except asyncio.CancelledError:
            line.abort()
            raise
        if line.transport is None or line.transport.is_closing():
            return None
        self._refused = None
        line._heard = self._heard  # noqa: SLF001 -- the greeting is over: from now on the answers are the callers'
        line._lost = self._lost_line  # noqa: SLF001 -- as above
        return line

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._line is not None and self._line.transport is not None:
            self._line.transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _heard(self, line: _Line, value: Any) -> None:
        if line is not self._line:
            return
        if isinstance(value, _PushMessage):
            if self._push is not None and value[0] == b"message":
                self._push(value[1], value[2])
            return
        if not self._due:
            line.abort()
            return
        answer, _ = self._due.popleft()
        assert self._loop is not None
        self._heard_at = self._loop.time()
        if answer.done():
            return
        if isinstance(value, RedisError):
            answer.set_exception(value)
            answer.exception()  # whoever does not wait for it need not look
        else:
            answer.set_result(value)

    def _lost_line(self, line: _Line) -> None:
        if line is not self._line:
            return
        self._forget()
        if not self._closed:
            # Whoever asks next is told at once; this task alone looks for Redis.
            self._missing = True
            if self._connecting is None:
                self._connecting = asyncio.get_running_loop().create_task(self._connect(), name="redis-wire")

    def _forget(self) -> None:
        was = self._line
        self._line = None
        self._out = []
        due, self._due = self._due, deque()
        for answer, _ in due:
            if not answer.done():
                answer.set_exception(RedisAway("Redis does not answer"))
                answer.exception()
        if was is not None and self._changed is not None and not self._closed:
            self._changed(False)

    def _look(self) -> None:
        """Nothing may wait for longer than `seconds`."""
        self._watch = None
        if not self._due:
            return
        loop = asyncio.get_running_loop()
        # What counts is that Redis says something: behind thousands of others an answer may take longer.
        left = max(self._due[0][1], self._heard_at) + self._seconds - loop.time()
        if left > 0:
            self._watch = loop.call_later(left, self._look)
        elif self._suspect is not self._due[0][0]:
            # The loop itself may have been late, with the answer already in the socket: it is read before this comes again.
            self._suspect = self._due[0][0]
            self._watch = loop.call_later(_SECOND_LOOK, self._look)
        elif self._line is not None:
            line = self._line
            self._lost_line(line)
            line.abort()
