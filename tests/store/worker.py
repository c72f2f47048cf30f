"""A worker of a store without a port: its registry, and the calls that a test makes through it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from erlport_bridge.optimizing import nearest
from erlport_bridge.programs.sessions import Program, Sessions, StoredSessions, Told
from erlport_bridge.store import Store
from erlport_bridge.store.address import read


class Worker:
    """One worker: a registry with a store of an address."""

    def __init__(self, url: str, **options: Any) -> None:
        self.store = Store(read(url))
        self.sessions = Sessions()
        self.stored = StoredSessions(self.sessions, self.store, read_neighbours=nearest.read, **options)

    async def create(self, spec: object, session_id: str | None = None) -> Program:
        """Create a program."""
        program = self.sessions.build_program(spec, session_id)
        await self.stored.add_program(program)
        return program

    async def find(self, program_id: str, conversation_id: str | None = None) -> Program:
        """Find a program, as a call does that names it and a conversation."""
        await self.stored.refresh(program_id=program_id, conversation_id=conversation_id)
        return self.sessions.find_program(None, program_id)

    async def begin(self, program_id: str, conversation_id: str) -> tuple[Program, Told]:
        """Begin a call that adds a turn to a conversation."""
        program = await self.find(program_id, conversation_id)
        return program, await self.stored.conversations.open(program, conversation_id, None)

    async def end(
        self,
        program: Program,
        told: Told,
        turn: Mapping[str, Any],
        key: str | None = None,
    ) -> None:
        """End such a call with a turn."""
        prediction = {**turn, "$meta": {}}
        await self.stored.conversations.add_turn(program, told, turn, key, prediction)
        program.count_call()

    async def tell(self, program_id: str, conversation_id: str, question: str, key: str | None = None) -> None:
        """Add a turn to a conversation."""
        program, told = await self.begin(program_id, conversation_id)
        await self.end(program, told, {"question": question, "answer": "-"}, key)

    async def questions(self, program_id: str, conversation_id: str) -> list[str]:
        """Return the questions of a conversation."""
        program = await self.find(program_id, conversation_id)
        found = await self.stored.conversations.find(program, conversation_id)
        return [turn["question"] for turn in found.turns()]
