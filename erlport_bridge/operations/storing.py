"""Write stored programs as JSON text, and load them: ``dump_program``, ``load_program`` and ``provide_programs``."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from erlport_bridge.errors import OperationError
from erlport_bridge.limits import ID_BYTES
from erlport_bridge.operations.calls import SESSION_OPTION
from erlport_bridge.operations.operation import operation
from erlport_bridge.operations.port_state import sessions, stored
from erlport_bridge.operations.programs import named_program
from erlport_bridge.optimizing import nearest
from erlport_bridge.programs.execution import COMMON_OPTIONS, VERSION_OPTION
from erlport_bridge.programs.models import LanguageModel
from erlport_bridge.programs.options import UnreadOption, Vocabulary
from erlport_bridge.programs.pipelines import with_models
from erlport_bridge.programs.sessions import Program, stored_form
from erlport_bridge.programs.text import arguments, quoted
from erlport_bridge.programs.values import media
from erlport_bridge.request import weight

_DUMP_OPTIONS: Final = Vocabulary(VERSION_OPTION, SESSION_OPTION)
_LOAD_OPTIONS: Final = Vocabulary(
    SESSION_OPTION,
    COMMON_OPTIONS["lm"],
    COMMON_OPTIONS["allow_urls"],
    UnreadOption(
        name="lms", type_text="map", description="the models of stages and modules of the program, which are not stored"
    ),
)


@operation
async def dump_program(session_id: object, program_id: object, opts: object = None) -> str:
    """Answer a stored program and what it has learned as JSON text, without its model, its session and its turns."""
    read = _DUMP_OPTIONS.read_all(opts)
    program = await named_program(session_id, program_id, read["session_id"], read["version"])
    return await weight.aside(stored_form.dump, program, heavy=weight.is_heavy(program.learned, program.neighbours))


@operation
async def load_program(text: object, opts: object = None) -> dict[str, Any]:
    """Store a dumped program as a new one; the options are ``session_id``, ``lm``, ``lms`` and ``allow_urls``."""
    read = _LOAD_OPTIONS.read_all(opts)
    program = await weight.aside(
        _build, text, read["session_id"], read["lm"], arguments.options(read["lms"], "opts.lms"), read["allow_urls"]
    )
    await stored.add_program(program)
    return program.describe()


@operation
async def provide_programs(programs: object) -> list[dict[str, Any]]:
    """Set the programs of the pool's configuration, in place of those before; ``programs`` has dumped texts by names.

    Calls name them by these names. None is set if one is wrong.
    """
    given = arguments.options(programs, "programs")
    built = {}
    for name, text in given.items():
        try:
            ID_BYTES.check_text(name, "a name")
            # Who writes the configuration decides about the media in the examples.
            built[name] = await weight.aside(_build, text, None, None, {}, True)
        except OperationError as error:
            message = f"program {quoted(name)} cannot be loaded: {error.message}"
            raise OperationError(error.kind, message, path=f"programs.{name}") from None
    sessions.provide(built)
    return [program.describe() for program in built.values()]


def _build(
    text: object, session_id: str | None, model: LanguageModel | None, models: dict[str, Any], allows_urls: bool
) -> Program:
    found = stored_form.load(text)
    # For the media in its examples.
    media.allow_urls(allows_urls)
    return sessions.build_program(
        with_models(found.spec, models),
        session_id,
        model=model,
        known=found.learned,
        compiled=found.compiled,
        read_neighbours=None if found.neighbours is None else partial(nearest.read, found.neighbours),
    )
