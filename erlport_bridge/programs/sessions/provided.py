"""Distinguish the programs of a pool's configuration from those that callers create.

Every worker has them under their names, from texts that ``dump_program`` wrote. They belong to a session of the pool,
which is always in use and never stored, and calls cannot change them: the workers of the pool would differ then, and a
restart would undo the change.
"""

from __future__ import annotations

from typing import Final

from erlport_bridge.errors import OperationError

#: The session of the programs that the configuration of the pool names.
POOL_SESSION: Final = "$pool"


def check_changeable(session_id: str | None, path: str = "session_id") -> None:
    """Check that a session, or what belongs to it, may be changed by a call.

    Raises:
        OperationError: Of kind ``input``: it is the session of the pool's own programs.
    """
    if session_id == POOL_SESSION:
        message = f'the programs of session "{POOL_SESSION}" are those of the pool\'s configuration, and stay as their '
        message += "files have them; change a copy: load_program(text of the file), and compile or delete that"
        raise OperationError("input", message, path=path)
