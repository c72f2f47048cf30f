"""The conversations of stored programs: list, read, seed, cut and delete them.

``session_id`` may be ``nil``. None of these operations asks a model, or counts as a call of the program.
"""

from __future__ import annotations

from typing import Any, Final

from erlport_bridge.limits import ID_BYTES
from erlport_bridge.operations.operation import operation
from erlport_bridge.operations.port_state import sessions, stored
from erlport_bridge.programs.options import IntegerOption
from erlport_bridge.programs.sessions import Program, read_program_id
from erlport_bridge.programs.text import arguments
from erlport_bridge.request import weight

_KEEP: Final = IntegerOption(name="keep", minimum=0, maximum=10_000, required=True, description="turns that stay")


@operation
async def list_conversations(session_id: object, program_id: object) -> list[dict[str, Any]]:
    """Answer the conversations of a program, without their turns, in the order in which they began."""
    return await stored.conversations.of(await _program(session_id, program_id))


@operation
async def conversation(session_id: object, program_id: object, conversation_id: object) -> dict[str, Any]:
    """Answer a conversation with its ``turns``, oldest first, in the form that ``seed_conversation`` takes."""
    program = await _program(session_id, program_id)
    found = await stored.conversations.find(program, _text(conversation_id))
    return await weight.aside(found.read, heavy=weight.is_heavy(found.turns()))


@operation
async def seed_conversation(
    session_id: object, program_id: object, conversation_id: object, turns: object
) -> dict[str, Any]:
    """Set the turns of a conversation, which begins if there is none; answers its description.

    A turn is a map of the program's fields; messages with ``role`` and ``content`` are taken where the program has one
    input and one output of text. Of more than 50 turns the last 50 stay.
    """
    program = await _program(session_id, program_id)
    fields = program.turn_fields
    checked = await weight.aside(lambda: fields.converted(fields.terms(turns, "turns"), "turns"))
    return await stored.conversations.seed(program, _text(conversation_id), checked)


@operation
async def cut_conversation(
    session_id: object, program_id: object, conversation_id: object, keep: object
) -> dict[str, Any]:
    """Forget all turns of a conversation but the last ``keep``; answers its description."""
    program = await _program(session_id, program_id)
    return await stored.conversations.cut(program, _text(conversation_id), _KEEP.read(keep, "keep"))


@operation
async def delete_conversation(session_id: object, program_id: object, conversation_id: object) -> dict[str, Any]:
    """Forget a conversation; answers what it was."""
    program = await _program(session_id, program_id)
    return await stored.conversations.delete(program, _text(conversation_id))


async def _program(session_id: object, program_id: object) -> Program:
    """Find a program that keeps conversations.

    Raises:
        OperationError: As :meth:`Sessions.find_program`. Of kind ``input``: the program keeps none.
    """
    named, name = (
        arguments.optional_text(session_id, "session_id", ID_BYTES),
        read_program_id(program_id),
    )
    await stored.refresh(named, program_id=name)
    program = sessions.find_program(named, name)
    program.check_history("program_id")
    return program


def _text(conversation_id: object) -> str:
    return arguments.text(conversation_id, "conversation_id", ID_BYTES)
