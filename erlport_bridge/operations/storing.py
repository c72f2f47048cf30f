"""Stored programs as text, and back."""

from __future__ import annotations

from functools import partial
from typing import Any

from erlport_bridge.operations.operation import operation
from erlport_bridge.operations.port_state import sessions
from erlport_bridge.operations.programs import find_program
from erlport_bridge.optimizing import nearest
from erlport_bridge.programs import execution, models
from erlport_bridge.programs.sessions import stored_form
from erlport_bridge.programs.text import arguments
from erlport_bridge.programs.values import media


@operation
async def dump_program(session_id: object, program_id: object, opts: object = None) -> str:
    """Answer a stored program, with what it has learned, as JSON text; without its model, its session and its turns."""
    given = arguments.options(opts, "opts")
    arguments.only(given, ["version", "session_id"], "option", "opts")
    return stored_form.dump(find_program(session_id, program_id, execution.read_call_options(given)))


@operation
async def load_program(text: object, opts: object = None) -> dict[str, Any]:
    """Store the program that ``dump_program`` gave as a new one; options ``session_id``, ``lm`` and ``allow_urls``."""
    given = arguments.options(opts, "opts")
    arguments.only(given, ["session_id", "lm", "allow_urls"], "option", "opts")
    stored = stored_form.load(text)
    # Of images in its examples.
    media.allow_urls(arguments.boolean(given.get("allow_urls"), "opts.allow_urls"))
    model = None if given.get("lm") is None else models.from_option(given["lm"])
    session_id = arguments.optional_text(given.get("session_id"), "opts.session_id")
    return sessions.add_program(
        stored.spec,
        session_id,
        model=model,
        known=stored.learned,
        compiled=stored.compiled,
        read_neighbours=None if stored.neighbours is None else partial(nearest.read, stored.neighbours),
    ).describe()
