"""Workers that are killed or paused while they write: what was acknowledged is there, in order and once.

The history of all calls is recorded, and checked by the rules of :mod:`tests.store.history`. ``CHAOS_ROUNDS`` is the
number of kills of the long tests, ``CHAOS_SEED`` repeats a run.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.model_server import ModelServer
from tests.proc import HAS_PROC
from tests.store.history import Call, History
from tests.template_process import TemplateProcess

pytestmark = pytest.mark.skipif(not HAS_PROC, reason="the system has no /proc")

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "40"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
SPEC = {"signature": "question -> answer", "history": True}
# So many rounds write to the same conversations, which keep their last 50 turns.
_ROUNDS_OF_CONVERSATION = 8
_KEY = "key-of-the-tests"
_TURN = re.compile(r"turn \d+")


class Pool:
    """Two workers of a store, with the history of their calls.

    Args:
        template: Forks the workers.
        server: Their model, whose requests show what each call has seen.
    """

    def __init__(self, template: TemplateProcess, server: ModelServer) -> None:
        self._template, self._server = template, server
        self.history = History()
        self.chance = random.Random(SEED)  # noqa: S311 - a seed that is repeated
        self.kills = self.pauses = self.unknown = 0
        self.workers = [template.worker(), template.worker()]
        self.pids = [worker.python() for worker in self.workers]
        first = self.workers[0]
        self._model = {"model": "delay-20", "api_base": f"{server.url}/v1", "api_key": _KEY, "num_retries": 0}
        first.done("configure_lm", "openai", self._model, {"session_id": "mine"})
        self.program = first.done("create_program", SPEC, {"session_id": "mine"})["id"]

    def begin(self, place: int, conversation: str, delay_ms: int | None = None) -> Call:
        """Begin a call in a worker; its model takes ``delay_ms`` if that is given."""
        call = self.history.begin(conversation)
        given = {} if delay_ms is None else {"lm": {**self._model, "provider": "openai", "model": f"delay-{delay_ms}"}}
        self._send(place, call, given)
        return call

    def _send(self, place: int, call: Call, given: Mapping[str, Any] = MappingProxyType({})) -> None:
        options = {"conversation": call.conversation, "request_id": call.turn, **given}
        arguments = [None, self.program, {"question": call.turn}, options]
        self.workers[place].send_call("dspy_bridge", "execute_program", arguments)

    def end(self, place: int, call: Call) -> str:
        """Wait for the end of a call: ``ok``, ``error``, or ``unknown`` if its worker was killed."""
        try:
            while (answer := self.workers[place].receive())[0] == "L":
                pass
        except EOFError:
            self.unknown += 1
            return "unknown"
        status, details = answer[2]
        if status == "error":
            # `store`: what was not answered in time may be stored.
            assert details[1]["kind"] == "conflict", details
        self.history.end(call, is_acknowledged=status == "ok")
        return str(status)

    def kill(self, place: int) -> None:
        """Kill a worker, as the kernel does when there is no memory."""
        os.kill(self.pids[place], signal.SIGKILL)
        self.kills += 1

    def replace(self, place: int) -> None:
        """Start a worker in the place of one that has ended."""
        self.workers[place].__exit__(None, None, None)
        self.workers[place] = self._template.worker()
        self.pids[place] = self.workers[place].python()

    def repeat(self, place: int, call: Call) -> None:
        """Make a call again whose outcome is not known."""
        self._send(place, call)
        self.end(place, call)

    def violations(self) -> list[str]:
        """Return how what is stored breaks the rules."""
        seen: dict[str, tuple[str, ...]] = {}
        for request in self._server.requests:
            # Of a worker that was killed while it asked, there is half a request.
            if turns := list(dict.fromkeys(_TURN.findall(repr(request.body.get("messages"))))):
                seen[turns[-1]] = tuple(turns[:-1])
        for call in self.history.calls:
            call.seen = seen.get(call.turn, ())
        found = []
        with self._template.worker() as reader:
            for conversation in {call.conversation for call in self.history.calls}:
                status, read = reader.operate("conversation", None, self.program, conversation)
                stored = [turn["question"] for turn in read["turns"]] if status == "ok" else []
                found += self.history.violations(conversation, stored)
        return found

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            worker.__exit__(None, None, None)


@contextmanager
def pool_of(url: str, *flags: str) -> Iterator[Pool]:
    """Yield two workers of a store."""
    preload = ["--preload=dspy_bridge", "--preload=erlport_bridge.store.database", *flags]
    names = ",".join(flag.removeprefix("--preload=") for flag in preload)
    environment = {"DSPEX_STORE": url, "THE_KEY": _KEY}
    with ModelServer() as server, TemplateProcess([f"--preload={names}"], environment) as template:
        pool = Pool(template, server)
        try:
            yield pool
        finally:
            pool.close()


def kill_workers(pool: Pool, rounds: int) -> None:
    """Kill one of two workers again and again, while both write."""
    for number in range(rounds):
        conversation = f"c{number // _ROUNDS_OF_CONVERSATION}"
        calls = [pool.begin(place, f"{conversation}-{pool.chance.randrange(2)}") for place in range(2)]
        time.sleep(pool.chance.random() * 0.12)
        killed = pool.chance.randrange(2)
        pool.kill(killed)
        outcomes = [pool.end(place, call) for place, call in enumerate(calls)]
        pool.replace(killed)
        if outcomes[killed] == "unknown" and pool.chance.random() < 0.5:
            pool.repeat(killed, calls[killed])


def pause_workers(pool: Pool, rounds: int) -> None:
    """Pause a worker in the middle of a call, have the other one go on, and wake the first, which must not write."""
    for number in range(rounds):
        conversation = f"p{number // _ROUNDS_OF_CONVERSATION}"
        paused, other = pool.chance.sample([0, 1], 2)
        asked = len(pool._server.requests)
        # Long enough to be stopped before the answer: in the middle of a write it would keep the other one waiting.
        late = pool.begin(paused, conversation, delay_ms=1_000)
        pool._server.wait_for_requests(asked + 1)
        os.kill(pool.pids[paused], signal.SIGSTOP)
        pool.pauses += 1
        try:
            assert pool.end(other, pool.begin(other, conversation)) == "ok"
        finally:
            with suppress(ProcessLookupError):
                os.kill(pool.pids[paused], signal.SIGCONT)
        pool.end(paused, late)


def check(url: str, kills: int, pauses: int) -> None:
    """Kill and pause workers, and check the history."""
    with pool_of(url) as pool:
        kill_workers(pool, kills)
        pause_workers(pool, pauses)
        calls = pool.history.calls
        acknowledged = sum(call.is_acknowledged for call in calls)
        print(  # noqa: T201 - the figures of `make chaos`
            f"{url.partition(':')[0]}: {pool.kills} kills, {pool.pauses} pauses, {len(calls)} calls, {acknowledged} "
            f"acknowledged, {pool.unknown} cut off"
        )
        assert pool.violations() == []
        assert acknowledged >= kills // 2 + pauses


def test_acknowledged_turns_survive_kills_and_pauses(tmp_path: Path) -> None:
    check(f"sqlite:///{tmp_path}/dspex.db", 4, 2)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_acknowledged_turns_survive_many_kills_and_pauses(url: str) -> None:
    check(url, ROUNDS, max(1, ROUNDS // 5))


def test_checker_finds_what_a_paused_worker_writes_without_the_fence(tmp_path: Path) -> None:
    with pool_of(f"sqlite:///{tmp_path}/dspex.db", "--preload=tests.store.unfenced_worker") as pool:
        pause_workers(pool, 2)
        found = pool.violations()
    assert any("its call saw" in one for one in found), found
