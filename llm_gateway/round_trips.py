"""Redis, in as few round trips as there are moments: what many tasks ask in one turn of the loop goes as one pipeline.

Law: no call waits longer than REDIS_SECONDS; when Redis is away every waiting call learns it at once (RedisAway).
A pipeline is no transaction: what must be atomic is one script.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import redis.asyncio
from redis.exceptions import NoScriptError, RedisError

REDIS_SECONDS = 2.0
_MOST_AT_ONCE = 256

Command = tuple[Any, ...]


class RedisAway(Exception):  # noqa: N818 -- reads as what happened
    """Redis did not answer, or answered an error."""


class Script:
    """A Lua script of `llm_gateway/lua`, called by its digest."""

    def __init__(self, name: str) -> None:
        self.text = files("llm_gateway").joinpath("lua", f"{name}.lua").read_bytes()
        # Redis names scripts by SHA-1; it guards nothing.
        self.digest = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str | bytes], *args: Any) -> Command:
        """The command that runs it."""
        return ("EVALSHA", self.digest, len(keys), *keys, *args)


class RoundTrips:
    """Sends commands; used by many tasks of one loop."""

    def __init__(self, client: redis.asyncio.Redis, scripts: Sequence[Script]) -> None:
        self._client = client
        self._scripts = tuple(scripts)
        self._waiting: list[tuple[tuple[Command, ...], asyncio.Future[list[Any]]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self, *commands: Command) -> list[Any]:
        """Each command's answer, in order; raises RedisAway. A command may have been carried out all the same."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append((commands, answer))
        if len(self._waiting) == 1:
            loop.call_soon(self._depart)
        return await answer

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._sending:
            await asyncio.gather(*self._sending, return_exceptions=True)

    def _depart(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), _MOST_AT_ONCE):
            task = asyncio.get_running_loop().create_task(self._send(waiting[start : start + _MOST_AT_ONCE]))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, waiting: list[tuple[tuple[Command, ...], asyncio.Future[list[Any]]]]) -> None:
        commands = [command for asked, _ in waiting for command in asked]
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                answers = await self._execute(commands)
        except (RedisError, OSError, TimeoutError) as error:
            away = RedisAway(f"Redis does not answer ({type(error).__name__})")
            for _, future in waiting:
                if not future.done():
                    future.set_exception(away)
            return
        position = 0
        for asked, future in waiting:
            mine = answers[position : position + len(asked)]
            position += len(asked)
            if future.done():
                continue
            failed = next((answer for answer in mine if isinstance(answer, Exception)), None)
            if failed is None:
                future.set_result(mine)
            else:
                future.set_exception(RedisAway(f"Redis refused a command ({type(failed).__name__})"))

    async def _execute(self, commands: list[Command]) -> list[Any]:
        answers = await self._pipeline(commands)
        lost = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if lost:
            # Redis was restarted, or is new: it takes the scripts again, and those calls did nothing.
            await self._pipeline([("SCRIPT", "LOAD", script.text) for script in self._scripts])
            for index, answer in zip(lost, await self._pipeline([commands[index] for index in lost]), strict=True):
                answers[index] = answer
        return answers

    async def _pipeline(self, commands: list[Command]) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return await pipe.execute(raise_on_error=False)
