"""A worker's tie to its parent: when the parent is gone, however it went, the worker drains and ends.

Law: the worker's own work alone; the parent only holds one end of a pipe open for as long as it lives. On every system the pipe's
end-of-file is what the worker's loop hears; on Linux the kernel's own signal comes besides, which reaches a worker, too, whose
loop does not run yet. Both mean SIGTERM: an orderly end, for what is inside has been taken from its sender.
Source: prctl(2), PR_SET_PDEATHSIG: it is of the thread that started the worker, and is lost where the parent died before the call.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys

from infra.telemetry import log

_PR_SET_PDEATHSIG = 1


def follow_parent(pipe: int, *, kernel: bool = True) -> None:
    """End this process by SIGTERM when the writing end of `pipe` is closed; call it from within the running loop, once.

    `kernel`: on Linux ask the kernel as well.
    """
    if kernel and sys.platform == "linux":
        # What it answers does not matter: where it is forbidden the pipe remains.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    loop = asyncio.get_running_loop()

    def heard() -> None:
        loop.remove_reader(pipe)
        log("ingress").warning("parent_gone", doing="draining, then ending")
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(pipe, heard)
