"""Hold one session: a set of programs with a default model."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from erlport_bridge.programs.models import Budget, LanguageModel
from erlport_bridge.programs.sessions import uses
from erlport_bridge.programs.sessions.program import Program
from erlport_bridge.programs.text import quoted


@dataclass
class Session:
    """A set of programs with a default model.

    Attributes:
        programs: The newest version of each program, by id.
        versions: All versions of each program, by id and version number.
        users: How many running operations use it.
        is_closed: Whether it is found no more, except by the operations that used it when it was closed.
        budget: What the calls of the session may spend.
        row: The version of its row in the store from which it is; ``None``: it is not stored yet.
    """

    id: str
    model: LanguageModel | None = None
    programs: dict[str, Program] = field(default_factory=dict)
    versions: dict[str, dict[int, Program]] = field(default_factory=dict)
    created_at: float = field(default_factory=time.time)
    used_at: float = field(default_factory=time.monotonic)
    users: int = 0
    is_closed: bool = False
    budget: Budget = field(init=False)
    row: int | None = None

    def __post_init__(self) -> None:
        self.budget = Budget(f"session {quoted(self.id)}")

    def describe(self) -> dict[str, Any]:
        """Return the session as a term; times are in milliseconds."""
        return {
            "id": self.id,
            "programs": list(self.programs),
            "model": self.model.model if self.model else None,
            "created_at_ms": round(self.created_at * 1000),
            "idle_ms": uses.idle_ms(self),
            "budget": self.budget.describe(),
        }
