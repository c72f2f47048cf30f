"""Workers that write to the same conversations at the same time: what was acknowledged is there, in order, once."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from erlport_bridge.programs.sessions.stored_conversations import StoredConversations
from erlport_bridge.store import ConflictError
from tests.store import unfenced
from tests.store.history import History
from tests.store.worker import Worker

_WORKERS = 3
_CALLS = 12
_CONVERSATIONS = ("first", "second")


async def _work(worker: Worker, program_id: str, history: History, chance: random.Random) -> None:
    for _ in range(_CALLS):
        call = history.begin(chance.choice(_CONVERSATIONS))
        try:
            program, told = await worker.begin(program_id, call.conversation)
            call.seen = tuple(turn["question"] for turn in told.turns)
            for _ in range(chance.randrange(4)):  # the model is asked
                await asyncio.sleep(0.001)
            if chance.random() < 0.1:
                # Its memory of everything is gone, as after an eviction.
                worker.sessions.forget(program.session_id)
            await worker.end(program, told, {"question": call.turn, "answer": "-"})
        except ConflictError:
            history.end(call, is_acknowledged=False)
        else:
            history.end(call, is_acknowledged=True)


async def _violations(url: str, seed: int) -> tuple[list[str], int]:
    """Have workers write at the same time; return how the result breaks the rules, and how many calls ended well."""
    history = History()
    workers = [Worker(url) for _ in range(_WORKERS)]
    program = await workers[0].create({"signature": "question -> answer", "history": True}, f"s-{seed}")
    chances = [random.Random(seed + index) for index in range(_WORKERS)]  # noqa: S311 - a seed that is repeated
    await asyncio.gather(
        *(_work(worker, program.id, history, chance) for worker, chance in zip(workers, chances, strict=True))
    )
    reader, found = Worker(url), []
    for conversation in _CONVERSATIONS:
        found += history.violations(conversation, await reader.questions(program.id, conversation))
    for worker in [*workers, reader]:
        worker.store.close()
    return found, sum(call.is_acknowledged for call in history.calls)


@pytest.mark.parametrize("seed", range(3))
def test_acknowledged_turns_are_there_in_order_and_once(url: str, seed: int) -> None:
    found, acknowledged = asyncio.run(_violations(url, seed))
    assert found == []
    assert acknowledged > _CALLS


def test_checker_finds_that_the_fence_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same work without versions, owners and claims breaks the rules, and the checker says so."""
    monkeypatch.setattr(StoredConversations, "_append", unfenced.append)
    found = [one for seed in range(3) for one in asyncio.run(_violations(f"sqlite:///{tmp_path}/{seed}.db", seed))[0]]
    assert any("its call saw" in one for one in found), found
