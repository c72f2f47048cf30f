"""Know which worker of a pool this process is, for answers and logs."""

from __future__ import annotations

import os

_number: int | None = None
_node: str | None = None


def set_number(number: int, node: str | None = None) -> None:
    """Set the number that the pool has given to this process, and the name of the pool's node."""
    global _number, _node
    _number, _node = number, node


def number() -> int | None:
    """Return the number of this process among the workers of its pool; ``None``: no pool has started it."""
    return _number


def identity() -> dict[str, str | int | None]:
    """Return ``worker``, the number, ``pid``, the system's id of this process, and ``node``, the name of the BEAM."""
    return {"worker": _number, "pid": os.getpid(), "node": _node}
