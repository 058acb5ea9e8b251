"""The Lua scripts, each put together from its parts: what is atomic for all replicas is decided in them alone.

Law: importing reads nothing; `load` does, once, when a gateway is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from infra.redis_wire import Script


@dataclass(frozen=True, slots=True)
class Scripts:
    """All of them."""

    admit: Script
    settle: Script
    tick: Script
    restore: Script
    confirm: Script
    observe: Script
    alive: Script
    breaker: Script

    def all(self) -> tuple[Script, ...]:
        """In no order."""
        return (self.admit, self.settle, self.tick, self.restore, self.confirm, self.observe, self.alive, self.breaker)


@lru_cache(maxsize=1)
def load() -> Scripts:
    """Read them (blocks; once a process)."""

    def made(*parts: str) -> Script:
        folder = files("llm_gateway").joinpath("lua")
        return Script(b"\n".join(folder.joinpath(f"{part}.lua").read_bytes() for part in ("prelude", *parts)))

    return Scripts(
        admit=made("window", "line", "admit"),
        settle=made("window", "line", "settle"),
        tick=made("window", "line", "tick"),
        restore=made("restore"),
        confirm=made("confirm"),
        observe=made("window", "observe"),
        alive=made("alive"),
        breaker=made("breaker"),
    )
