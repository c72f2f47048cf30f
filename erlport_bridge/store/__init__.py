"""Keep sessions, programs and conversations in a database, so that they outlive their process.

A store is a SQLite file or a PostgreSQL database, named by an address. Each row has a version, and a write names the
version that its writer has seen: a write that saw something older changes nothing, and fails as a conflict. So several
processes may have one store, and each is a cache of it. A conversation has an owner too, the process that used it last:
one that was paused and replaced meanwhile cannot write to it any more.

Nothing here knows what a program is: bodies are JSON text, which :mod:`.terms` writes from terms and reads.
"""

from typing import TYPE_CHECKING

from erlport_bridge.store import terms, transfer
from erlport_bridge.store.address import NAME_VARIABLE, VARIABLE, from_environment, has_password
from erlport_bridge.store.conflict import ConflictError
from erlport_bridge.store.records import (
    ConversationRow,
    ProgramRow,
    SessionRow,
    SpentRow,
    TurnRow,
    VersionRow,
    Versions,
)
from erlport_bridge.store.store import Store

if TYPE_CHECKING:
    # Not imported otherwise: SQLAlchemy is, when a store is opened.
    from erlport_bridge.store.rows import Rows

__all__ = [
    "NAME_VARIABLE",
    "VARIABLE",
    "ConflictError",
    "ConversationRow",
    "ProgramRow",
    "Rows",
    "SessionRow",
    "SpentRow",
    "Store",
    "TurnRow",
    "VersionRow",
    "Versions",
    "from_environment",
    "has_password",
    "terms",
    "transfer",
]
