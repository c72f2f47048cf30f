"""Add turns without versions, owners and claims, as if the store had no fence: a fault that checkers must find.

A worker has the fault with ``--preload=tests.store.unfenced_worker``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from erlport_bridge.programs.sessions import Program, Told
from erlport_bridge.programs.sessions.stored_conversations import StoredConversations
from erlport_bridge.store import TurnRow
from erlport_bridge.store.rows import Rows


def _add(program_id: str, conversation_id: str, turns: Sequence[TurnRow], rows: Rows) -> None:
    for turn in turns:
        rows.run(
            "INSERT INTO dspex_turns (program_id, conversation_id, number, body, bytes) "
            "SELECT :p, :c, coalesce(max(number), 0) + 1, :body, 1 FROM dspex_turns "
            "WHERE program_id = :p AND conversation_id = :c",
            p=program_id,
            c=conversation_id,
            body=turn.body,
        )


async def append(
    conversations: StoredConversations, program: Program, told: Told, turns: Sequence[TurnRow], _keep: int | None
) -> None:
    """Add turns in place of :meth:`StoredConversations._append`, whatever others have done meanwhile."""
    assert conversations._store is not None
    await conversations._store.write(partial(_add, program.id, told.conversation.id, turns))
