"""The event loop on which coroutine functions run, in a thread of its own."""

from __future__ import annotations

import asyncio
import sys
import threading

from erlport_bridge.errors import message_of
from erlport_bridge.threads import Threads


def start(threads: Threads) -> asyncio.AbstractEventLoop:
    """Give a loop that runs, until the process ends, in a daemon thread; coroutines hand work to ``threads``."""
    loop = asyncio.new_event_loop()
    loop.set_default_executor(threads)
    threading.Thread(target=_run, args=(loop,), name="loop", daemon=True).start()
    return loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    while not loop.is_closed():
        try:
            loop.run_forever()
        except BaseException as error:  # noqa: BLE001 - the other calls on the loop are still owed their answers
            # asyncio lets SystemExit and KeyboardInterrupt of a task stop the whole loop, after the task has them.
            sys.stderr.write(f"erlport_bridge: a task ended with {type(error).__name__}: {message_of(error)}\n")
