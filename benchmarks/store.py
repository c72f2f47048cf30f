"""Measure the store: what it adds to a call of a conversation, and how long a session takes to be read again."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from benchmarks.timing import header, row
from erlport_bridge.term import Atom
from tests.port_process import PortProcess
from tests.store import postgresql
from tests.store.worker import Worker

_ROUNDS = 300
_PROGRAMS = 20
_TURNS = 10
_REBUILDS = 15
_SPEC = {"signature": "question -> answer", "history": True}

# Goals: the most that a store adds to a call, and the most time until a session is there again, in ms.
_MOST_ADDED_MS = {"SQLite": 1.0, "PostgreSQL": 2.0}
_MOST_REBUILD_MS = 100.0


def lines() -> Iterator[str]:
    """Yield the table line by line."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        file = f"sqlite:///{folder}"
        urls = {
            "without a store": None,
            "SQLite (of a pool, synchronous=OFF)": f"{file}/off.db?synchronous=OFF",
            "SQLite (synchronous=NORMAL)": f"{file}/normal.db?synchronous=NORMAL",
            "SQLite (synchronous=FULL)": f"{file}/full.db",
        }
        if postgresql.MISSING is None:
            urls["PostgreSQL on a Unix socket"] = stack.enter_context(postgresql.Server()).url
        yield header("store", "a call of a conversation", "added", "goal", "session of 20 programs, 200 turns")
        for name, times in _calls(stack, urls).items():
            url = urls[name]
            if url is None:
                base = statistics.median(times)
                yield row([name, f"{base:.2f} ms", "", "", ""])
                continue
            added = statistics.median(times) - base
            goal = next(most for database, most in _MOST_ADDED_MS.items() if name.startswith(database))
            rebuild = statistics.median(asyncio.run(_rebuilds(url)))
            rebuilt = f"{rebuild:.0f} ms of {_MOST_REBUILD_MS:.0f}"
            yield row([name, f"{statistics.median(times):.2f} ms", f"{added:+.2f} ms", f"{goal:.0f} ms", rebuilt])


def _calls(stack: ExitStack, urls: dict[str, str | None]) -> dict[str, list[float]]:
    """Return the times of calls with each store, in ms; the ports take turns."""
    ports: dict[str, tuple[PortProcess, str]] = {}
    for name, url in urls.items():
        environment = {} if url is None else {"DSPEX_STORE": url}
        port = stack.enter_context(PortProcess(["--modules=dspy_bridge"], environment=environment))
        port.done("configure_lm", Atom("embedded"), {})
        ports[name] = port, port.done("create_program", _SPEC, {"session_id": "mine"})["id"]
    times: dict[str, list[float]] = {name: [] for name in urls}
    for number in range(_ROUNDS):
        for name, (port, program) in ports.items():
            began = time.perf_counter()
            # A conversation of its own for every ten calls, so that the prompts stay short.
            told = {"conversation": f"c-{number // 10}"}
            port.done("execute_program", None, program, {"question": "Where is Rome? Rome is in Italy."}, told)
            if number >= _ROUNDS // 10:
                times[name].append((time.perf_counter() - began) * 1000)
    return times


async def _rebuilds(url: str) -> list[float]:
    """Return how long a new worker takes to read all of a session, in ms."""
    first = Worker(url)
    programs = [await first.create(_SPEC, "rebuilt") for _ in range(_PROGRAMS)]
    for program in programs:
        turns: list[Any] = [{"question": f"What is {number}?", "answer": "A number."} for number in range(_TURNS)]
        await first.stored.conversations.seed(program, "user", turns)
    times = []
    for _ in range(_REBUILDS):
        worker = Worker(url)
        await worker.stored.all()  # the store is open
        began = time.perf_counter()
        for program in programs:
            assert len(await worker.questions(program.id, "user")) == _TURNS
        times.append((time.perf_counter() - began) * 1000)
        worker.store.close()
    first.store.close()
    return times
