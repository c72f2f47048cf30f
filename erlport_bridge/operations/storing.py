"""Write stored programs as JSON text, and load them: ``dump_program`` and ``load_program``."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from erlport_bridge.operations.calls import SESSION_OPTION
from erlport_bridge.operations.operation import operation
from erlport_bridge.operations.port_state import sessions
from erlport_bridge.operations.programs import named_program
from erlport_bridge.optimizing import nearest
from erlport_bridge.programs.execution import COMMON_OPTIONS, VERSION_OPTION
from erlport_bridge.programs.options import Vocabulary
from erlport_bridge.programs.sessions import stored_form
from erlport_bridge.programs.values import media

_DUMP_OPTIONS: Final = Vocabulary(VERSION_OPTION, SESSION_OPTION)
_LOAD_OPTIONS: Final = Vocabulary(SESSION_OPTION, COMMON_OPTIONS["lm"], COMMON_OPTIONS["allow_urls"])


@operation
async def dump_program(session_id: object, program_id: object, opts: object = None) -> str:
    """Answer a stored program and what it has learned as JSON text, without its model, its session and its turns."""
    read = _DUMP_OPTIONS.read_all(opts)
    return stored_form.dump(named_program(session_id, program_id, read["session_id"], read["version"]))


@operation
async def load_program(text: object, opts: object = None) -> dict[str, Any]:
    """Store a dumped program as a new one; the options are ``session_id``, ``lm`` and ``allow_urls``."""
    read = _LOAD_OPTIONS.read_all(opts)
    stored = stored_form.load(text)
    # For the media in its examples.
    media.allow_urls(read["allow_urls"])
    return sessions.add_program(
        stored.spec,
        read["session_id"],
        model=read["lm"],
        known=stored.learned,
        compiled=stored.compiled,
        read_neighbours=None if stored.neighbours is None else partial(nearest.read, stored.neighbours),
    ).describe()
